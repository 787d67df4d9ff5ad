//! Images in files, in the folders `train` and `val`, and the broken ones among them.
#![allow(dead_code)] // every program uses its own part

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use patchmix::Error;
use patchmix::data::{BrokenImage, CropStream, CroppedBatch, Dataset, ImageFolder, Split, StreamConfig};
use patchmix::eval::evaluation_cut;
use tch::Tensor;

use super::Result;

/// How many batches are decoded ahead of the one in use.
pub(crate) const BATCHES_AHEAD: usize = 2;

/// Training and test images in files.
pub(crate) struct ImageFiles {
    pub(crate) train: Arc<ImageFolder>,
    pub(crate) test: Arc<ImageFolder>,
    /// Threads that decode; 0 for all processors.
    workers: usize,
    data: PathBuf,
    /// Files that were reported as broken, and how many there may be.
    broken: RefCell<BTreeSet<PathBuf>>,
    most_broken: usize,
}

impl ImageFiles {
    /// `data/train` and `data/val`; of the training images `limit`, or all for 0.
    pub(crate) fn open(data: &Path, limit: i64, workers: usize, most_broken: usize) -> Result<ImageFiles> {
        let named = |error: Error| format!("{error} (--data names the folder that holds train/ and val/)");
        let train = ImageFolder::open(&data.join("train")).map_err(named)?;
        let test = ImageFolder::with_classes(&data.join("val"), train.class_names()).map_err(named)?;
        let train = match limit {
            0 => train,
            limit => train.take(limit).map_err(|error| format!("--limit {limit}: {error}"))?,
        };
        let (train, test) = (Arc::new(train), Arc::new(test));
        Ok(ImageFiles { train, test, workers, data: data.to_owned(), broken: RefCell::default(), most_broken })
    }

    pub(crate) fn part(&self, split: Split) -> &Arc<ImageFolder> {
        if split == Split::Train { &self.train } else { &self.test }
    }

    /// How files are read ahead: a batch is decoded while the one before is computed with.
    pub(crate) fn reading(&self, batch_size: i64) -> StreamConfig {
        let workers = if self.workers == 0 { StreamConfig::default().workers } else { self.workers };
        StreamConfig { images_ahead: BATCHES_AHEAD * batch_size as usize, workers, ..StreamConfig::default() }
    }

    /// The same where the ranks of a machine, which share its processors, all read.
    pub(crate) fn reading_of_ranks(&self, batch_size: i64) -> StreamConfig {
        let ranks = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|ranks| ranks.parse::<usize>().ok());
        let reading = self.reading(batch_size);
        let shared = (reading.workers / ranks.unwrap_or(1).max(1)).max(1);
        let workers = if self.workers == 0 { shared } else { reading.workers };
        StreamConfig { workers, ..reading }
    }

    /// Names files that are broken, each once, through `say`; an error if there are too many.
    pub(crate) fn report(&self, images: &[BrokenImage], mut say: impl FnMut(&str)) -> patchmix::Result<()> {
        let mut broken = self.broken.borrow_mut();
        for BrokenImage { path, problem, .. } in images {
            if broken.insert(path.clone()) {
                say(&format!("broken   {}: {problem}; left out", path.display()));
            }
        }
        let (count, most) = (broken.len(), self.most_broken);
        if count <= most {
            return Ok(());
        }
        let advice = "mend the files named above, or raise --max-broken-images to go on without them";
        let problem = format!("{count} broken images are more than --max-broken-images {most}; {advice}");
        Err(Error::Data { path: self.data.clone(), problem })
    }

    /// How many files were found to be broken.
    pub(crate) fn broken_count(&self) -> usize {
        self.broken.borrow().len()
    }

    /// The centres of `count` images spread over the classes, or of all if there are no more, in memory.
    pub(crate) fn centres(&self, split: Split, count: i64, image_size: i64) -> Result<Dataset> {
        let folder = self.part(split);
        let folder = Arc::new(folder.take(count.min(folder.len()))?);
        const BATCH: i64 = 64;
        let positions: Vec<i64> = (0..folder.len()).collect();
        let batches = positions.chunks(BATCH as usize).map(<[i64]>::to_vec).collect();
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let cut = evaluation_cut(image_size);
        for batch in CropStream::start(Arc::clone(&folder), batches, vec![cut], &self.reading(BATCH))? {
            let CroppedBatch { mut crops, labels: of_batch, broken, .. } = batch?;
            self.report(&broken, |line| eprintln!("{line}"))?;
            images.append(&mut crops);
            labels.push(of_batch);
        }
        let (images, labels) = (Tensor::f_cat(&images, 0)?, Tensor::f_cat(&labels, 0)?);
        if labels.numel() == 0 {
            let problem = format!("none of the {} images looked at can be read", folder.len());
            return Err(Error::Data { path: self.data.clone(), problem }.into());
        }
        Ok(Dataset { images, labels, class_names: folder.class_names().to_vec() })
    }
}
