//! Shards: the same batches as of the folder that holds the same images, whoever wrote the archives.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use patchmix::Error;
use patchmix::data::{
    Batches, CropStream, Cut, EncodedImages, ImageFolder, ImageShards, ShardMember, StreamConfig, shard_paths,
};
use tar::{Builder, Header};

use crate::python::python;
use crate::{folder_of, random_cut, read};

/// Appends a file.
pub(crate) fn append(builder: &mut Builder<impl Write>, name: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content).unwrap();
}

/// Packs the images of a folder, in its order, into `count` shards named `PREFIX-000000.tar` and so on; with their
/// classes, if they have some.
pub(crate) fn pack(folder: &ImageFolder, place: &Path, prefix: &str, count: i64) -> Vec<PathBuf> {
    for shard in 0..count {
        let file = File::create(place.join(format!("{prefix}-{shard:06}.tar"))).unwrap();
        let mut builder = Builder::new(file);
        for position in folder.len() * shard / count..folder.len() * (shard + 1) / count {
            let path = folder.path(position).unwrap();
            let extension = path.extension().unwrap().to_str().unwrap();
            append(&mut builder, &format!("{position:05}.{extension}"), &fs::read(&path).unwrap());
            if folder.is_labeled() {
                let label = folder.label(position).unwrap().to_string();
                append(&mut builder, &format!("{position:05}.cls"), label.as_bytes());
            }
        }
        builder.finish().unwrap();
    }
    shard_paths(place, prefix).unwrap()
}

pub(crate) fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Data { path, problem } => format!("{}: {problem}", path.file_name().unwrap().to_string_lossy()),
        error => panic!("{error}"),
    }
}

#[test]
fn batches_of_shards_are_those_of_the_folder() {
    let (_place, folder) = folder_of(25);
    let place = tempfile::tempdir().unwrap();
    let shards = Arc::new(ImageShards::open(&pack(&folder, place.path(), "train", 3)).unwrap());
    assert_eq!((shards.len(), shards.shards(), shards.classes(), shards.is_empty()), (25, 3, 3, false));
    assert_eq!(shards.class_names(), ["0", "1", "2"]);
    let batches: Vec<Vec<i64>> = Batches::new(25, 6, 3, 1).unwrap().iter().map(<[i64]>::to_vec).collect();
    let cuts = [random_cut(24), Cut::Center { resize: 20, size: 16 }];
    let expected = read(&folder, &batches, &cuts, 2);
    assert_eq!(expected.len(), 4);
    for workers in [1, 3] {
        for (found, expected) in read(&shards, &batches, &cuts, workers).iter().zip(&expected) {
            assert_eq!(found.positions, expected.positions);
            assert_eq!(found.labels, expected.labels);
            assert_eq!(found.crops, expected.crops);
            assert_eq!(found.broken, []);
        }
    }
}

#[test]
fn shards_without_any_class_hold_images_without_classes() {
    let (source, labeled) = folder_of(11);
    let folder = Arc::new(ImageFolder::unlabeled(source.path()).unwrap());
    let place = tempfile::tempdir().unwrap();
    let paths = pack(&folder, place.path(), "train", 2);
    let shards = Arc::new(ImageShards::open(&paths).unwrap());
    assert_eq!((shards.len(), shards.is_labeled(), shards.classes()), (11, false, 0));
    assert!(problem(shards.label(0)).ends_with("its images have no classes"));
    let batches = [vec![3, 10, 0], vec![7]];
    let expected = read(&folder, &batches, &[random_cut(16)], 2);
    for (found, expected) in read(&shards, &batches, &[random_cut(16)], 2).iter().zip(&expected) {
        assert_eq!((&found.labels, &found.crops), (&None, &expected.crops));
    }
    let some = shards.take(4).unwrap();
    let names: Vec<&str> = (0..4).map(|position| some.member(position).unwrap().name).collect();
    let stems: Vec<&str> = names.iter().map(|name| &name[..5]).collect();
    assert_eq!(stems, ["00000", "00002", "00005", "00008"]);

    let with_classes = pack(&labeled, place.path(), "more", 1);
    let mixed = [paths.clone(), with_classes].concat();
    assert!(problem(ImageShards::open(&mixed)).starts_with("train-000000.tar: has no classes"));
    assert!(problem(ImageShards::with_classes(&paths, &["a".to_owned()])).contains("has no classes"));
}

#[test]
fn a_member_is_found_by_its_position() {
    let (_place, folder) = folder_of(10);
    let place = tempfile::tempdir().unwrap();
    let shards = ImageShards::open(&pack(&folder, place.path(), "val", 4)).unwrap();
    for position in 0..10 {
        let bytes = fs::read(folder.path(position).unwrap()).unwrap();
        let ShardMember { shard, name, offset, length } = shards.member(position).unwrap();
        let archive = fs::read(shard).unwrap();
        assert_eq!(archive[offset as usize..(offset + length) as usize], bytes);
        assert_eq!(shards.read(position).unwrap().unwrap(), bytes);
        assert_eq!(EncodedImages::path(&shards, position).unwrap(), shard.join(name));
    }
    for position in [-1, 10, i64::MIN, i64::MAX] {
        assert!(matches!(shards.member(position), Err(Error::Value { name: "position", .. })));
        assert!(matches!(shards.label(position), Err(Error::Value { name: "position", .. })));
        assert!(matches!(shards.read(position), Err(Error::Value { name: "position", .. })));
    }
}

#[test]
fn a_subset_is_that_of_the_folder() {
    let (_place, folder) = folder_of(23);
    let place = tempfile::tempdir().unwrap();
    let shards = ImageShards::open(&pack(&folder, place.path(), "train", 4)).unwrap();
    for count in 1..=23 {
        let (some, expected) = (shards.take(count).unwrap(), folder.take(count).unwrap());
        assert_eq!(some.len(), count);
        for position in 0..count {
            assert_eq!(some.label(position).unwrap(), expected.label(position).unwrap(), "{count}");
            assert_eq!(some.read(position).unwrap(), expected.read(position).unwrap(), "{count}");
        }
    }
    for count in [-1, 0, 24] {
        assert!(matches!(shards.take(count), Err(Error::Value { name: "count", .. })));
    }
}

/// The share of every class, where classes alternate as in shuffled shards.
#[test]
fn a_subset_of_shuffled_shards_keeps_the_shares_of_the_classes() {
    let place = tempfile::tempdir().unwrap();
    let label = |number: usize| [0, 1, 0, 2, 0][number % 5];
    let path = place.path().join("train-0.tar");
    let mut builder = Builder::new(File::create(&path).unwrap());
    for number in 0..50 {
        append(&mut builder, &format!("{number}.jpg"), b"x");
        append(&mut builder, &format!("{number}.cls"), label(number).to_string().as_bytes());
    }
    builder.finish().unwrap();
    let shards = ImageShards::open(&[path]).unwrap();
    for count in 1..=50 {
        let some = shards.take(count).unwrap();
        let labels: Vec<i64> = (0..count).map(|position| some.label(position).unwrap()).collect();
        for (class, of_fifty) in [(0, 30), (1, 10), (2, 10)] {
            let found = labels.iter().filter(|&&label| label == class).count() as f64;
            assert!((found - (of_fifty * count) as f64 / 50.0).abs() < 1.0, "{count}: {found} of class {class}");
        }
        let names: Vec<&str> = (0..count).map(|position| some.member(position).unwrap().name).collect();
        let number = |name: &str| name.trim_end_matches(".jpg").parse::<u32>().unwrap();
        assert!(names.windows(2).all(|pair| number(pair[0]) < number(pair[1])), "in the order of the set");
    }
}

#[test]
fn a_broken_image_is_left_out_and_a_changed_shard_ends_the_stream() {
    let (_place, folder) = folder_of(6);
    fs::write(folder.path(2).unwrap(), "no image").unwrap();
    let place = tempfile::tempdir().unwrap();
    let paths = pack(&folder, place.path(), "train", 2);
    let shards = Arc::new(ImageShards::open(&paths).unwrap());
    let batch = read(&shards, &[(0..6).collect()], &[random_cut(16)], 2).remove(0);
    assert_eq!((batch.positions, batch.broken.len()), (vec![0, 1, 3, 4, 5], 1));
    assert_eq!(batch.broken[0].path, paths[0].join("00002.png"));

    let append_zeros = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, [&bytes[..], &[0; 512]].concat()).unwrap();
    };
    append_zeros(&paths[1]);
    let config = StreamConfig { workers: 1, images_ahead: 1, pinned: false };
    let batches = vec![vec![0, 1], vec![1, 3], vec![0, 1]];
    let mut stream = CropStream::start(Arc::clone(&shards), batches, vec![random_cut(16)], &config).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().positions, [0, 1]);
    let changed = problem(stream.next().unwrap());
    assert!(changed.starts_with("train-000001.tar: changed while it was in use"), "{changed}");
    drop(stream);
    fs::remove_file(&paths[0]).unwrap();
    let opened_anew = ImageShards::open(&paths[1..]).unwrap();
    assert_eq!(opened_anew.len(), 3);
    assert!(shards.read(0).is_ok(), "an open file stays readable");
}

#[test]
fn the_classes_of_validation_images_are_those_of_the_training_images() {
    let (_place, folder) = folder_of(9);
    let place = tempfile::tempdir().unwrap();
    let paths = pack(&folder, place.path(), "val", 2);
    let names = |count: usize| (0..count).map(|class| class.to_string()).collect::<Vec<_>>();
    assert_eq!(ImageShards::with_classes(&paths, &names(5)).unwrap().classes(), 5);
    let problem = problem(ImageShards::with_classes(&paths, &names(2)));
    assert_eq!(problem, "val-000001.tar: has an image of class 2, not one of the 2 of the training images");
}

/// Archives of Python's tarfile in its three formats, with names of 9 to 300 bytes, folders and links among them.
#[test]
fn archives_of_python_are_read_in_all_formats() {
    const WRITE: &str = "
import io, sys, tarfile
for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    with tarfile.open(f'{sys.argv[1]}/train-{format}.tar', 'w', format=format) as archive:
        folder = tarfile.TarInfo('./class')
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number in range(6):
            longest = 90 if format == tarfile.USTAR_FORMAT else 290
            key = './class/' + ('x' * (number * longest // 5) + 'ü') + str(number)
            for extension, content in [('jpg', bytes([number]) * (number * 300)), ('cls', str(number * 7).encode())]:
                member = tarfile.TarInfo(f'{key}.{extension}')
                member.size = len(content)
                member.pax_headers = {'comment': 'any'} if format == tarfile.PAX_FORMAT else {}
                archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo('./class/link.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, 'x' * 200
        if format != tarfile.USTAR_FORMAT:
            archive.addfile(link)
";
    let Some(mut python) = python("tarfile") else { return };
    let place = tempfile::tempdir().unwrap();
    assert!(python.args(["-c", WRITE]).arg(place.path()).status().unwrap().success());
    let paths = shard_paths(place.path(), "train").unwrap();
    assert_eq!(paths.len(), 3);
    for path in paths {
        let shards = ImageShards::open(std::slice::from_ref(&path)).unwrap();
        assert_eq!(shards.len(), 6, "{}", path.display());
        assert_eq!(shards.class_names(), ["0", "7", "14", "21", "28", "35"]);
        for position in 0..6 {
            let expected = vec![position as u8; position as usize * 300];
            assert_eq!(shards.read(position).unwrap().unwrap(), expected);
            assert_eq!(shards.label(position).unwrap(), position);
            assert!(shards.member(position).unwrap().name.ends_with(&format!("ü{position}.jpg")));
        }
    }
}
