//! TensorBoard event files: the rows of `metrics.csv`, and pictures.
//!
//! A file is a sequence of records, each a message of TensorFlow's `event.proto`. Files only grow, so an open
//! TensorBoard follows them. A run that resumes begins another file, whose start makes readers forget what the run had
//! written from that step on before it died.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use patchmix::files::{printable, read_small};
use prost::Message;

use crate::Result;
use crate::run::metrics::Row;
use crate::terminal::shown;

/// The longest picture that is read, in bytes: far more than a run draws.
const MAX_PICTURE: u64 = 64 << 20;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "Kind", tags = "3, 5, 7")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Number(f32),
    #[prost(message, tag = "4")]
    Picture(Picture),
}

#[derive(Clone, PartialEq, Message)]
struct Picture {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// Channels: 3 for red, green and blue.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    png: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`.
const START: i32 = 1;

/// An event file of this process.
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in the folder of a run, for events from `first_step` on.
    pub(crate) fn create(folder: &Path, first_step: u64) -> Result<EventFile> {
        // Readers take files in the order of their names.
        let now = since_1970();
        let path = folder.join(format!("events.out.tfevents.{:010}.{:09}", now.as_secs(), now.subsec_nanos()));
        let file = File::create_new(&path).map_err(|error| format!("{}: {error}", shown(&path)))?;
        let mut events = EventFile { path, file };
        events.add(0, Kind::FileVersion("brain.Event:2".to_owned()))?;
        events.add(first_step, Kind::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Adds the numbers of a row of `metrics.csv` under the names of their columns.
    pub(crate) fn add_row(&mut self, step: u64, row: &Row) -> Result<()> {
        let numbers = row.columns().filter(|(name, _)| *name != "step").filter_map(|(name, number)| {
            Some(Value { tag: name.to_owned(), content: Some(Content::Number(number? as f32)) })
        });
        self.add(step, Kind::Summary(Summary { values: numbers.collect() }))
    }

    /// Adds a picture from a PNG file.
    pub(crate) fn add_picture(&mut self, tag: &str, step: u64, path: &Path) -> Result<()> {
        let png = read_small(path, MAX_PICTURE)?;
        let (width, height) =
            image::image_dimensions(path).map_err(|error| format!("{}: {}", shown(path), printable(error)))?;
        let picture = Picture { height: height as i32, width: width as i32, colorspace: 3, png };
        let value = Value { tag: tag.to_owned(), content: Some(Content::Picture(picture)) };
        self.add(step, Kind::Summary(Summary { values: vec![value] }))
    }

    fn add(&mut self, step: u64, kind: Kind) -> Result<()> {
        let event = Event { wall_time: since_1970().as_secs_f64(), step: step as i64, kind: Some(kind) };
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        Ok(written.map_err(|error| format!("{}: {error}", shown(&self.path)))?)
    }
}

/// A record of TensorFlow's `TFRecord` format: length, its checksum, the bytes, their checksum.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_checksum(&length), bytes, &masked_checksum(bytes)].concat()
}

/// CRC-32C, rotated and shifted so that the checksum of data that contains checksums is not trivial.
fn masked_checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
