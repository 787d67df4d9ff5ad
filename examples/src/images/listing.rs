//! Images in files: a folder with a file for each, or shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use patchmix::data::{Contents, EncodedImages, ImageFolder, ImageShards, ShardMember, shard_paths};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::settings::DatasetName;

/// The training or the validation images of a data set in files.
pub(super) enum Listing {
    Folder(ImageFolder),
    Shards(ImageShards),
}

impl Listing {
    /// The training and the validation images below `data`.
    pub(super) fn open(dataset: DatasetName, data: &Path) -> Result<[Listing; 2]> {
        Ok(match dataset {
            DatasetName::Shards => {
                let named = |error| format!("{error} (--data names the folder that holds train-*.tar and val-*.tar)");
                let paths = |prefix| shard_paths(data, prefix).map_err(named);
                // Both, before the archives are read.
                let [train, test] = [paths("train")?, paths("val")?];
                let train = ImageShards::open(&train).map_err(named)?;
                let test = ImageShards::with_classes(&test, train.class_names()).map_err(named)?;
                [train, test].map(Listing::Shards)
            }
            _ => {
                let named = |error| format!("{error} (--data names the folder that holds train/ and val/)");
                let train = ImageFolder::open(&data.join("train")).map_err(named)?;
                let test = ImageFolder::with_classes(&data.join("val"), train.class_names()).map_err(named)?;
                [train, test].map(Listing::Folder)
            }
        })
    }

    /// `count` of the images, spread evenly over the classes.
    pub(super) fn take(&self, count: i64) -> patchmix::Result<Listing> {
        Ok(match self {
            Listing::Folder(folder) => Listing::Folder(folder.take(count)?),
            Listing::Shards(shards) => Listing::Shards(shards.take(count)?),
        })
    }

    pub(super) fn class_names(&self) -> &[String] {
        match self {
            Listing::Folder(folder) => folder.class_names(),
            Listing::Shards(shards) => shards.class_names(),
        }
    }

    /// What a part is called in the folder of the data set, for messages.
    pub(super) fn place(&self, part: &str) -> String {
        match self {
            Listing::Folder(_) => part.to_owned(),
            Listing::Shards(_) => format!("{part}-*.tar"),
        }
    }

    /// What was passed over, and how often.
    pub(super) fn passed_over(&self) -> &BTreeMap<String, u64> {
        match self {
            Listing::Folder(folder) => folder.passed_over(),
            Listing::Shards(shards) => shards.passed_over(),
        }
    }

    /// A fingerprint of the images, which decides their order.
    pub(super) fn identity(&self) -> Result<String> {
        let (digest, what) = match self {
            Listing::Folder(folder) => (names_of(folder)?, "files whose names have the digest".to_owned()),
            Listing::Shards(shards) => {
                (members_of(shards)?, format!("images in {} shards whose index has the digest", shards.shards()))
            }
        };
        let digest: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{} {what} {digest}", self.len()))
    }

    fn images(&self) -> &dyn EncodedImages {
        match self {
            Listing::Folder(folder) => folder,
            Listing::Shards(shards) => shards,
        }
    }
}

impl EncodedImages for Listing {
    fn len(&self) -> i64 {
        self.images().len()
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
    for position in 0..folder.len() {
        let path = folder.path(position)?;
        // Class and file name: the folder itself may have moved.
        let name = path.components().rev().take(2).map(|part| part.as_os_str().as_encoded_bytes());
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
        members.update(format!("\n{name}\n{offset} {length} {}\n", shards.label(position)?));
    }
    Ok(members)
}
