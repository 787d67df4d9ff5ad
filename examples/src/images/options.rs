//! Options that name images; what they leave open is as in the run of the encoder.

use std::path::{Path, PathBuf};

use clap::{Args, value_parser};
use tch::Device;

use super::files::ImageFiles;
use super::memory::MemoryImages;
use super::{Images, Request, Voters};
use crate::Result;
use crate::encoder::LoadedEncoder;
use crate::settings::DatasetName;
use crate::terminal::shown;

/// The default of `--data`.
const DATA: &str = "data";

/// Options that name images, and how files are read.
#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    /// Which images [default: those of the run, or the built-in ones where no encoder is needed]
    #[arg(long, value_enum)]
    dataset: Option<DatasetName>,
    /// Folder with the data set's files: .bin files of CIFAR or STL-10, train/CLASS/*.jpg and val/CLASS/*.jpg, or
    /// train-*.tar and val-*.tar [default: that of the run, if the data set is, else data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Labeled test images, DIR/CLASS/*.jpg, instead of val/CLASS/*.jpg in --data [default: the run's, if --data is]
    #[arg(long, value_name = "DIR")]
    val: Option<PathBuf>,
    /// Use N training images: the first of CIFAR and STL-10, an even spread of a folder; 0 for all [default: the run's,
    /// if the data set is; 0 for STL-10]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value_parser!(i64).range(0..))]
    pub(crate) limit: Option<i64>,
    /// Fetch CIFAR or STL-10 into --data first (official archive, checksum verified)
    #[arg(long)]
    download: bool,
    /// Fetch the archive from here instead of the authors' page; its checksum is verified all the same
    #[arg(long, value_name = "URL", requires = "download")]
    mirror: Option<String>,
    /// Threads that decode image files; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u16).range(0..=1024))]
    workers: u16,
    /// Broken image files that are named and left out; more than N are an error
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_broken_images: u64,
}

/// Which images an encoder is looked at with.
pub(crate) struct Choice {
    pub(crate) dataset: DatasetName,
    /// Folder with the data set's files.
    pub(crate) data: PathBuf,
    /// Folder of labeled test images, instead of those in `data`.
    pub(crate) val: Option<PathBuf>,
    /// Number of training images; 0 for all.
    pub(crate) limit: i64,
}

impl ImageOptions {
    /// Which images are for an encoder.
    pub(crate) fn choose(&self, encoder: &LoadedEncoder) -> Result<Choice> {
        let run = encoder.run.as_ref();
        let dataset = self.dataset.or(run.map(|run| run.dataset)).ok_or_else(|| {
            let encoder = &encoder.description;
            format!(
                "{encoder}: an encoder file does not say which images: add --dataset cifar10, cifar100, stl10, \
                 builtin, image-folder, shards, tiny-imagenet or imagenet-100"
            )
        })?;
        let run = run.filter(|run| run.dataset == dataset);
        let data = self.data.as_deref().or(run.map(|run| run.data.as_path())).unwrap_or(Path::new(DATA));
        // The run's other options are about its own images: a folder is a data set of its own.
        let run = run.filter(|run| !dataset.is_folder() || run.data == data);
        let val = self.val.as_ref().or(run.and_then(|run| run.val.as_ref())).cloned();
        if let Some(val) = val.as_ref().filter(|_| !dataset.is_folder()) {
            return Err(format!("--val {}: applies to images in folders only; leave it out", shown(val)).into());
        }
        // That of a run on STL-10 counts the unlabeled images.
        let run = run.filter(|_| dataset != DatasetName::Stl10);
        let limit = self.limit.or(run.map(|run| run.limit)).unwrap_or(0);
        Ok(Choice { dataset, data: data.to_owned(), val, limit })
    }

    /// The images that were chosen for an encoder.
    ///
    /// An error unless there are labeled ones to learn from and to measure on.
    pub(crate) fn open(&self, choice: &Choice, encoder: &LoadedEncoder, device: Device) -> Result<Images> {
        self.open_labeled(choice, encoder.encoder.config().image_size, device)
    }

    /// The same, where images without classes will do.
    pub(crate) fn open_any(&self, choice: &Choice, encoder: &LoadedEncoder, device: Device) -> Result<Images> {
        let is_any = choice.dataset.is_folder();
        open(&self.request(choice, is_any, encoder.encoder.config().image_size), device)
    }

    /// The images where there is no encoder, on the CPU; built-in ones, `image_size` pixels a side, by default. Without
    /// --limit, images in memory are read up to `enough`.
    pub(crate) fn open_without_encoder(&self, image_size: i64, enough: i64) -> Result<Images> {
        let dataset = self.dataset.unwrap_or(DatasetName::Builtin);
        let data = self.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
        let limit = self.limit.unwrap_or(if dataset.is_folder() { 0 } else { enough });
        self.open_labeled(&Choice { dataset, data, val: self.val.clone(), limit }, image_size, Device::Cpu)
    }

    fn open_labeled(&self, choice: &Choice, image_size: i64, device: Device) -> Result<Images> {
        let images = open(&self.request(choice, false, image_size), device)?;
        let data = shown(&choice.data);
        let advice = "name a folder that holds train/CLASS/*.jpg and val/CLASS/*.jpg by --data";
        match images.voters() {
            Voters::Training => Ok(images),
            Voters::OtherTest => {
                Err(format!("{data}: its training images do not have the classes of --val; {advice}").into())
            }
            Voters::Nobody => Err(format!("{data}: its images have no classes to measure with; {advice}").into()),
        }
    }

    fn request<'a>(&'a self, choice: &'a Choice, to_pretrain: bool, image_size: i64) -> Request<'a> {
        Request {
            dataset: choice.dataset,
            data: &choice.data,
            val: choice.val.as_deref(),
            to_pretrain,
            limit: choice.limit,
            image_size,
            download: self.download,
            mirror: self.mirror.as_deref(),
            workers: self.workers,
            max_broken: self.max_broken_images,
        }
    }
}

/// Opens the requested images for use on `device`.
pub(crate) fn open(request: &Request<'_>, device: Device) -> Result<Images> {
    Ok(match request.dataset.is_folder() {
        true => Box::new(ImageFiles::open(request, device)?),
        false => Box::new(MemoryImages::load(request, device)?),
    })
}
