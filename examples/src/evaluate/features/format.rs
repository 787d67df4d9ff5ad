//! Headers of tables whose number of rows is known at the end only: with room for more.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// Format of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// PART.safetensors with the tensors features and labels
    Safetensors,
    /// PART.features.npy and PART.labels.npy
    Npy,
}

/// Headers are padded to a multiple of it, so that numbers are aligned in memory.
const ALIGNMENT: usize = 64;

/// A safetensors header of at least `room` bytes, for features `[rows, width]` of `f32` and behind them, if there are
/// some, labels `[rows]` of `i64`; `about` is its metadata.
pub(super) fn safetensors([rows, width]: [i64; 2], has_labels: bool, about: &[(&str, String)], room: usize) -> Vec<u8> {
    let end = 4 * rows * width;
    let about: Map<String, Value> =
        about.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into())).collect();
    let mut header = json!({
        "__metadata__": about,
        "features": { "dtype": "F32", "shape": [rows, width], "data_offsets": [0, end] },
    });
    if has_labels {
        header["labels"] = json!({ "dtype": "I64", "shape": [rows], "data_offsets": [end, end + 8 * rows] });
    }
    let text = header.to_string();
    let length = room.max((8 + text.len()).next_multiple_of(ALIGNMENT));
    let mut bytes = ((length - 8) as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(length, b' ');
    bytes
}

/// A header of numpy's format, version 1.0, of at least `room` bytes. `kind` is `<f4` or `<i8`.
pub(super) fn npy(shape: &[i64], kind: &str, room: usize) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let shape: String = shape.iter().map(|side| format!("{side},")).collect();
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = MAGIC.len() + 2;
    let length = room.max((before + text.len() + 1).next_multiple_of(ALIGNMENT));
    let mut bytes = MAGIC.to_vec();
    // Some hundred bytes.
    bytes.extend_from_slice(&((length - before) as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(length - 1, b' ');
    bytes.push(b'\n');
    bytes
}
