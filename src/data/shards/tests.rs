//! Any bytes are an archive whose samples lie within it, or a problem in words.

use std::fs::File;
use std::io::Write;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::indexing::read_index;
use super::*;

/// A member: its name, what it is, and its content.
type Made = (&'static str, EntryType, &'static [u8]);

fn archive(members: &[Made]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in members {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn file(name: &'static str, content: &'static [u8]) -> Made {
    (name, EntryType::Regular, content)
}

fn usual() -> Vec<u8> {
    archive(&[file("a.cls", b"3"), file("a.jpg", &[7; 700]), file("b.png", b"xy"), file("b.cls", b"11\n")])
}

#[test]
fn samples_are_in_the_order_of_their_images() {
    let expected = [(1536, 700, 3, "a.jpg".to_owned()), (3072, 2, 11, "b.png".to_owned())];
    assert_eq!(shard_samples(&usual()).unwrap(), expected);
    // Members of a sample need not be neighbors.
    let apart = archive(&[file("x.jpg", b"x"), file("y.WEBP", b"y"), file("y.CLS", b"0"), file("x.cls", b"1")]);
    let samples = shard_samples(&apart).unwrap();
    assert_eq!(samples.iter().map(|sample| (sample.2, &*sample.3)).collect::<Vec<_>>(), [(1, "x.jpg"), (0, "y.WEBP")]);
}

#[test]
fn a_truncated_archive_is_refused() {
    let whole = usual();
    let members = 4608;
    for length in 1..whole.len() {
        let found = shard_samples(&whole[..length]);
        // Programs write two blocks of zeros or more; one says that nothing is missing.
        assert_eq!(found.as_ref().ok().map(Vec::len), (length >= members + 512).then_some(2), "{length}: {found:?}");
    }
    assert!(shard_samples(&whole[..1900]).unwrap_err().contains("a.jpg ends at byte 2560 of 1900"));
    // Cuts between two members.
    for length in [2560, members] {
        assert!(shard_samples(&whole[..length]).unwrap_err().starts_with("is truncated"));
    }
    assert!(shard_samples(&[]).unwrap_err().starts_with("is empty"));
}

#[test]
fn nothing_but_zeros_may_follow_the_end() {
    let followed = |rest: &[u8]| shard_samples(&[&usual(), rest].concat());
    for zeros in [1, 512, 10240, (1 << 20) - 512] {
        assert_eq!(followed(&vec![0; zeros]).unwrap().len(), 2, "{zeros}");
    }
    let mut late = vec![0; 10240];
    late[9000] = 1;
    for rest in [&usual()[..], &late, &vec![0; 1 << 20]] {
        let problem = followed(rest).unwrap_err();
        assert!(problem.contains("behind its end at byte 5120") && problem.contains("tar -A"), "{problem}");
    }
}

#[test]
fn long_names_are_cut_in_messages_and_those_beyond_any_file_system_are_passed_over() {
    let long =
        |length: usize, extension: &str| -> &'static str { format!("{}.{extension}", "x".repeat(length)).leak() };
    let twice = archive(&[file(long(3000, "jpg"), b"x"), file(long(3000, "png"), b"y")]);
    let wrong = archive(&[file("a.jpg", b"x"), file(long(3000, "cls"), b"one")]);
    let whole = archive(&[file(long(3000, "jpg"), b"x")]);
    for bytes in [&twice, &wrong, &whole[..whole.len() - 1536]] {
        let problem = shard_samples(bytes).unwrap_err();
        assert!(problem.contains("xxx...") && problem.len() < 500, "{problem}");
    }
    let mut passed_over = PassedOver::new();
    let bytes = archive(&[file(long(5000, "jpg"), b"x"), file("a.jpg", b"x")]);
    let index = Index::read(std::io::Cursor::new(&bytes), bytes.len() as u64, &mut passed_over).unwrap();
    assert_eq!((index.len(), passed_over["names of more than 4096 bytes"]), (1, 1));
}

#[test]
fn what_is_no_archive_is_told_apart() {
    for (bytes, named) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0"[..], "gunzip -k"),
        (b"\x28\xb5\x2f\xfd....", "zstd -d"),
        (b"\xfd7zXZ\0..", "xz -dk"),
        (&[b'x'; 2000], "no tar archive"),
        (b"x", "no tar archive"),
        (&[0; 1024], "no images"),
    ] {
        let problem = shard_samples(bytes).unwrap_err();
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn keys_are_for_one_sample() {
    for (members, named) in [
        (vec![file("a.jpg", b"x"), file("a.cls", b"1"), file("a.jpg", b"y")], "two images for the key a,"),
        (vec![file("d/a.jpg", b"x"), file("d/a.cls", b"1"), file("d/a.png", b"y")], "d/a.jpg and d/a.png"),
        (vec![file("a.jpg", b"x"), file("a.cls", b"1"), file("a.cls", b"1")], "two classes for the key a"),
        (vec![file("a.jpg", b"x"), file("a.cls", b"one")], "a.cls contains \"one\""),
        (vec![file("a.jpg", b"x"), file("b.jpg", b"x"), file("c.cls", b"1")], "2 images, but the class of none"),
        (vec![file("a.b.jpg", b"x"), file("a.cls", b"1")], "contains no images"),
        (vec![], "contains no images"),
    ] {
        let problem = shard_samples(&archive(&members)).unwrap_err();
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn what_is_passed_over_is_counted() {
    let mut passed_over = PassedOver::new();
    let bytes = archive(&[
        ("d/", EntryType::Directory, b""),
        file("d/a.jpg", b"x"),
        file("d/a.json", b"{}"),
        file("d/a.cls", b"0"),
        file("d/a.mask.png", b"m"),
        file("._a.jpg", b"x"),
        file("README", b"x"),
        ("c.jpg", EntryType::Symlink, b""),
        ("e.jpg", EntryType::Link, b""),
        file("lonely.jpg", b"x"),
        file("lost.cls", b"5"),
        ("g", EntryType::XGlobalHeader, b"15 comment=made\n"),
    ]);
    let index = Index::read(std::io::Cursor::new(&bytes), bytes.len() as u64, &mut passed_over).unwrap();
    assert_eq!((index.len(), index.name(0)), (1, "d/a.jpg"));
    let counts: Vec<(&str, u64)> = passed_over.iter().map(|(what, times)| (what.as_str(), *times)).collect();
    let expected = [(".cls without an image", 1), (".json", 1), (".png", 1), ("images without .cls", 1), ("links", 2)];
    assert_eq!(counts, expected);
}

/// A header for what follows, as of a long name, that claims `claimed` bytes.
fn claims(kind: EntryType, claimed: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(kind);
    header.set_size(claimed);
    header.set_cksum();
    header
}

/// A hole in a file takes no space, and reads as zeros.
#[test]
fn a_header_that_claims_a_terabyte_takes_no_memory() {
    let place = tempfile::tempdir().unwrap();
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let path = place.path().join("shard.tar");
        let mut file = File::create(&path).unwrap();
        file.write_all(claims(kind, 1 << 40).as_bytes()).unwrap();
        file.set_len(1 << 41).unwrap();
        let problem = read_index(&path).err().unwrap().to_string();
        assert!(problem.contains("the headers of a member have more than 1048576 bytes"), "{problem}");
    }
}

#[test]
fn sizes_of_extended_headers_and_of_binary_numbers_count() {
    let mut bytes = Vec::new();
    // A size that is in the extended header alone.
    let records = b"12 size=700\n";
    bytes.extend_from_slice(claims(EntryType::XHeader, records.len() as u64).as_bytes());
    bytes.extend_from_slice(records);
    bytes.resize(1024, 0);
    let mut member = claims(EntryType::Regular, 0);
    member.set_path("a.jpg").unwrap();
    member.set_cksum();
    bytes.extend_from_slice(member.as_bytes());
    bytes.resize(1024 + 512 + 1024, 9);
    // Base 256: the first bit of the field is set.
    let mut member = claims(EntryType::Regular, 0);
    member.set_path("a.cls").unwrap();
    member.as_mut_bytes()[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    member.set_cksum();
    bytes.extend_from_slice(member.as_bytes());
    bytes.extend_from_slice(b"42");
    // To the end of the block, and one of zeros.
    bytes.resize(3584 + 512, 0);
    assert_eq!(shard_samples(&bytes).unwrap(), [(1536, 700, 42, "a.jpg".to_owned())]);
}

proptest! {
    #[test]
    fn damaged_archives_are_read_or_refused(
        changes in prop::collection::vec((0..6000_usize, any::<u8>()), 0..6),
        cut in prop::option::of(0..6000_usize),
        sums in any::<bool>(),
    ) {
        let mut bytes = usual();
        for (place, value) in changes {
            let length = bytes.len();
            bytes[place % length] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        if sums {
            // Headers whose checksums are right in spite of it.
            for start in [0, 1024, 2560, 3584] {
                if let Some(block) = bytes.get_mut(start..start + 512) {
                    let mut header = Header::from_byte_slice(block).clone();
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        match shard_samples(&bytes) {
            Ok(samples) => {
                prop_assert!(!samples.is_empty());
                for (offset, length, label, _) in samples {
                    prop_assert!(offset % 512 == 0 && offset + length <= bytes.len() as u64 && label < 1 << 20);
                }
            }
            Err(problem) => prop_assert!(!problem.is_empty()),
        }
    }
}
