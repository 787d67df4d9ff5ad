//! A table of features on its way to the disk.

use std::path::{Path, PathBuf};

use patchmix::files::PartialFile;
use tch::{Device, Kind};

use super::format::{Format, npy, safetensors};
use crate::Result;
use crate::images::FeatureBatch;
use crate::terminal::shown;

/// Where the features of one part of the images go.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    /// Its name in files.
    pub(super) part: &'a str,
    pub(super) format: Format,
}

impl Place<'_> {
    pub(super) fn features(&self) -> PathBuf {
        self.file(if self.format == Format::Npy { "features.npy" } else { "safetensors" })
    }

    /// In safetensors, the labels are in the file of the features.
    fn labels(&self) -> Option<PathBuf> {
        (self.format == Format::Npy).then(|| self.file("labels.npy"))
    }

    fn paths(&self) -> PathBuf {
        self.file("paths.json")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.part))
    }

    /// An error if there is one of the files.
    pub(super) fn check_free(&self) -> Result<()> {
        let mut files = [self.features(), self.paths()].into_iter().chain(self.labels());
        files.try_for_each(|file| check_free(&file))
    }
}

/// An error if there is a file that would be written over.
pub(super) fn check_free(file: &Path) -> Result<()> {
    match file.exists() {
        true => Err(format!("{}: exists; remove it, or name another folder by --out", shown(file)).into()),
        false => Ok(()),
    }
}

/// Features, labels and paths that are written as they come. Only the labels stay in memory, 8 bytes per image. The
/// files get their names when all rows are written. Images without classes have no labels.
pub(super) struct Table<'a> {
    place: &'a Place<'a>,
    about: &'a [(&'a str, String)],
    width: i64,
    /// Bytes of the header, enough for all rows that there can be.
    room: usize,
    features: PartialFile,
    rows: i64,
    labels: Vec<i64>,
    /// For images in files, from the first row on.
    paths: Option<PartialFile>,
}

impl<'a> Table<'a> {
    /// A table of at most `rows` rows; `about` is said in its metadata, if its format has some.
    pub(super) fn create(place: &'a Place<'a>, [rows, width]: [i64; 2], about: &'a [(&str, String)]) -> Result<Self> {
        let mut features = PartialFile::create(&place.features())?;
        let header = header(place.format, [rows, width], true, about, 0);
        features.write(&header)?;
        Ok(Table { place, about, width, room: header.len(), features, rows: 0, labels: Vec::new(), paths: None })
    }

    /// Appends rows.
    pub(super) fn push(&mut self, batch: FeatureBatch) -> patchmix::Result<()> {
        let FeatureBatch { features, labels, paths } = batch;
        let features = features.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let numbers = Vec::<f32>::try_from(features.f_flatten(0, -1)?)?;
        self.features.write(&numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?;
        self.rows += features.size()[0];
        if let Some(labels) = labels {
            self.labels.extend(Vec::<i64>::try_from(labels.f_to_device(Device::Cpu)?)?);
        }
        for path in paths.into_iter().flatten() {
            let (file, before) = match &mut self.paths {
                Some(file) => (file, ",\n"),
                None => (self.paths.insert(PartialFile::create(&self.place.paths())?), "[\n"),
            };
            file.write(format!("{before}{}", serde_json::Value::from(path)).as_bytes())?;
        }
        Ok(())
    }

    /// Completes the files; returns the number of rows.
    pub(super) fn finish(mut self) -> Result<i64> {
        let Table { rows, width, .. } = self;
        if rows == 0 {
            return Err(format!("none of the {} images can be read", self.place.part).into());
        }
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        match self.place.labels() {
            None => self.features.write(&labels)?,
            Some(_) if labels.is_empty() => {}
            Some(path) => {
                let mut file = PartialFile::create(&path)?;
                file.write(&npy(&[rows], "<i8", 0))?;
                file.write(&labels)?;
                file.finish()?;
            }
        }
        if let Some(mut paths) = self.paths {
            paths.write(b"\n]\n")?;
            paths.finish()?;
        }
        let has_labels = !labels.is_empty();
        self.features.write_start(&header(self.place.format, [rows, width], has_labels, self.about, self.room))?;
        self.features.finish()?;
        Ok(rows)
    }
}

fn header(format: Format, size: [i64; 2], has_labels: bool, about: &[(&str, String)], room: usize) -> Vec<u8> {
    match format {
        Format::Safetensors => safetensors(size, has_labels, about, room),
        Format::Npy => npy(&size, "<f4", room),
    }
}
