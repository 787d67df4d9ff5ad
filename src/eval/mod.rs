//! Evaluation of frozen features: kNN, linear probe, retrieval, PCA, and their spread.

mod accuracy;
#[cfg(feature = "image-folder")]
mod folder;
mod knn;
mod linear;
mod neighbors;
mod principal;
mod representation;
mod view;

use tch::Tensor;

use crate::augment::normalize;
use crate::data::Dataset;
use crate::error::{Error, Result, check_in, check_shape};
use crate::vit::{Pooling, Vit};

pub use accuracy::{Accuracy, accuracy};
#[cfg(feature = "image-folder")]
pub use folder::{FolderConfig, FolderFeatures, evaluation_cut, folder_features, stream_features};
pub use knn::{knn_accuracy, knn_accuracy_among};
pub use linear::{LinearClassifier, LinearConfig, linear_accuracy};
pub use neighbors::{Neighbors, nearest};
pub use principal::{PrincipalComponents, principal_components};
pub use representation::{alignment, effective_rank, uniformity};
pub use view::evaluation_view;

/// Features `[N, width]` of all images of a data set, on the encoder's device, without gradient.
///
/// The encoder sees the [`evaluation_view`] of every image, in the size that it takes and normalized with `mean` and
/// `std`. It runs in evaluation mode, `batch_size` images at a time.
///
/// # Errors
///
/// [`Error::Value`] if `batch_size` is below 1; [`Error::Shape`] for an empty data set; those of [`evaluation_view`],
/// [`normalize`] and [`Vit::features`].
pub fn features(
    encoder: &Vit,
    pooling: Pooling,
    dataset: &Dataset,
    mean: [f64; 3],
    std: [f64; 3],
    batch_size: i64,
) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let device = encoder.device();
    check_in("batch_size", batch_size, 1..)?;
    check_shape("images", &dataset.images, &[("N", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    let count = dataset.len();
    if count == 0 {
        let expected = "[N, 3, H, W] with at least one image".to_owned();
        return Err(Error::Shape { name: "images", expected, actual: dataset.images.size() });
    }
    let features = (0..count).step_by(batch_size as usize).map(|first| {
        let images = dataset.images.f_narrow(0, first, batch_size.min(count - first))?.f_to(device)?;
        let views = evaluation_view(&images, encoder.config().image_size)?;
        encoder.features(&normalize(&views, mean, std)?, pooling, false)
    });
    Ok(Tensor::f_cat(&features.collect::<Result<Vec<_>>>()?, 0)?)
}
