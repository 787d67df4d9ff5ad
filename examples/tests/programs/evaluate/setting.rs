//! An encoder in a file and images in files, as `evaluate` finds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use patchmix::data::Dataset;
use patchmix::eval;
use patchmix::vit::{EncoderFile, Pooling, Vit};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::encoder_config;
use crate::support::{TINY_RUN, assert_refused, command_in, error_text, png_folder, read_json};

/// For an encoder of this image size the shorter side is resized to 32 pixels, which the images here have already.
const CENTER: i64 = 28;
pub(super) const MEAN: [f64; 3] = [0.5; 3];
pub(super) const STD: [f64; 3] = [0.25; 3];

/// An encoder in a file, images in files, and both parts in memory.
pub(super) struct Setting {
    folder: tempfile::TempDir,
    pub(super) encoder: Vit,
    pub(super) train: Dataset,
    pub(super) test: Dataset,
    _store: VarStore,
}

impl Setting {
    pub(super) fn new() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let config = encoder_config(CENTER, 7);
        let store = VarStore::new(Device::Cpu);
        let encoder = Vit::new(&store.root(), &config).unwrap();
        let (pooling, tensors) = (Pooling::ClassToken, store.variables());
        let file = EncoderFile { config, mean: MEAN, std: STD, pooling, tensors };
        file.save(&folder.path().join("encoder.safetensors")).unwrap();
        let [train, test] = png_folder(&folder.path().join("images"), [120, 60]);
        Setting { folder, encoder, train, test, _store: store }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join("images").join(name)
    }

    /// `evaluate` on a checkpoint that the options name.
    pub(super) fn run(&self, options: &str) -> Output {
        command_in(self.path(), "evaluate", &format!("{options} --device cpu --threads 1")).output().unwrap()
    }

    /// `evaluate` on the encoder and the image files.
    pub(super) fn evaluation(&self, options: &str) -> Output {
        self.run(&format!("{options} --checkpoint encoder.safetensors --dataset image-folder --data images"))
    }

    /// The standard output of an evaluation, its standard error, and the results that it writes with `--json`.
    #[track_caller]
    pub(super) fn results(&self, options: &str) -> (String, String, Value) {
        let output = self.evaluation(&format!("{options} --json results.json"));
        assert!(output.status.success(), "{options}: {}", error_text(&output));
        let results = read_json(&self.path().join("results.json"));
        (String::from_utf8(output.stdout.clone()).unwrap(), error_text(&output), results)
    }

    #[track_caller]
    pub(super) fn assert_refused(&self, options: &str, named: &[&str]) {
        assert_refused(options, &self.run(options), named);
    }

    /// The features of images in memory.
    pub(super) fn features(&self, images: &Dataset, pooling: Pooling) -> Tensor {
        eval::features(&self.encoder, pooling, images, MEAN, STD, 50).unwrap()
    }

    /// A folder `run` with a pre-training on these image files, as far as its settings say.
    pub(super) fn folder_run(&self) {
        let (source, run) = (TINY_RUN.join("run"), self.path().join("run"));
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        for entry in fs::read_dir(source.join("checkpoints")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), run.join("checkpoints").join(entry.file_name())).unwrap();
        }
        let mut settings = read_json(&source.join("config.json"));
        settings["dataset"] = "image-folder".into();
        settings["data"] = "images".into();
        fs::write(run.join("config.json"), settings.to_string()).unwrap();
    }
}
