//! Features of images that stream from their files.

use std::sync::Arc;

use tch::Tensor;

use crate::augment::normalize;
use crate::data::{BrokenImage, CropStream, CroppedBatch, Cut, ImageFolder, StreamConfig};
use crate::error::{Error, Result, check_value};
use crate::numbers::to_device;
use crate::vit::{Pooling, Vit};

/// How the images of a folder are read and go through an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderConfig {
    /// What is subtracted from red, green and blue, as numbers from 0 to 1.
    pub mean: [f64; 3],
    /// What they are divided by then.
    pub std: [f64; 3],
    /// Images that go through the encoder together.
    pub batch_size: i64,
    /// How the files are read ahead.
    pub stream: StreamConfig,
}

/// What an encoder makes of the images of a folder that can be read, in their order.
#[derive(Debug)]
pub struct FolderFeatures {
    /// For every pooling asked for, `[N, width]` on the encoder's device.
    pub features: Vec<Tensor>,
    /// The classes, `[N]` of `Int64`, on the encoder's device.
    pub labels: Tensor,
    /// The images that could not be read: none of the `N`.
    pub broken: Vec<BrokenImage>,
}

/// The published way to look at an image when it is measured: the shorter side resized (bicubic, antialiased) to 256
/// pixels for an encoder of 224, in the same proportion for others and rounded down, and a square of `image_size`
/// pixels cut out of the centre. Of large JPEG files, fewer pixels are decoded first, as far as enough are left to
/// resize.
pub fn evaluation_cut(image_size: i64) -> Cut {
    Cut::Centre { resize: image_size.saturating_mul(256) / 224, size: image_size }
}

/// Features of all images of a folder by [`evaluation_cut`], for each of the `poolings` from one pass over the files,
/// without gradient and in evaluation mode.
///
/// The files stream past: memory holds the features and the batches under way. `after_batch` is called with every batch
/// read, to show how far the work is, or to end it with an error: because of too many broken images, say.
///
/// # Errors
///
/// [`Error::Value`] for a batch size below 1 or without a pooling; [`Error::Data`] if none of the images can be read;
/// those of [`CropStream::start`], [`normalize`] and [`Vit::features`]; that of `after_batch`.
pub fn folder_features(
    encoder: &Vit,
    poolings: &[Pooling],
    folder: &Arc<ImageFolder>,
    config: &FolderConfig,
    mut after_batch: impl FnMut(&CroppedBatch) -> Result<()>,
) -> Result<FolderFeatures> {
    let _no_grad = tch::no_grad_guard();
    check_value("batch_size", config.batch_size as f64, "at least 1", config.batch_size >= 1)?;
    check_value("poolings", poolings.len() as f64, "a list of 1 or more", !poolings.is_empty())?;
    let positions: Vec<i64> = (0..folder.len()).collect();
    let batches = positions.chunks(config.batch_size as usize).map(<[i64]>::to_vec).collect();
    let cut = evaluation_cut(encoder.config().image_size);
    let mut columns: Vec<Rows> = poolings.iter().map(|_| Rows::new(folder.len())).collect();
    let (mut labels, mut broken) = (Rows::new(folder.len()), Vec::new());
    for batch in CropStream::start(Arc::clone(folder), batches, vec![cut], &config.stream)? {
        let batch = batch?;
        if !batch.positions.is_empty() {
            let crops = to_device(&batch.crops[0], encoder.device())?;
            let images = normalize(&crops, config.mean, config.std)?;
            for (column, features) in columns.iter_mut().zip(encoder.features_by_all(&images, poolings)?) {
                column.push(&features)?;
            }
            labels.push(&batch.labels_on(encoder.device())?)?;
        }
        after_batch(&batch)?;
        broken.extend(batch.broken);
    }
    let features = columns.into_iter().map(Rows::finish).collect::<Result<Option<_>>>()?;
    match (features, labels.finish()?) {
        (Some(features), Some(labels)) => Ok(FolderFeatures { features, labels, broken }),
        _ => Err(none_readable(folder, &broken)),
    }
}

fn none_readable(folder: &ImageFolder, broken: &[BrokenImage]) -> Error {
    let first = broken.first();
    let path = first.map(|image| image.path.clone()).unwrap_or_default();
    let problem = first.map_or("there are none", |image| &image.problem);
    Error::Data { path, problem: format!("{problem}; none of the {} images can be read", folder.len()) }
}

/// Rows that come batch by batch, in one tensor from the first on: joined at the end, they would take twice the memory.
struct Rows {
    most: i64,
    all: Option<Tensor>,
    filled: i64,
}

impl Rows {
    fn new(most: i64) -> Rows {
        Rows { most, all: None, filled: 0 }
    }

    fn push(&mut self, rows: &Tensor) -> Result<()> {
        let all = match self.all.take() {
            Some(all) => all,
            None => {
                let size: Vec<i64> = [self.most].into_iter().chain(rows.size().into_iter().skip(1)).collect();
                Tensor::f_empty(size, (rows.f_kind()?, rows.device()))?
            }
        };
        let count = rows.size()[0];
        all.f_narrow(0, self.filled, count)?.f_copy_(rows)?;
        self.filled += count;
        self.all = Some(all);
        Ok(())
    }

    /// What came, if anything did.
    fn finish(self) -> Result<Option<Tensor>> {
        Ok(self.all.map(|all| all.f_narrow(0, 0, self.filled)).transpose()?)
    }
}
