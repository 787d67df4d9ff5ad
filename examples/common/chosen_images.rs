//! Which images an encoder looks at: those that options name, else those of the run that it is from.

use std::path::PathBuf;

use clap::Args;
use patchmix::data::{Dataset, Split};

use super::Result;
use super::dataset_name::DatasetName;
use super::datasets::ImageSource;
use super::encoder::LoadedEncoder;

/// Where images are looked for unless a run or an option says otherwise.
const DATA: &str = "data";

/// Options that name images.
#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    /// Which images [default: those of the run, or the built-in ones where no encoder is needed]
    #[arg(long, value_enum)]
    pub(crate) dataset: Option<DatasetName>,
    /// Folder with the data set's files [default: that of the run, if the data set is, else data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Fetch the data set into --data first (official archive, checksum verified)
    #[arg(long)]
    pub(crate) download: bool,
}

/// The images that were chosen.
#[derive(Debug)]
pub(crate) struct ChosenImages {
    pub(crate) dataset: DatasetName,
    pub(crate) data: PathBuf,
    /// Number of training images; 0 for all.
    pub(crate) limit: i64,
    image_size: i64,
    download: bool,
}

impl ImageOptions {
    /// The images for an encoder; `limit` is that of an option.
    pub(crate) fn choose(&self, encoder: &LoadedEncoder, limit: Option<i64>) -> Result<ChosenImages> {
        let run = encoder.run.as_ref();
        let dataset = self.dataset.or(run.map(|run| run.dataset)).ok_or_else(|| {
            let encoder = &encoder.description;
            format!("{encoder}: an encoder file does not say which images: add --dataset cifar10, cifar100 or builtin")
        })?;
        // The folder and the number of images of the run are those of its own data set.
        let run = run.filter(|run| run.dataset == dataset);
        Ok(ChosenImages {
            dataset,
            data: self.data.clone().or(run.map(|run| run.data.clone())).unwrap_or(DATA.into()),
            limit: limit.or(run.map(|run| run.limit)).unwrap_or(0),
            image_size: encoder.encoder.config().image_size,
            download: self.download,
        })
    }

    /// The images where there is no encoder; built-in ones have `image_size` pixels a side.
    #[allow(dead_code)] // every program uses its own part
    pub(crate) fn without_encoder(&self, limit: i64, image_size: i64) -> ChosenImages {
        ChosenImages {
            dataset: self.dataset.unwrap_or(DatasetName::Builtin),
            data: self.data.clone().unwrap_or(DATA.into()),
            limit,
            image_size,
            download: self.download,
        }
    }
}

impl ChosenImages {
    /// One part of a data set that fits in memory, on the CPU.
    pub(crate) fn load(&self, split: Split) -> Result<Dataset> {
        let source = ImageSource {
            dataset: self.dataset,
            data: &self.data,
            limit: self.limit,
            image_size: self.image_size,
            download: self.download,
            mirror: None,
        };
        source.load(split)
    }
}
