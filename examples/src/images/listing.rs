//! Images in files: a folder with a file for each, or shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use patchmix::data::{Contents, EncodedImages, ImageFolder, ImageShards, ShardMember, shard_paths};
use sha2::{Digest, Sha256};

use crate::Result;

/// The training or the validation images of a data set in files.
pub(super) enum Listing {
    Folder(ImageFolder),
    Shards(ImageShards, PathBuf),
}

impl Listing {
    /// The shards `folder/PART-*.tar`; with the classes of the training images, if there are some.
    pub(super) fn shards(folder: &Path, part: &str, class_names: &[String]) -> patchmix::Result<Listing> {
        let paths = shard_paths(folder, part)?;
        let shards = match class_names {
            [] => ImageShards::open(&paths)?,
            _ => ImageShards::with_classes(&paths, class_names)?,
        };
        Ok(Listing::Shards(shards, folder.join(format!("{part}-*.tar"))))
    }

    /// `count` of the images, spread evenly over the classes.
    pub(super) fn take(&self, count: i64) -> patchmix::Result<Listing> {
        Ok(match self {
            Listing::Folder(folder) => Listing::Folder(folder.take(count)?),
            Listing::Shards(shards, place) => Listing::Shards(shards.take(count)?, place.clone()),
        })
    }

    pub(super) fn class_names(&self) -> &[String] {
        match self {
            Listing::Folder(folder) => folder.class_names(),
            Listing::Shards(shards, _) => shards.class_names(),
        }
    }

    /// Where the images are, for messages: a folder, or a pattern of the names of shards.
    pub(super) fn place(&self) -> &Path {
        match self {
            Listing::Folder(folder) => folder.folder(),
            Listing::Shards(_, place) => place,
        }
    }

    /// What was passed over, and how often.
    pub(super) fn passed_over(&self) -> &BTreeMap<String, u64> {
        match self {
            Listing::Folder(folder) => folder.passed_over(),
            Listing::Shards(shards, _) => shards.passed_over(),
        }
    }

    /// A fingerprint of the images, which decides their order.
    pub(super) fn identity(&self) -> Result<String> {
        let (digest, what) = match self {
            Listing::Folder(folder) => (names_of(folder)?, "files whose names have the digest".to_owned()),
            Listing::Shards(shards, _) => {
                (members_of(shards)?, format!("images in {} shards whose index has the digest", shards.shards()))
            }
        };
        let digest: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{} {what} {digest}", self.len()))
    }

    fn images(&self) -> &dyn EncodedImages {
        match self {
            Listing::Folder(folder) => folder,
            Listing::Shards(shards, _) => shards,
        }
    }
}

impl EncodedImages for Listing {
    fn len(&self) -> i64 {
        self.images().len()
    }

    fn is_labeled(&self) -> bool {
        self.images().is_labeled()
    }

    fn label(&self, position: i64) -> patchmix::Result<i64> {
        self.images().label(position)
    }

    fn path(&self, position: i64) -> patchmix::Result<PathBuf> {
        self.images().path(position)
    }

    fn read(&self, position: i64) -> patchmix::Result<Contents> {
        self.images().read(position)
    }
}

/// The names of all files.
fn names_of(folder: &ImageFolder) -> patchmix::Result<Sha256> {
    let mut names = Sha256::new();
    let above = folder.folder().components().count();
    for position in 0..folder.len() {
        let path = folder.path(position)?;
        // Class and file name, or the path below the folder: the folder itself may have moved.
        let parts = if folder.is_labeled() { 2 } else { path.components().count() - above };
        let name = path.components().rev().take(parts).map(|part| part.as_os_str().as_encoded_bytes());
        names.update(name.collect::<Vec<_>>().join(&b'/'));
        names.update(b"\n");
    }
    Ok(names)
}

/// The index of all members.
fn members_of(shards: &ImageShards) -> patchmix::Result<Sha256> {
    let mut members = Sha256::new();
    for position in 0..shards.len() {
        let ShardMember { shard, name, offset, length } = shards.member(position)?;
        // Without the folder, which may have moved.
        members.update(shard.file_name().unwrap_or_default().as_encoded_bytes());
        let label = if shards.is_labeled() { shards.label(position)? } else { -1 };
        members.update(format!("\n{name}\n{offset} {length} {label}\n"));
    }
    Ok(members)
}
