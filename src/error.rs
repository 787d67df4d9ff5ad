//! The crate's error type, and the argument checks that return it.

mod check;

use std::path::{Path, PathBuf};

use tch::{Device, Kind, TchError};

pub(crate) use check::*;

use crate::files::printable;

/// The error of every function in this crate, with the offending values as fields.
///
/// Match on the variants; the messages are for people and may change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has the wrong shape.
    #[error("{name} must have shape {expected}, got {actual:?}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// The shape it should have, in words, for example `[B, T, D]`.
        expected: String,
        /// The shape it has.
        actual: Vec<i64>,
    },

    /// A tensor is undefined, such as the gradient of a tensor that has none.
    #[error("{name} is an undefined tensor")]
    Undefined {
        /// The argument.
        name: &'static str,
    },

    /// A tensor is not contiguous in memory where it has to be.
    #[error("{name} must be contiguous")]
    NotContiguous {
        /// The argument.
        name: &'static str,
    },

    /// A tensor has the wrong kind (dtype).
    #[error("{name} must be {expected}, got {actual:?}")]
    Kind {
        /// The argument.
        name: &'static str,
        /// The kinds it may have, in words.
        expected: &'static str,
        /// The kind it has.
        actual: Kind,
    },

    /// Two tensors of one computation are on different devices.
    #[error("{name} must be on {expected:?} like the other tensors, but it is on {actual:?}")]
    Device {
        /// The argument.
        name: &'static str,
        /// The device of the other tensors.
        expected: Device,
        /// The device it is on.
        actual: Device,
    },

    /// A device lacks what a function needs.
    #[error("{name} does not run on {device:?}: {reason}; use the CPU or a CUDA GPU")]
    Unsupported {
        /// The function or type.
        name: &'static str,
        /// The device.
        device: Device,
        /// What the device lacks, in words.
        reason: &'static str,
    },

    /// The number of groups is not between 1 and the number of patches.
    #[error("the number of groups must be between 1 and the number of patches ({patches}), got {groups}")]
    Groups {
        /// The number of groups asked for.
        groups: i64,
        /// The number of patches in an image.
        patches: i64,
    },

    /// The source images of a mixed image would not be distinct: `g * mix_stride mod batch_size` repeats for `g` in
    /// `0..groups`.
    #[error(
        "{groups} groups with stride {mix_stride} need {groups} distinct images, but a batch of {batch_size} has only \
         {distinct}; use a larger batch, fewer groups or another stride"
    )]
    SourcesCollide {
        /// Images in the batch.
        batch_size: i64,
        /// Groups of the mix.
        groups: i64,
        /// Distance in the batch between the source images of neighboring groups.
        mix_stride: i64,
        /// How many distinct source images there are.
        distinct: i64,
    },

    /// A list is not a permutation of `0..length`.
    #[error("not a permutation of 0..{length}: {position} is out of range or repeated")]
    Permutation {
        /// Length of the list.
        length: i64,
        /// The first entry that is out of range or repeated.
        position: i64,
    },

    /// The patch size does not divide the image size.
    #[error(
        "the patch size must be positive and divide the image size, got images of {height} x {width} px and patches \
         of {patch_size} px"
    )]
    PatchSize {
        /// Height of the images in pixels.
        height: i64,
        /// Width of the images in pixels.
        width: i64,
        /// Side of a patch in pixels.
        patch_size: i64,
    },

    /// A number is out of range.
    #[error("{name} must be {expected}, got {actual}")]
    Value {
        /// The argument or setting.
        name: &'static str,
        /// The values allowed, in words.
        expected: String,
        /// The value found.
        actual: f64,
    },

    /// A data file is missing or damaged.
    #[error("{}: {}", printable(path.display()), printable(problem))]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// A checkpoint is damaged or belongs to another model.
    #[error("checkpoint {}: {}", printable(path.display()), printable(problem))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// Weights do not fit the model.
    #[error("the weights do not fit: {}", printable(problem))]
    Weights {
        /// What is wrong, with the tensor's name.
        problem: String,
    },

    /// The operating system could not read or write a file.
    #[error("{}: {source}", printable(path.display()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// Joining a group or a collective failed: a rank is missing, the ranks disagree, or the launcher's variables are
    /// invalid.
    #[error("{doing}: {}", printable(problem))]
    Group {
        /// The collective or step that failed.
        doing: &'static str,
        /// What is wrong, which ranks are involved, and what to check.
        problem: String,
    },

    /// An error of libtorch, with its own message. `From` leaves out the C++ call stack that libtorch appends.
    #[error("libtorch: {0}")]
    Torch(#[source] TchError),
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Error {
        Error::Torch(match error {
            TchError::Torch(text) => TchError::Torch(without_call_stack(text)),
            other => other,
        })
    }
}

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether libtorch ran out of memory, on the CPU or on a GPU. Existing tensors stay valid and the process can
    /// continue.
    pub fn is_out_of_memory(&self) -> bool {
        const SIGNS: [&str; 5] =
            ["out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED", "bad_alloc"];
        let matches = |message: &str| SIGNS.iter().any(|sign| message.contains(sign));
        match self {
            Error::Torch(error) => matches(&error.to_string()),
            Error::Group { problem, .. } => matches(problem),
            _ => false,
        }
    }

    /// For `map_err` on the results of file operations.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }
}

/// libtorch's message without the C++ call stack behind it, which has dozens of lines.
fn without_call_stack(mut message: String) -> String {
    if let Some(end) = message.find("\nException raised from ") {
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_libtorch_comes_without_its_call_stack() {
        let matrix = tch::Tensor::ones([2, 3], tch::kind::FLOAT_CPU);
        let raw = matrix.f_matmul(&matrix).unwrap_err();
        assert!(raw.to_string().contains("frame #"), "libtorch appends none any more: {raw}");
        let message = Error::from(raw).to_string();
        assert!(message.contains("mat1 and mat2 shapes cannot be multiplied"), "{message}");
        assert!(!message.contains("frame #") && !message.contains("Exception raised"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
