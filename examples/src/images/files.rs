//! Images in files, which are decoded when they are needed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use indicatif::ProgressBar;
use patchmix::Error;
use patchmix::data::{BrokenImage, CropStream, CroppedBatch, Cut, Dataset, EncodedImages, Split, StreamConfig};
use patchmix::eval::{FolderConfig, FolderFeatures, evaluation_cut, folder_features, stream_features};
use patchmix::files::printable;
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use super::layout::Layout;
use super::listing::Listing;
use super::{
    AMONG_TEST, Batch, BatchImages, Decoded, DecodedBatches, FeatureBatch, ImageSource, Labeled, Request, Voters,
    at_most, preparation,
};
use crate::Result;
use crate::encoder::Frozen;
use crate::settings::DatasetName;
use crate::terminal::{log, shown};

/// How many batches are decoded ahead of the one in use.
pub(crate) const BATCHES_AHEAD: usize = 2;

/// Training and test images in files, and the device that they go to.
pub(super) struct ImageFiles {
    dataset: DatasetName,
    /// To train on.
    train: Arc<Listing>,
    /// Labeled ones to measure on.
    test: Option<Arc<Listing>>,
    voters: Voters,
    /// Whether the images to measure on were named apart from those to train on.
    is_test_apart: bool,
    device: Device,
    /// Threads that decode; 0 for one per core.
    workers: usize,
    data: PathBuf,
    /// Files that were reported as broken, and how many there may be.
    broken: RefCell<BTreeSet<PathBuf>>,
    max_broken: u64,
}

impl ImageFiles {
    /// Lists the files.
    pub(super) fn open(request: &Request<'_>, device: Device) -> Result<ImageFiles> {
        if request.download {
            return Err("--download applies to cifar10, cifar100 and stl10 only; leave it out".into());
        }
        let Layout { train, test, voters, notes } = Layout::list(request)?;
        let passed_over = std::iter::once(&train).chain(&test).filter_map(passed_over);
        // From the first of several ranks.
        if std::env::var("RANK").map_or(true, |rank| rank == "0") {
            passed_over.chain(notes).for_each(|note| log!("{note}"));
        }
        Ok(ImageFiles {
            dataset: request.dataset,
            train: Arc::new(train),
            test: test.map(Arc::new),
            voters,
            is_test_apart: request.val.is_some(),
            device,
            workers: request.workers.into(),
            data: request.data.to_owned(),
            broken: RefCell::default(),
            max_broken: request.max_broken,
        })
    }

    /// The labeled images of a part; an error if there are none.
    fn part(&self, split: Split) -> Result<&Arc<Listing>> {
        match (self.voters, &self.test, split) {
            (Voters::Training, _, Split::Train) => Ok(&self.train),
            (Voters::Training | Voters::OtherTest, Some(test), _) => Ok(test),
            _ => Err(format!("{}: there are no labeled images to measure on", shown(&self.data)).into()),
        }
    }

    /// At most `count` files of a part, spread over the classes; 0 for all.
    fn some(&self, split: Split, count: i64) -> Result<Arc<Listing>> {
        some_of(self.part(split)?, count)
    }

    /// An error if images that are to be classified by each other are too few.
    fn check_others(&self, labels: &Tensor) -> Result<()> {
        if self.voters != Voters::OtherTest || labels.numel() > 1 {
            return Ok(());
        }
        let advice = "raise --knn-images, or fix the broken files named above";
        let val = self.test.as_ref().map_or(&*self.data, |test| test.place());
        Err(format!("{}: one labeled image has no others to be compared with; {advice}", shown(val)).into())
    }

    /// At most `count` images of a folder in memory, resized and cut out, and their labels if they have some.
    fn in_memory(&self, folder: &Arc<Listing>, image_size: i64) -> Result<(Tensor, Option<Tensor>)> {
        const BATCH: i64 = 64;
        let positions: Vec<i64> = (0..folder.len()).collect();
        let batches = positions.chunks(BATCH as usize).map(<[i64]>::to_vec).collect();
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let reading = StreamConfig { pinned: false, ..self.reading(BATCH) };
        for batch in CropStream::start(Arc::clone(folder), batches, vec![evaluation_cut(image_size)], &reading)? {
            let CroppedBatch { mut crops, labels: labels_of_batch, broken, .. } = batch?;
            self.report(&broken, |line| log!("{line}"))?;
            images.append(&mut crops);
            labels.extend(labels_of_batch);
        }
        let images = Tensor::f_cat(&images, 0)?.f_to_device(self.device)?;
        if images.size()[0] == 0 {
            let problem = format!("none of the {} images looked at can be read", folder.len());
            return Err(Error::Data { path: self.data.clone(), problem }.into());
        }
        let labels = folder.is_labeled().then(|| Tensor::f_cat(&labels, 0)?.f_to_device(self.device)).transpose()?;
        Ok((images, labels))
    }

    /// How files are read: a batch is decoded while the one before is in use; for a GPU, into page-locked memory.
    fn reading(&self, batch_size: i64) -> StreamConfig {
        let workers = if self.workers == 0 { StreamConfig::default().workers } else { self.workers };
        StreamConfig { images_ahead: BATCHES_AHEAD * batch_size as usize, workers, pinned: self.device.is_cuda() }
    }

    /// The same where all ranks of a machine read, which share its cores.
    fn reading_of_ranks(&self, batch_size: i64) -> StreamConfig {
        let ranks = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|ranks| ranks.parse::<usize>().ok());
        let reading = self.reading(batch_size);
        let shared = (reading.workers / ranks.unwrap_or(1).max(1)).max(1);
        let workers = if self.workers == 0 { shared } else { reading.workers };
        StreamConfig { workers, ..reading }
    }

    /// Names broken files, each once, through `say`; an error if there are too many.
    fn report(&self, images: &[BrokenImage], mut say: impl FnMut(&str)) -> patchmix::Result<()> {
        let mut broken = self.broken.borrow_mut();
        for BrokenImage { path, problem, .. } in images {
            if broken.insert(path.clone()) {
                say(&format!("broken   {}: {}; left out", shown(path), printable(problem)));
            }
        }
        let (count, max) = (broken.len(), self.max_broken);
        if count as u64 <= max {
            return Ok(());
        }
        let advice = "fix the files named above, or raise --max-broken-images to continue without them";
        let problem = format!("{count} broken images are more than --max-broken-images {max}; {advice}");
        Err(Error::Data { path: self.data.clone(), problem })
    }
}

/// At most `count` files of a folder, spread evenly; 0 for all.
fn some_of(folder: &Arc<Listing>, count: i64) -> Result<Arc<Listing>> {
    let count = at_most(count, folder.len());
    // A part has an index of its own.
    if count == folder.len() { Ok(Arc::clone(folder)) } else { Ok(Arc::new(folder.take(count)?)) }
}

/// One line about what a listing passed over.
fn passed_over(folder: &Listing) -> Option<String> {
    let counts: Vec<String> = folder.passed_over().iter().map(|(what, count)| format!("{what} ({count})")).collect();
    let place = shown(folder.place());
    (!counts.is_empty()).then(|| format!("note: {place}: passed over: {}", counts.join(", ")))
}

impl ImageSource for ImageFiles {
    fn name(&self) -> String {
        self.dataset.name()
    }

    fn is_folder(&self) -> bool {
        true
    }

    fn to_train_on(&self) -> i64 {
        self.train.len()
    }

    fn is_labeled(&self) -> bool {
        self.train.is_labeled()
    }

    fn voters(&self) -> Voters {
        self.voters
    }

    fn count(&self, split: Split) -> i64 {
        self.part(split).map_or(0, |folder| folder.len())
    }

    fn class_names(&self) -> &[String] {
        self.part(Split::Test).map_or(&[], |folder| folder.class_names())
    }

    fn identity(&self) -> Result<String> {
        self.train.identity()
    }

    fn broken(&self) -> Option<usize> {
        Some(self.broken.borrow().len())
    }

    fn protocol(&self, image_size: i64) -> Result<String> {
        let votes = if self.voters == Voters::OtherTest { AMONG_TEST } else { "" };
        let test = self.test.as_ref().filter(|_| self.is_test_apart);
        let apart = test.map_or(Ok(String::new()), |test| test.identity().map(|test| format!("; on {test}")));
        Ok(preparation(image_size) + votes + &apart?)
    }

    fn batches<'a>(&'a self, positions: Vec<Vec<i64>>, cuts: Vec<Cut>) -> Result<DecodedBatches<'a>> {
        let batch_size = positions.first().map_or(1, |batch| batch.len() as i64);
        let stream = CropStream::start(Arc::clone(&self.train), positions, cuts, &self.reading_of_ranks(batch_size))?;
        Ok(Box::new(stream.map(move |batch| {
            let batch = batch?;
            self.report(&batch.broken, |line| log!("{line}"))?;
            let on_device = move || {
                let images = BatchImages::Cut(batch.crops_on(self.device)?);
                let labels = batch.labels_on(self.device)?;
                Ok(Batch { images, labels, broken: batch.broken.len() as u64 })
            };
            Ok(Box::new(on_device) as Decoded<'a>)
        })))
    }

    fn examples(&self, count: i64, image_size: i64) -> Result<Tensor> {
        Ok(self.in_memory(&some_of(&self.train, count)?, image_size)?.0)
    }

    fn dataset(&self, split: Split, count: i64, image_size: i64) -> Result<Dataset> {
        let folder = self.some(split, count)?;
        let (images, labels) = self.in_memory(&folder, image_size)?;
        let labels = labels.ok_or("labeled images have labels")?;
        self.check_others(&labels)?;
        Ok(Dataset { images, labels, class_names: folder.class_names().to_vec() })
    }

    fn evaluated(&self, images: &Tensor, _: i64) -> Result<Tensor> {
        Ok(images.shallow_clone())
    }

    fn features(
        &self,
        Frozen { encoder, mean, std }: Frozen<'_>,
        poolings: &[Pooling],
        split: Split,
        count: i64,
        batch: i64,
        bar: &ProgressBar,
    ) -> Result<Labeled> {
        let folder = self.some(split, count)?;
        let config = FolderConfig { mean, std, batch_size: batch, stream: self.reading(batch) };
        bar.set_length(folder.len() as u64);
        let FolderFeatures { features, labels, .. } = folder_features(encoder, poolings, &folder, &config, |batch| {
            bar.inc((batch.positions.len() + batch.broken.len()) as u64);
            self.report(&batch.broken, |line| bar.suspend(|| log!("{line}")))
        })?;
        bar.finish_and_clear();
        let labels = labels.ok_or("labeled images have labels")?;
        self.check_others(&labels)?;
        Ok(Labeled { features, labels })
    }

    fn stream_features(
        &self,
        Frozen { encoder, mean, std }: Frozen<'_>,
        pooling: Pooling,
        split: Split,
        batch: i64,
        bar: &ProgressBar,
        take: &mut dyn FnMut(FeatureBatch) -> patchmix::Result<()>,
    ) -> Result<()> {
        let part = if split == Split::Train { Some(&self.train) } else { self.test.as_ref() };
        let images = part.ok_or("there are no test images")?;
        let config = FolderConfig { mean, std, batch_size: batch, stream: self.reading(batch) };
        stream_features(encoder, &[pooling], images, &config, |batch, mut features| {
            bar.inc((batch.positions.len() + batch.broken.len()) as u64);
            self.report(&batch.broken, |line| bar.suspend(|| log!("{line}")))?;
            let Some(features) = features.pop() else { return Ok(()) };
            let path = |position: &i64| {
                let path = images.path(*position)?;
                Ok(path.strip_prefix(&self.data).unwrap_or(&path).to_string_lossy().into_owned())
            };
            let paths = batch.positions.iter().map(path).collect::<patchmix::Result<_>>()?;
            take(FeatureBatch { features, labels: batch.labels, paths: Some(paths) })
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
