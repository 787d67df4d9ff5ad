//! The index of a shard: where the image of every sample is, and its class.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::archive::{BLOCK, Kind, Member, for_each_member};
use crate::data::folder::shortened;
use crate::data::image_folder::decode::MAX_FILE;
use crate::data::image_folder::list::{PassedOver, add, ending, is_image_name};

/// Classes are below this.
const MAX_CLASSES: u32 = 1 << 20;

/// Limit of the bytes of a member's name, beyond that of file systems.
const MAX_NAME: usize = 4096;

/// The images of a shard in the order of the archive, and their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    samples: Vec<Sample>,
    /// Whether the archive has classes.
    is_labeled: bool,
    /// The names of all images, concatenated: one string per image would take twice the memory.
    names: String,
}

/// An image with its class, in 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Where its content begins, in blocks.
    block: u32,
    /// Length of its content in bytes.
    length: u32,
    /// 0 if the archive has no classes.
    label: u32,
    /// The end of its name among all names.
    name_end: u32,
}

/// What was found of a sample so far.
#[derive(Default)]
struct Draft {
    /// Block, length and name.
    image: Option<(u32, u32, String)>,
    label: Option<u32>,
}

impl Index {
    /// Reads the headers of an archive of `length` bytes. The error says what is wrong with it.
    pub(super) fn read(archive: impl Read + Seek, length: u64, passed_over: &mut PassedOver) -> Result<Index, String> {
        let mut drafts: HashMap<String, Draft> = HashMap::new();
        for_each_member(archive, length, |member, content| take_in(&mut drafts, passed_over, member, content))?;
        let is_labeled = drafts.values().any(|draft| draft.label.is_some());
        let (mut images, mut lacks_class, mut lacks_image) = (Vec::new(), 0, 0);
        for draft in drafts.into_values() {
            match (draft.image, draft.label) {
                (Some((block, length, name)), Some(label)) => images.push((block, length, label, name)),
                (Some((block, length, name)), None) if !is_labeled => images.push((block, length, 0, name)),
                (Some(_), None) => lacks_class += 1,
                (None, _) => lacks_image += 1,
            }
        }
        if images.is_empty() {
            return Err(match lacks_class {
                0 => "contains no images: members named KEY.jpg, .jpeg, .png or .webp, without another dot".to_owned(),
                count => format!("contains {count} images, but the class of none: a member KEY.cls beside KEY.jpg"),
            });
        }
        add(passed_over, "images without .cls", lacks_class);
        add(passed_over, ".cls without an image", lacks_image);
        images.sort_unstable_by_key(|(block, ..)| *block);
        let mut index = Index { is_labeled, ..Index::default() };
        for (block, length, label, name) in images {
            index.push(block, length, label, &name)?;
        }
        index.names.shrink_to_fit();
        index.samples.shrink_to_fit();
        Ok(index)
    }

    fn push(&mut self, block: u32, length: u32, label: u32, name: &str) -> Result<(), String> {
        self.names.push_str(name);
        let name_end = u32::try_from(self.names.len()).map_err(|_| "has 4 GiB of names; split it".to_owned())?;
        self.samples.push(Sample { block, length, label, name_end });
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn is_labeled(&self) -> bool {
        self.is_labeled
    }

    pub(super) fn label(&self, sample: usize) -> u32 {
        self.samples[sample].label
    }

    /// The classes of all images.
    pub(super) fn labels(&self) -> impl Iterator<Item = u32> {
        self.samples.iter().map(|sample| sample.label)
    }

    /// Replaces every class by another. The error is the first one without.
    pub(super) fn relabel(&mut self, labels: &HashMap<u32, u32>) -> Result<(), u32> {
        for Sample { label, .. } in &mut self.samples {
            *label = *labels.get(label).ok_or(*label)?;
        }
        Ok(())
    }

    pub(super) fn name(&self, sample: usize) -> &str {
        let start = sample.checked_sub(1).map_or(0, |before| self.samples[before].name_end);
        &self.names[start as usize..self.samples[sample].name_end as usize]
    }

    /// Where the image begins, and its length, in bytes.
    pub(super) fn place(&self, sample: usize) -> (u64, u64) {
        let Sample { block, length, .. } = self.samples[sample];
        (u64::from(block) * BLOCK, u64::from(length))
    }

    /// Some of the images.
    pub(super) fn take(&self, samples: impl Iterator<Item = usize>) -> Index {
        let mut taken = Index { is_labeled: self.is_labeled, ..Index::default() };
        for number in samples {
            taken.names.push_str(self.name(number));
            // Shorter than the names of all, which this can count.
            taken.samples.push(Sample { name_end: taken.names.len() as u32, ..self.samples[number] });
        }
        taken
    }
}

/// What a member is.
enum Part<'a> {
    /// The image of the sample of this key.
    Image(&'a str),
    /// The class of the sample of this key.
    Class(&'a str),
    /// Something to pass over, in words.
    Else(String),
    /// Something that is not worth a word.
    Nothing,
}

impl<'a> Part<'a> {
    fn of(member: &Member<'a>) -> Part<'a> {
        let name = match (member.kind, member.name) {
            (Kind::Other, _) => return Part::Nothing,
            (Kind::Link, _) => return Part::Else("links".to_owned()),
            (Kind::Sparse, _) => return Part::Else("sparse files".to_owned()),
            (Kind::File, None) => return Part::Else("names that are not Unicode".to_owned()),
            (Kind::File, Some(name)) if name.len() > MAX_NAME => {
                return Part::Else(format!("names of more than {MAX_NAME} bytes"));
            }
            (Kind::File, Some(name)) => name,
        };
        match key_and_extension(name) {
            None => Part::Nothing,
            Some((key, extension)) if extension.eq_ignore_ascii_case("cls") => Part::Class(key),
            // `KEY.mask.png` is something else than the image.
            Some((_, extension)) if extension.contains('.') || !is_image_name(name) => Part::Else(ending(name)),
            Some(_) if member.length > MAX_FILE => Part::Else("images of more than 256 MiB".to_owned()),
            Some((key, _)) => Part::Image(key),
        }
    }
}

/// Adds a member to the samples found so far.
fn take_in(
    drafts: &mut HashMap<String, Draft>,
    passed_over: &mut PassedOver,
    member: &Member<'_>,
    content: &mut dyn Read,
) -> Result<(), String> {
    let name = member.name.unwrap_or_default();
    match Part::of(member) {
        Part::Nothing => {}
        Part::Else(what) => add(passed_over, &what, 1),
        Part::Class(key) => {
            let label = class(content).map_err(|problem| format!("{} {problem}", shortened(name)))?;
            if drafts.entry(key.to_owned()).or_default().label.replace(label).is_some() {
                return Err(format!("has two classes for the key {}; a key is for one sample", shortened(key)));
            }
        }
        Part::Image(key) => {
            let block = member.offset / BLOCK;
            let block = u32::try_from(block).map_err(|_| "is longer than 2 TiB; split it".to_owned())?;
            let image = (block, member.length as u32, name.to_owned());
            if let Some((.., other)) = drafts.entry(key.to_owned()).or_default().image.replace(image) {
                let [key, other, name] = [key, &other, name].map(shortened);
                return Err(format!("has two images for the key {key}, {other} and {name}; a key is for one sample"));
            }
        }
    }
    Ok(())
}

/// Splits a name by WebDataset's rule: at the first dot of the base name. `None` if it has none or begins with one.
fn key_and_extension(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    (dot > base).then(|| (&name[..dot], &name[dot + 1..]))
}

/// The class in a `.cls` member.
fn class(content: &mut dyn Read) -> Result<u32, String> {
    const MAX_BYTES: u64 = 32;
    let mut bytes = Vec::new();
    content.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let digits = text.trim();
    let is_number = bytes.len() as u64 <= MAX_BYTES && digits.bytes().all(|byte| byte.is_ascii_digit());
    let label = digits.parse().ok().filter(|label| is_number && *label < MAX_CLASSES);
    label.ok_or_else(|| format!("contains \"{digits}\"; a class is a decimal number below {MAX_CLASSES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_dot_of_the_base_name() {
        for (name, expected) in [
            ("a.jpg", Some(("a", "jpg"))),
            ("./v1.0/b.c/n01_7.JPEG", Some(("./v1.0/b.c/n01_7", "JPEG"))),
            ("a.mask.png", Some(("a", "mask.png"))),
            ("a.", Some(("a", ""))),
            (".hidden.jpg", None),
            ("v1.0/._a.jpg", None),
            ("v1.0/README", None),
            ("folder.d/", None),
            ("", None),
        ] {
            assert_eq!(key_and_extension(name), expected, "{name}");
        }
    }

    #[test]
    fn a_class_is_a_decimal_number() {
        let read = |text: &str| class(&mut text.as_bytes());
        assert_eq!(["0", "7\n", " 12 ", "0012", "1048575"].map(read).map(Result::unwrap), [0, 7, 12, 12, 1_048_575]);
        let long = "0".repeat(33) + "1";
        for text in ["", "\n", "dog", "+1", "-1", "1.0", "1 2", "1048576", "4294967296", &long, "\u{661}"] {
            assert!(read(text).unwrap_err().contains("a decimal number below 1048576"), "{text}");
        }
    }

    #[test]
    fn an_image_takes_sixteen_bytes_and_its_name() {
        assert_eq!(size_of::<Sample>(), 16);
    }
}
