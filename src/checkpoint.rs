//! Checkpoints: atomically written safetensors files of named tensors and text metadata.
//!
//! Any tool that reads safetensors can open a checkpoint, and nothing in it is code. It is written to a temporary file
//! in the same folder, synced and renamed, so a run that dies while saving leaves the previous file intact.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_defined, is_float};
use crate::files::open_file;
pub use crate::files::write_atomic;

/// The contents of a checkpoint file: named tensors and text.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The tensors; on the CPU if they were read from a file.
    pub tensors: HashMap<String, Tensor>,
    /// Text about the tensors, by key.
    pub metadata: HashMap<String, String>,
}

impl Checkpoint {
    /// Adds tensors under `prefix.NAME`.
    pub fn insert_all(&mut self, prefix: &str, tensors: impl IntoIterator<Item = (String, Tensor)>) {
        self.tensors.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
    }

    /// The tensors under `prefix`, by the rest of their names.
    pub fn part(&self, prefix: &str) -> HashMap<String, Tensor> {
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((rest.to_owned(), tensor.shallow_clone()))
        });
        tensors.collect()
    }

    /// Serializes the checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] for a tensor of a dtype that safetensors does not support, [`Error::Undefined`] for an undefined
    /// one, [`Error::Checkpoint`] for a tensor named `__metadata__`, which the format reserves for the text.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let refused = |problem| Error::Checkpoint { path: PathBuf::new(), problem };
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            if name == "__metadata__" {
                return Err(refused(format!("no tensor can be named {name}, which the format reserves")));
            }
            check_defined("tensor", tensor)?;
            tensors.push((name.as_str(), dtype(tensor.f_kind()?)?, tensor.size(), bytes_of(tensor)?));
        }
        let unwritable = |error| Error::Checkpoint {
            path: PathBuf::new(),
            problem: format!("cannot be written as safetensors ({error})"),
        };
        let views = tensors.iter().map(|(name, dtype, size, bytes)| {
            let shape = size.iter().map(|&size| size as usize).collect();
            TensorView::new(*dtype, shape, bytes).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(unwritable)?;
        // With neither tensors nor text, an empty map makes safetensors write invalid JSON. Its maps are the standard
        // library's only with the feature `std`, which another crate may turn on.
        let text = (!self.metadata.is_empty()).then(|| self.metadata.clone().into_iter().collect());
        serialize(views, text).map_err(unwritable)
    }

    /// Parses the contents of a file; `path` is for error messages.
    ///
    /// The header is checked against the length first, so damaged bytes take no more memory than a small multiple of
    /// their length.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the bytes are damaged or not a safetensors file.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Checkpoint> {
        let refused = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        if header_has_absurd_number(bytes) {
            return Err(refused("a number in its header is larger than any file".to_owned()));
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, &error))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, &error))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            // Sizes fit an i64, because no number in the header is absurd.
            let size: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            let kind = kind(view.dtype()).ok_or_else(|| {
                refused(format!("{name} has dtype {:?}, which this crate does not read", view.dtype()))
            })?;
            // In C++ and so in libtorch, reading any other byte as a bool is undefined behavior.
            if kind == Kind::Bool && view.data().iter().any(|byte| *byte > 1) {
                return Err(refused(format!("{name} has booleans that are neither true nor false")));
            }
            let tensor = Tensor::f_from_data_size(view.data(), &size, kind);
            let unmade = |error| refused(format!("{name} of {size:?}: {}", Error::from(error)));
            tensors.insert(name.to_owned(), tensor.map_err(unmade)?);
        }
        let text = header.metadata().iter().flatten();
        Ok(Checkpoint { tensors, metadata: text.map(|(key, value)| (key.clone(), value.clone())).collect() })
    }

    /// Writes the file atomically, see [`write_atomic`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written, for example because the disk is full; the old file is intact then.
    /// Those of [`Checkpoint::to_bytes`].
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomic(path, &self.to_bytes()?)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read; [`Error::Checkpoint`] if it is not a regular file (a device may have
    /// no end); those of [`Checkpoint::from_bytes`].
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let mut file = open_file(path).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Error::Checkpoint { path: path.to_owned(), problem: "is not a file".to_owned() },
            _ => Error::io(path)(error),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        Checkpoint::from_bytes(&bytes, path)
    }

    /// Copies the tensors under `prefix` into the variables of the same names.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] naming the first variable that is missing in the file or has another shape or dtype there,
    /// where all floating-point dtypes are interchangeable; [`Error::Undefined`] for an undefined tensor. Nothing is
    /// changed then.
    pub fn restore(&self, prefix: &str, variables: HashMap<String, Tensor>, path: &Path) -> Result<()> {
        let saved = self.part(prefix);
        let mut names: Vec<&String> = variables.keys().collect();
        names.sort();
        for name in names {
            let variable = &variables[name];
            check_defined("variable", variable)?;
            saved.get(name).map_or(Ok(()), |saved| check_defined("tensor", saved))?;
            let expected = variable.size();
            let problem = match saved.get(name).map(Tensor::size) {
                None => format!("has no {prefix}.{name}; it belongs to another model"),
                Some(size) if size != expected => format!(
                    "{prefix}.{name} has shape {size:?} instead of {expected:?}; it belongs to a model of another shape"
                ),
                Some(_) => match (saved[name].f_kind()?, variable.f_kind()?) {
                    // Weights may be stored in another precision. Any other cast would silently lose data.
                    (saved, own) if saved == own || (is_float(saved) && is_float(own)) => continue,
                    (saved, own) => format!("{prefix}.{name} has dtype {saved:?}, but the model has {own:?}"),
                },
            };
            return Err(Error::Checkpoint { path: path.to_owned(), problem });
        }
        let _no_grad = tch::no_grad_guard();
        for (name, mut variable) in variables {
            variable.f_copy_(&saved[&name])?;
        }
        Ok(())
    }
}

/// Whether a number outside the strings of the header has more than 16 digits. No file is that long, so no valid header
/// has one; without them, sums of offsets and products of sizes cannot overflow.
fn header_has_absurd_number(bytes: &[u8]) -> bool {
    const DIGITS: usize = 16;
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    let header = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
    let (mut in_string, mut escaped, mut digits) = (false, false, 0);
    for byte in header.unwrap_or_default() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
        digits = if !in_string && byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > DIGITS {
            return true;
        }
    }
    false
}

fn damaged(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem: format!("not a whole safetensors file ({error})") }
}

/// The elements of a tensor in memory order.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    // With a size of 0, the product of the other sizes may overflow an i64.
    if tensor.size().contains(&0) {
        return Ok(Vec::new());
    }
    let kind = tensor.f_kind()?;
    // A fresh copy: a tensor may have no memory, as libtorch's tensor of zeros, or hold its elements negated.
    let mut copy = Tensor::f_empty(tensor.size(), (kind, Device::Cpu))?;
    copy.f_copy_(&tensor.f_detach()?)?;
    let mut bytes = vec![0; copy.numel() * kind.elt_size_in_bytes()];
    copy.f_copy_data_u8(&mut bytes, copy.numel())?;
    Ok(bytes)
}

const KINDS: [(Kind, Dtype); 9] = [
    (Kind::Bool, Dtype::BOOL),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int16, Dtype::I16),
    (Kind::Int, Dtype::I32),
    (Kind::Int64, Dtype::I64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
];

fn dtype(kind: Kind) -> Result<Dtype> {
    let known = KINDS.iter().find(|(known, _)| *known == kind).map(|(_, dtype)| *dtype);
    known.ok_or(Error::Kind { name: "tensor", expected: "of a dtype that safetensors supports", actual: kind })
}

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, known)| *known == dtype).map(|(kind, _)| *kind)
}
