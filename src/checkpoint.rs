//! Files of named tensors that are whole or not there.
//!
//! A checkpoint is a safetensors file with text metadata: any tool that reads safetensors can open it, and nothing in it
//! is code. It is written beside its place, synced and renamed, so a run that dies while saving leaves the file that was
//! there before.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_defined, is_float};

/// Named tensors and text, as they stand in a file.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The tensors, on the CPU when they come from a file.
    pub tensors: HashMap<String, Tensor>,
    /// Text that says what the tensors are.
    pub metadata: HashMap<String, String>,
}

impl Checkpoint {
    /// Adds tensors under `prefix.NAME`.
    pub fn insert_all(&mut self, prefix: &str, tensors: impl IntoIterator<Item = (String, Tensor)>) {
        self.tensors.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
    }

    /// The tensors under `prefix`, by the rest of their name.
    pub fn part(&self, prefix: &str) -> HashMap<String, Tensor> {
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((rest.to_owned(), tensor.shallow_clone()))
        });
        tensors.collect()
    }

    /// The file's content.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] for a tensor of a kind that safetensors does not hold, [`Error::Undefined`] for an undefined one,
    /// [`Error::Checkpoint`] for the name `__metadata__`, under which the format has the text.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let refused = |problem| Error::Checkpoint { path: PathBuf::new(), problem };
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            if name == "__metadata__" {
                return Err(refused(format!("no tensor can be named {name}, which the format keeps for itself")));
            }
            check_defined("tensor", tensor)?;
            tensors.push((name.as_str(), dtype(tensor.f_kind()?)?, tensor.size(), bytes_of(tensor)?));
        }
        let unwritable = |error| Error::Checkpoint {
            path: PathBuf::new(),
            problem: format!("these tensors fit no safetensors file ({error})"),
        };
        let views = tensors.iter().map(|(name, dtype, size, bytes)| {
            let shape = size.iter().map(|&size| size as usize).collect();
            TensorView::new(*dtype, shape, bytes).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(unwritable)?;
        // Without tensors and with empty text, what safetensors writes is not JSON.
        let text = Some(self.metadata.clone()).filter(|text| !text.is_empty());
        serialize(views, text).map_err(unwritable)
    }

    /// Reads a file's content; `path` is where it came from, for errors.
    ///
    /// The header is checked against the length before anything is made of it, so damaged bytes cost no more memory
    /// than a small multiple of their number.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the bytes are damaged or no safetensors file.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Checkpoint> {
        let refused = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        if header_has_absurd_number(bytes) {
            return Err(refused("a number in its header is larger than any file".to_owned()));
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, &error))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, &error))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            // Sizes fit, because no number in the header is absurd.
            let size: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            let kind = kind(view.dtype())
                .ok_or_else(|| refused(format!("{name} holds {:?}, which this crate does not read", view.dtype())))?;
            // To libtorch, which is C++, reading another byte as a bool is undefined behaviour.
            if kind == Kind::Bool && view.data().iter().any(|byte| *byte > 1) {
                return Err(refused(format!("{name} holds truth values that are neither true nor false")));
            }
            let tensor = Tensor::f_from_data_size(view.data(), &size, kind);
            tensors.insert(name.to_owned(), tensor.map_err(|error| refused(format!("{name} of {size:?}: {error}")))?);
        }
        Ok(Checkpoint { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// Writes the file; what was at `path` before stays until the new file is whole and on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written, for example for want of space: the old file is then still there.
    /// Those of [`Checkpoint::to_bytes`].
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes()?)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no such file; [`Error::Checkpoint`] if it is a device, say, which may have no end, and
    /// where [`Checkpoint::from_bytes`] has it.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        if !fs::metadata(path).map_err(Error::io(path))?.is_file() {
            return Err(Error::Checkpoint { path: path.to_owned(), problem: "is not a file".to_owned() });
        }
        Checkpoint::from_bytes(&fs::read(path).map_err(Error::io(path))?, path)
    }

    /// Copies the tensors under `prefix` into the variables of the same names.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] naming the first variable that is missing in the file, or has another shape there or holds
    /// other than floating-point numbers where the variable does; [`Error::Undefined`] for an undefined tensor. Nothing
    /// is changed then.
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
                    "{prefix}.{name} has shape {size:?} and the model {expected:?}; it belongs to a model of another shape"
                ),
                Some(_) => match (saved[name].f_kind()?, variable.f_kind()?) {
                    // Weights may be kept in another precision. All else would be cut off without a word.
                    (saved, own) if saved == own || (is_float(saved) && is_float(own)) => continue,
                    (saved, own) => format!("{prefix}.{name} holds {saved:?} and the model {own:?}"),
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

/// Writes `bytes` to `path` so that the file is the old one or the new one, whatever happens on the way.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be written; what was there before is then still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(source) = written.and_then(|()| fs::rename(&beside, path)) {
        // The half file is of no use; that it cannot be removed either would add nothing to the error.
        let _ = fs::remove_file(&beside);
        return Err(Error::Io { path: path.to_owned(), source });
    }
    // The rename itself is on the disk once the folder is. Some file systems cannot sync a folder; the file is whole in
    // its place by now all the same.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// Whether a number outside the strings of the header has more than 16 digits. No file is that long, so no true header
/// has one; and without, sums of offsets and products of sizes by the width of a number stay in range.
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

/// The memory of a tensor, copied to the CPU and made contiguous.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    // Other sizes beside a 0 may multiply to more than an i64 holds.
    if tensor.size().contains(&0) {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
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
    known.ok_or(Error::Kind { name: "tensor", expected: "a kind that safetensors holds", actual: kind })
}

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, known)| *known == dtype).map(|(kind, _)| *kind)
}
