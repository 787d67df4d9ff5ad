//! The one error type of the crate.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, TchError, Tensor};

/// Everything that can go wrong, with the numbers that tell what.
///
/// Match on the variants; the messages are for people and may change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has another shape than the function takes.
    #[error("{name} must have shape {expected}, got {actual:?}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// The shape it should have, in words, for example `[B, T, D]`.
        expected: String,
        /// The shape it has.
        actual: Vec<i64>,
    },

    /// A tensor is undefined: it has neither a shape nor a kind, as the gradient of a tensor that has none.
    #[error("{name} is an undefined tensor")]
    Undefined {
        /// The argument.
        name: &'static str,
    },

    /// A tensor holds another kind of numbers than the function takes.
    #[error("{name} must hold {expected}, got {actual:?}")]
    Kind {
        /// The argument.
        name: &'static str,
        /// The kinds it may hold, in words.
        expected: &'static str,
        /// The kind it holds.
        actual: Kind,
    },

    /// Two tensors that meet in one computation are on different devices.
    #[error("{name} must be on {expected:?} like the rest, and is on {actual:?}")]
    Device {
        /// The argument.
        name: &'static str,
        /// Where the others are.
        expected: Device,
        /// Where it is.
        actual: Device,
    },

    /// The number of groups lies outside `1 ..= patches`.
    #[error("the number of groups must lie between 1 and the {patches} patches of an image, got {groups}")]
    Groups {
        /// The number of groups asked for.
        groups: i64,
        /// The number of patches an image has.
        patches: i64,
    },

    /// The images that one mixed image is made of would not be distinct: two of `g * mix_stride mod batch_size`
    /// agree for `g` in `0..groups`.
    #[error(
        "{groups} groups at stride {mix_stride} need {groups} distinct images in a batch, and {batch_size} give {distinct}; \
         use a larger batch, fewer groups or another stride"
    )]
    SourcesCollide {
        /// Images in the batch.
        batch_size: i64,
        /// Groups of the mix.
        groups: i64,
        /// Distance in the batch between the images of neighbouring groups.
        mix_stride: i64,
        /// How many distinct images there would be.
        distinct: i64,
    },

    /// A list that should hold every position from 0 to its length minus 1 once does not.
    #[error("not a permutation of 0..{length}: {position} is out of range or there twice")]
    Permutation {
        /// Length of the list.
        length: i64,
        /// The first entry that does not fit.
        position: i64,
    },

    /// An image does not divide into whole patches.
    #[error("an image of {height} x {width} pixels does not divide into patches of {patch_size} x {patch_size}")]
    PatchSize {
        /// Height of the images in pixels.
        height: i64,
        /// Width of the images in pixels.
        width: i64,
        /// Side of a patch in pixels.
        patch_size: i64,
    },

    /// A number lies outside the range in which it means something.
    #[error("{name} must be {expected}, got {actual}")]
    Value {
        /// The argument or setting.
        name: &'static str,
        /// What it may be, in words.
        expected: String,
        /// What it is.
        actual: f64,
    },

    /// A data file is missing, damaged or not what its name says.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A checkpoint is damaged or belongs to another model.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A set of weights does not make the model that it should.
    #[error("the weights do not fit: {problem}")]
    Weights {
        /// What is wrong, with the tensor's name.
        problem: String,
    },

    /// The operating system could not read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// Ranks that train together do not come together, or disagree.
    #[error("{doing}: {problem}")]
    Group {
        /// What this rank was about to do.
        doing: &'static str,
        /// What is wrong, with the ranks, and what to look at.
        problem: String,
    },

    /// libtorch refused; the message is its own.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether libtorch ran out of memory, on the CPU or a GPU. Tensors allocated before remain valid, and the process
    /// can go on.
    pub fn is_out_of_memory(&self) -> bool {
        const WORDS: [&str; 5] =
            ["out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED", "bad_alloc"];
        let says = |text: &str| WORDS.iter().any(|words| text.contains(words));
        match self {
            Error::Torch(error) => says(&error.to_string()),
            Error::Group { problem, .. } => says(problem),
            _ => false,
        }
    }

    /// For `map_err` on the results of file operations.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }
}

/// An error if `tensor` is undefined: tch panics when asked for the shape or the device of such a one.
pub(crate) fn check_defined(name: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() { Ok(()) } else { Err(Error::Undefined { name }) }
}

/// An error for the index of a GPU that there cannot be: tch cuts it down to the bits that libtorch has for it, and
/// some then stand for another GPU or for the CPU.
pub(crate) fn check_index(device: Device) -> Result<()> {
    const LAST: usize = i8::MAX as usize;
    match device {
        Device::Cuda(index) => check_value("device", index as f64, &format!("0 to {LAST}"), index <= LAST),
        _ => Ok(()),
    }
}

/// An error that names `actual` unless it `fits`.
pub(crate) fn check_value(name: &'static str, actual: f64, expected: &str, fits: bool) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Value { name, expected: expected.to_owned(), actual }) }
}

/// An error unless `tensor` is defined and has as many dimensions as `expected` names, and the sizes that are given.
///
/// `expected` reads like the documentation: `[("B", None), ("T", Some(16))]` is "`[B, 16]`".
pub(crate) fn check_shape(name: &'static str, tensor: &Tensor, expected: &[(&str, Option<i64>)]) -> Result<()> {
    check_defined(name, tensor)?;
    let actual = tensor.size();
    let fits = actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(size, (_, wanted))| wanted.is_none_or(|wanted| wanted == *size));
    if fits {
        return Ok(());
    }
    let words: Vec<String> =
        expected.iter().map(|(word, size)| size.map_or_else(|| (*word).to_owned(), |size| size.to_string())).collect();
    Err(Error::Shape { name, expected: format!("[{}]", words.join(", ")), actual })
}

/// An error unless `tensor` holds real floating-point numbers.
pub(crate) fn check_float(name: &'static str, tensor: &Tensor) -> Result<()> {
    check_float_kind(name, tensor.f_kind()?)
}

/// An error unless `actual` is a kind of real floating-point number.
pub(crate) fn check_float_kind(name: &'static str, actual: Kind) -> Result<()> {
    if is_float(actual) { Ok(()) } else { Err(Error::Kind { name, expected: "floating-point numbers", actual }) }
}

/// Whether `kind` is one of real floating-point numbers.
pub(crate) fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

/// An error unless `tensor` is on `expected`.
pub(crate) fn check_device(name: &'static str, tensor: &Tensor, expected: Device) -> Result<()> {
    let actual = tensor.device();
    if actual == expected { Ok(()) } else { Err(Error::Device { name, expected, actual }) }
}
