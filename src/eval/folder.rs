//! Features of images in folders or archives, streamed from their files.

use std::sync::Arc;

use tch::Tensor;

use crate::augment::normalize;
use crate::data::{BrokenImage, CenterCrop, CropStream, CroppedBatch, Cut, EncodedImages, StreamConfig};
use crate::error::{Error, Result, check_in, check_value};
use crate::numbers::to_device;
use crate::vit::{Pooling, Vit};

/// How to read the images of a folder or of archives and run them through an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderConfig {
    /// Mean of red, green and blue, in `0..=1`, for normalization.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, for normalization.
    pub std: [f64; 3],
    /// Images per forward pass.
    pub batch_size: i64,
    /// How to read files ahead.
    pub stream: StreamConfig,
}

/// The features of the readable images of a folder or of archives, in order.
#[derive(Debug)]
pub struct FolderFeatures {
    /// For each requested pooling, `[N, width]` on the encoder's device.
    pub features: Vec<Tensor>,
    /// The labels, `[N]` of `Int64`, on the encoder's device; `None` if the images have no classes.
    pub labels: Option<Tensor>,
    /// The images that could not be read; they are not among the `N`.
    pub broken: Vec<BrokenImage>,
}

/// The published evaluation crop of image files, as [`evaluation_view`](super::evaluation_view) makes it of images in
/// memory, apart from the rounding of the resize. Large JPEG files are decoded at reduced size if that leaves enough
/// pixels to resize.
pub fn evaluation_cut(image_size: i64) -> Cut {
    let CenterCrop { resize, size } = CenterCrop::evaluation(image_size);
    Cut::Center { resize, size }
}

/// Features of all images, cropped by [`evaluation_cut`], for all `poolings` in one pass over the files; without
/// gradient and in evaluation mode.
///
/// Memory holds the features and the batches in flight only. `after_batch` is called after every batch, to show
/// progress or to stop with an error, for example after too many broken images.
///
/// # Errors
///
/// [`Error::Data`] if none of the images can be read; those of [`stream_features`].
pub fn folder_features<I: EncodedImages + 'static>(
    encoder: &Vit,
    poolings: &[Pooling],
    images: &Arc<I>,
    config: &FolderConfig,
    mut after_batch: impl FnMut(&CroppedBatch) -> Result<()>,
) -> Result<FolderFeatures> {
    let mut columns: Vec<Rows> = poolings.iter().map(|_| Rows::new(images.len())).collect();
    let (mut labels, mut broken) = (Rows::new(images.len()), Vec::new());
    stream_features(encoder, poolings, images, config, |batch, features| {
        columns.iter_mut().zip(&features).try_for_each(|(column, features)| column.push(features))?;
        if let Some(labels_of_batch) = batch.labels_on(encoder.device())?.filter(|_| !features.is_empty()) {
            labels.push(&labels_of_batch)?;
        }
        after_batch(&batch)?;
        broken.extend(batch.broken);
        Ok(())
    })?;
    let features = columns.into_iter().map(Rows::finish).collect::<Result<Option<_>>>()?;
    match features {
        Some(features) => Ok(FolderFeatures { features, labels: labels.finish()?, broken }),
        None => Err(none_readable(images.len(), &broken)),
    }
}

/// [`folder_features`] batch by batch, in the order of the images, for more features than fit in memory.
///
/// `take` gets every batch with its features `[B, width]` for each pooling, on the encoder's device; none if no image
/// of the batch can be read.
///
/// # Errors
///
/// [`Error::Value`] for a batch size below 1 or an empty list of poolings; those of [`CropStream::start`],
/// [`normalize`], [`Vit::features`] and `take`.
pub fn stream_features<I: EncodedImages + 'static>(
    encoder: &Vit,
    poolings: &[Pooling],
    images: &Arc<I>,
    config: &FolderConfig,
    mut take: impl FnMut(CroppedBatch, Vec<Tensor>) -> Result<()>,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    check_in("batch_size", config.batch_size, 1..)?;
    check_value("poolings", poolings.len() as f64, "a list of 1 or more", !poolings.is_empty())?;
    let positions: Vec<i64> = (0..images.len()).collect();
    let batches = positions.chunks(config.batch_size as usize).map(<[i64]>::to_vec).collect();
    let cut = evaluation_cut(encoder.config().image_size);
    for batch in CropStream::start(Arc::clone(images), batches, vec![cut], &config.stream)? {
        let batch = batch?;
        let features = match batch.positions.is_empty() {
            true => Vec::new(),
            false => {
                let crops = to_device(&batch.crops[0], encoder.device())?;
                encoder.features_by_all(&normalize(&crops, config.mean, config.std)?, poolings)?
            }
        };
        take(batch, features)?;
    }
    Ok(())
}

fn none_readable(images: i64, broken: &[BrokenImage]) -> Error {
    let first = broken.first();
    let path = first.map(|image| image.path.clone()).unwrap_or_default();
    let problem = first.map_or("there are no images", |image| &image.problem);
    Error::Data { path, problem: format!("{problem}; none of the {images} images can be read") }
}

/// Collects rows batch by batch in one preallocated tensor: concatenating at the end would take twice the memory.
struct Rows {
    capacity: i64,
    all: Option<Tensor>,
    filled: i64,
}

impl Rows {
    fn new(capacity: i64) -> Rows {
        Rows { capacity, all: None, filled: 0 }
    }

    fn push(&mut self, rows: &Tensor) -> Result<()> {
        let all = match self.all.take() {
            Some(all) => all,
            None => {
                let size: Vec<i64> = [self.capacity].into_iter().chain(rows.size().into_iter().skip(1)).collect();
                Tensor::f_empty(size, (rows.f_kind()?, rows.device()))?
            }
        };
        let count = rows.size()[0];
        all.f_narrow(0, self.filled, count)?.f_copy_(rows)?;
        self.filled += count;
        self.all = Some(all);
        Ok(())
    }

    /// All rows, or `None` without any batch.
    fn finish(self) -> Result<Option<Tensor>> {
        Ok(self.all.map(|all| all.f_narrow(0, 0, self.filled)).transpose()?)
    }
}
