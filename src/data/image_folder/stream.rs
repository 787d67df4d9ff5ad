//! A stream of batches that threads read ahead.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, available_parallelism};

use fast_image_resize::Resizer;

use super::batch::{CroppedBatch, Squares, assemble};
use super::decode::cut_bytes;
use super::{Cut, EncodedImages, check_position, problem};
use crate::error::{Error, Result, check_in, check_value};

/// How a [`CropStream`] reads ahead. It does not affect the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Decoding threads, `1..=1024`.
    pub workers: usize,
    /// Limit of images decoded ahead, `1..=2^20`; at least the largest batch is decoded ahead.
    pub images_ahead: usize,
    /// Whether batches are in page-locked memory, which saves [`CroppedBatch::crops_on`] a copy on the CPU. It needs a
    /// GPU.
    pub pinned: bool,
}

impl Default for StreamConfig {
    /// One thread per hardware thread, 512 images ahead, in ordinary memory.
    fn default() -> StreamConfig {
        let workers = available_parallelism().map_or(1, |threads| threads.get());
        StreamConfig { workers, images_ahead: 512, pinned: false }
    }
}

impl StreamConfig {
    fn check(&self) -> Result<()> {
        const MAX_WORKERS: usize = 1 << 10;
        const MAX_AHEAD: usize = 1 << 20;
        check_in("workers", self.workers, 1..=MAX_WORKERS)?;
        check_in("images_ahead", self.images_ahead, 1..=MAX_AHEAD)
    }
}

/// The batches of an epoch, decoded and cropped by threads while the model trains on earlier batches.
///
/// The result depends only on the files, the batches and the cuts, not on the number of threads. An image that cannot
/// be read is left out of its batch and listed in [`CroppedBatch::broken`]. An archive that changes while it is read is
/// an error. A JPEG file with bytes missing in the middle still decodes, as with other decoders; the missing part looks
/// like noise.
///
/// Dropping the stream ends the threads, each after its current image.
pub struct CropStream {
    plan: Arc<Plan>,
    batches: Receiver<Result<CroppedBatch>>,
    taken: usize,
    threads: Vec<JoinHandle<()>>,
}

/// The work of the threads, and its progress.
struct Plan {
    images: Arc<dyn EncodedImages>,
    batches: Vec<Vec<i64>>,
    cuts: Vec<Cut>,
    pinned: bool,
    progress: Mutex<Progress>,
    /// Signaled when a thread may continue or must stop.
    more_room: Condvar,
}

struct Progress {
    /// The next image to read, as batch and place in it.
    next: (usize, usize),
    /// Number of images that may be started before more are taken.
    room: usize,
    stopped: bool,
}

/// An image that was read: its batch, its place in it, and its crops, or the error that ends the stream.
type Done = (usize, usize, Result<Squares>);

impl Plan {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and returns the next image to read; `None` if there is nothing left to do.
    fn next_image(&self) -> Option<(usize, usize)> {
        let mut progress = self.progress();
        loop {
            let (batch, place) = progress.next;
            if progress.stopped || batch == self.batches.len() {
                return None;
            }
            if place == self.batches[batch].len() {
                progress.next = (batch + 1, 0);
            } else if progress.room > 0 {
                progress.room -= 1;
                progress.next = (batch, place + 1);
                return Some((batch, place));
            } else {
                progress = self.more_room.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The loop of a decoding thread.
    fn read_images(&self, done: &Sender<Done>) {
        let mut resizer = Resizer::new();
        while let Some((batch, place)) = self.next_image() {
            let position = self.batches[batch][place];
            let read = || {
                let contents = self.images.read(position)?;
                Ok(contents.and_then(|bytes| cut_bytes(bytes, position, &self.cuts, &mut resizer)))
            };
            // A source or decoder that panics on one image must not end the run, nor keep it waiting for the image.
            let squares =
                catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Ok(Err("reading it panicked".to_owned())));
            if done.send((batch, place, squares)).is_err() {
                return;
            }
        }
    }

    /// The loop of the collecting thread: images arrive in any order, batches leave in theirs.
    fn collect(&self, done: &Receiver<Done>, batches: &Sender<Result<CroppedBatch>>) {
        let mut waiting: BTreeMap<(usize, usize), Result<Squares>> = BTreeMap::new();
        for (batch, positions) in self.batches.iter().enumerate() {
            let mut images = Vec::with_capacity(positions.len());
            while images.len() < positions.len() {
                if let Some(image) = waiting.remove(&(batch, images.len())) {
                    images.push(image);
                    continue;
                }
                let Ok((batch, place, squares)) = done.recv() else { return };
                waiting.insert((batch, place), squares);
            }
            if batches.send(assemble(&*self.images, &self.cuts, positions, images, self.pinned)).is_err() {
                return;
            }
        }
    }
}

impl CropStream {
    /// Starts reading `batches` of `images`, given by their positions, and cropping every image by all `cuts`.
    ///
    /// To resume within an epoch, leave out the batches already done.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if there is no image at a position, a setting is out of range, or `cuts` is empty;
    /// [`Error::Io`] if a thread cannot be started.
    pub fn start<I: EncodedImages + 'static>(
        images: Arc<I>,
        batches: Vec<Vec<i64>>,
        cuts: Vec<Cut>,
        config: &StreamConfig,
    ) -> Result<CropStream> {
        config.check()?;
        check_value("cuts", cuts.len() as f64, "a list of 1 or more", !cuts.is_empty())?;
        cuts.iter().try_for_each(Cut::check)?;
        for &position in batches.iter().flatten() {
            check_position(position, images.len())?;
        }
        let largest = batches.iter().map(Vec::len).max().unwrap_or(0);
        let progress = Progress { next: (0, 0), room: config.images_ahead.max(largest), stopped: false };
        let (progress, pinned, more_room) = (Mutex::new(progress), config.pinned, Condvar::new());
        let plan = Arc::new(Plan { images, batches, cuts, pinned, progress, more_room });
        let (batch_sender, batch_receiver) = channel();
        let mut stream = CropStream { plan: Arc::clone(&plan), batches: batch_receiver, taken: 0, threads: Vec::new() };
        let (done_sender, done_receiver) = channel();
        for _ in 0..config.workers {
            let (plan, done) = (Arc::clone(&plan), done_sender.clone());
            stream.spawn("image-reader", move || plan.read_images(&done))?;
        }
        stream.spawn("image-collector", move || plan.collect(&done_receiver, &batch_sender))?;
        Ok(stream)
    }

    /// Starts a thread that ends when the stream is dropped.
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.map_err(Error::io(Path::new(name)))?);
        Ok(())
    }
}

impl Iterator for CropStream {
    type Item = Result<CroppedBatch>;

    /// Waits for the next batch.
    fn next(&mut self) -> Option<Result<CroppedBatch>> {
        let images = self.plan.batches.get(self.taken)?.len();
        self.taken += 1;
        let Ok(batch) = self.batches.recv() else {
            self.taken = self.plan.batches.len();
            let advice = "a thread that reads images ended early; what it printed says why".to_owned();
            return Some(Err(problem(Path::new("image-reader"), advice)));
        };
        self.plan.progress().room += images;
        self.plan.more_room.notify_all();
        Some(batch)
    }
}

impl Drop for CropStream {
    fn drop(&mut self) {
        self.plan.progress().stopped = true;
        self.plan.more_room.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::data::ImageFolder;

    /// Waits until the threads have started `expected` images, and then a little longer to see that they start no more.
    fn assert_begun(stream: &CropStream, expected: usize) {
        let begun = || {
            let (batch, place) = stream.plan.progress().next;
            stream.plan.batches[..batch].iter().map(Vec::len).sum::<usize>() + place
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while begun() < expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(30));
        assert_eq!(begun(), expected);
    }

    #[test]
    fn no_more_images_are_read_ahead_than_allowed() {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/noise.png");
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("class")).unwrap();
        for number in 0..4 {
            fs::copy(&image, root.path().join(format!("class/{number}.png"))).unwrap();
        }
        let folder = Arc::new(ImageFolder::open(root.path()).unwrap());
        for (images_ahead, expected) in [(1, 4), (6, 6), (13, 13), (1000, 40)] {
            let config = StreamConfig { workers: 3, images_ahead, pinned: false };
            let cuts = vec![Cut::Center { resize: 8, size: 8 }];
            let batches = vec![vec![0, 1, 2, 3]; 10];
            let mut stream = CropStream::start(Arc::clone(&folder), batches, cuts, &config).unwrap();
            assert_begun(&stream, expected);
            for taken in 1..=10 {
                assert_eq!(stream.next().unwrap().unwrap().positions, [0, 1, 2, 3]);
                assert_begun(&stream, (expected + 4 * taken).min(40));
            }
            assert!(stream.next().is_none());
        }
    }
}
