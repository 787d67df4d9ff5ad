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

use crate::error::{Error, Result};

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
    /// [`Error::Kind`] for a tensor of a kind that safetensors does not hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
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
        serialize(views, Some(self.metadata.clone())).map_err(unwritable)
    }

    /// Reads a file's content; `path` is where it came from, for errors.
    ///
    /// The header is checked against the length before anything is made of it, so damaged bytes cost no more memory
    /// than their number.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the bytes are damaged or no safetensors file.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Checkpoint> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, &error))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, &error))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            let size: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            let kind = kind(view.dtype()).ok_or_else(|| Error::Checkpoint {
                path: path.to_owned(),
                problem: format!("{name} holds {:?}, which this crate does not read", view.dtype()),
            })?;
            tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &size, kind)?);
        }
        Ok(Checkpoint { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// Writes the file; what was at `path` before stays until the new file is whole and on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written, for example for want of space: the old file is then still there.
    /// [`Error::Kind`] for a tensor of a kind that safetensors does not hold.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes()?)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no such file, [`Error::Checkpoint`] if it is damaged or no safetensors file.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        Checkpoint::from_bytes(&fs::read(path).map_err(Error::io(path))?, path)
    }

    /// Copies the tensors under `prefix` into the variables of the same names.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] naming the first variable that is missing in the file or has another shape there; nothing
    /// is changed then.
    pub fn restore(&self, prefix: &str, variables: HashMap<String, Tensor>, path: &Path) -> Result<()> {
        let saved = self.part(prefix);
        let mut names: Vec<&String> = variables.keys().collect();
        names.sort();
        for name in names {
            let expected = variables[name].size();
            let problem = match saved.get(name).map(Tensor::size) {
                None => format!("has no {prefix}.{name}; it belongs to another model"),
                Some(size) if size != expected => format!(
                    "{prefix}.{name} has shape {size:?} and the model {expected:?}; it belongs to a model of another shape"
                ),
                Some(_) => continue,
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

fn damaged(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem: format!("not a whole safetensors file ({error})") }
}

/// The memory of a tensor, copied to the CPU and made contiguous.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
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
