//! Encoder files: weights under timm's names, with the settings that the shapes do not show as metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use tch::{Kind, Tensor, nn};

use super::{Pooling, Precision, Vit, VitConfig};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, check_defined, check_positive, check_value, is_float};

/// Weights that depend on the images.
pub(super) const POSITIONS: &str = "pos_embed";
pub(super) const PATCH_WEIGHT: &str = "patch_embed.proj.weight";
pub(super) const PATCH_BIAS: &str = "patch_embed.proj.bias";

const FORMAT: &str = "patchmix-encoder 1";
const POOLINGS: [(Pooling, &str); 2] = [(Pooling::ClassToken, "class_token"), (Pooling::PatchMean, "patch_mean")];

/// The contents of an encoder file: the weights, and everything needed to use them.
///
/// The tensors have the names of timm's `VisionTransformer` without a classifier, unprefixed, so timm loads the
/// safetensors file as it is; its metadata entry `timm` is the model to load it into. Projector and predictor are not
/// included.
///
/// The fields are public. To import a plain safetensors file with timm's names, load it with [`Checkpoint::load`] and
/// supply a [`VitConfig`]: the number of heads is not in the shapes.
///
/// ```no_run
/// use std::path::Path;
/// use patchmix::vit::EncoderFile;
///
/// let store = tch::nn::VarStore::new(tch::Device::cuda_if_available());
/// let file = EncoderFile::load(Path::new("encoder.safetensors"))?;
/// let encoder = file.to_vit(&store.root())?;
/// # Ok::<(), patchmix::Error>(())
/// ```
#[derive(Debug)]
pub struct EncoderFile {
    /// The shape. Drop path and precision are training settings and not stored: [`EncoderFile::load`] sets 0 and
    /// [`Precision::Full`].
    pub config: VitConfig,
    /// Mean of the channels for normalizing images in `0..=1`.
    pub mean: [f64; 3],
    /// Standard deviation of the channels for normalizing images.
    pub std: [f64; 3],
    /// How features are pooled.
    pub pooling: Pooling,
    /// The weights by name, of any floating-point dtype.
    pub tensors: HashMap<String, Tensor>,
}

impl EncoderFile {
    /// Writes the file atomically, with all weights as `Float`.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] naming the first tensor that is missing, unexpected or of another shape than `config`
    /// requires; those of [`VitConfig::check`] and [`Checkpoint::save`].
    pub fn save(&self, path: &Path) -> Result<()> {
        self.check()?;
        let floats = self.tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.f_to_kind(Kind::Float)?)));
        Checkpoint { tensors: floats.collect::<Result<_>>()?, metadata: self.metadata() }.save(path)
    }

    /// Reads a file; the tensors are on the CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if it is not an encoder file, has invalid metadata, or has a tensor that is missing,
    /// unexpected or of another shape than the metadata requires; those of [`Checkpoint::load`].
    pub fn load(path: &Path) -> Result<EncoderFile> {
        let refused = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        let Checkpoint { tensors, metadata } = Checkpoint::load(path)?;
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(refused(format!(
                "is not a {FORMAT:?} file; a plain file of weights does not contain the number of heads and has to be \
                 imported with it"
            )));
        }
        let file = EncoderFile::from_parts(tensors, &metadata).map_err(&refused)?;
        file.check().map_err(|error| refused(error.to_string()))?;
        Ok(file)
    }

    fn from_parts(
        tensors: HashMap<String, Tensor>,
        metadata: &HashMap<String, String>,
    ) -> std::result::Result<EncoderFile, String> {
        let text = |name: &str| metadata.get(name).ok_or_else(|| format!("has no {name} in its metadata"));
        let wrong = |name: &str, text: &str| format!("its {name} is {text:?}");
        let integer = |name| text(name)?.parse::<i64>().map_err(|_| wrong(name, &metadata[name]));
        let channels = |name| {
            let text = text(name)?;
            let numbers: Option<Vec<f64>> = text.split(' ').map(|number| number.parse().ok()).collect();
            numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok()).ok_or_else(|| wrong(name, text))
        };
        let pooling = text("pooling")?;
        let known = POOLINGS.iter().find(|(_, name)| name == pooling);
        Ok(EncoderFile {
            config: VitConfig {
                image_size: integer("image_size")?,
                patch_size: integer("patch_size")?,
                width: integer("width")?,
                depth: integer("depth")?,
                heads: integer("heads")?,
                mlp_ratio: integer("mlp_ratio")?,
                drop_path: 0.0,
                precision: Precision::Full,
            },
            mean: channels("mean")?,
            std: channels("std")?,
            pooling: known.map(|(pooling, _)| *pooling).ok_or_else(|| wrong("pooling", pooling))?,
            tensors,
        })
    }

    fn metadata(&self) -> HashMap<String, String> {
        let VitConfig { image_size, patch_size, width, depth, heads, mlp_ratio, .. } = self.config;
        let channels = |numbers: [f64; 3]| numbers.map(|number| number.to_string()).join(" ");
        let pooling = POOLINGS.iter().find(|(pooling, _)| *pooling == self.pooling).map_or("", |(_, name)| name);
        let entries = [
            ("format", FORMAT.to_owned()),
            ("image_size", image_size.to_string()),
            ("patch_size", patch_size.to_string()),
            ("width", width.to_string()),
            ("depth", depth.to_string()),
            ("heads", heads.to_string()),
            ("mlp_ratio", mlp_ratio.to_string()),
            ("mean", channels(self.mean)),
            ("std", channels(self.std)),
            ("pooling", pooling.to_owned()),
            ("timm", self.timm()),
        ];
        entries.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
    }

    /// A Python expression for the equivalent model of `timm.models.vision_transformer`.
    pub fn timm(&self) -> String {
        let VitConfig { image_size, patch_size, width, depth, heads, mlp_ratio, .. } = self.config;
        let pooling = match self.pooling {
            Pooling::ClassToken => "global_pool='token'",
            Pooling::PatchMean => "global_pool='avg', fc_norm=False",
        };
        format!(
            "VisionTransformer(img_size={image_size}, patch_size={patch_size}, embed_dim={width}, depth={depth}, \
             num_heads={heads}, mlp_ratio={mlp_ratio}, num_classes=0, {pooling})"
        )
    }

    /// Makes a model with these weights under `path`, on its device and with its dtype.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] for the reasons of [`EncoderFile::save`], and if `path` already has a model; those of
    /// [`Vit::new`].
    pub fn to_vit(&self, path: &nn::Path<'_>) -> Result<Vit> {
        self.check()?;
        if path.get("cls_token").is_some() {
            return Err(Error::Weights { problem: "there is a model under this path already".to_owned() });
        }
        let vit = Vit::new(path, &self.config)?;
        let _no_grad = tch::no_grad_guard();
        for (name, tensor) in &self.tensors {
            let (folders, last) = name.rsplit_once('.').unwrap_or(("", name));
            let folder =
                folders.split('.').filter(|part| !part.is_empty()).fold(path.clone(), |path, part| path / part);
            let missing = || Error::Weights { problem: format!("the model has no {name}") };
            folder.get(last).ok_or_else(missing)?.f_copy_(tensor)?;
        }
        Ok(vit)
    }

    /// An error unless the tensors are exactly those that the shape requires.
    pub(super) fn check(&self) -> Result<()> {
        self.config.check()?;
        for (mean, std) in self.mean.into_iter().zip(self.std) {
            check_value("mean", mean, "finite", mean.is_finite())?;
            check_positive("std", std)?;
        }
        let shapes = shapes(&self.config);
        let refused = |problem| Err(Error::Weights { problem });
        for (name, shape) in &shapes {
            let Some(tensor) = self.tensors.get(name) else { return refused(format!("{name} is missing")) };
            check_defined("tensor", tensor)?;
            if tensor.size() != *shape {
                return refused(format!("{name} has shape {:?} instead of {shape:?}", tensor.size()));
            }
            if !is_float(tensor.f_kind()?) {
                return refused(format!("{name} has dtype {:?}, not a floating-point dtype", tensor.f_kind()?));
            }
        }
        let unexpected = self.tensors.keys().filter(|name| !shapes.contains_key(*name)).min();
        unexpected.map_or(Ok(()), |name| refused(format!("{name} is not part of the encoder")))
    }
}

/// Name and shape of every parameter of a checked config. Computed without making a model, because a small file must
/// not be able to claim much memory.
fn shapes(config: &VitConfig) -> BTreeMap<String, Vec<i64>> {
    let &VitConfig { patch_size, width, depth, mlp_ratio, .. } = config;
    let hidden = width * mlp_ratio;
    let mut shapes = BTreeMap::from([
        ("cls_token".to_owned(), vec![1, 1, width]),
        (POSITIONS.to_owned(), vec![1, 1 + config.patches(), width]),
        (PATCH_WEIGHT.to_owned(), vec![width, 3, patch_size, patch_size]),
        (PATCH_BIAS.to_owned(), vec![width]),
    ]);
    let mut layer = |name: String, weight: Vec<i64>| {
        shapes.insert(format!("{name}.bias"), vec![weight[0]]);
        shapes.insert(format!("{name}.weight"), weight);
    };
    for block in 0..depth {
        layer(format!("blocks.{block}.norm1"), vec![width]);
        layer(format!("blocks.{block}.attn.qkv"), vec![3 * width, width]);
        layer(format!("blocks.{block}.attn.proj"), vec![width, width]);
        layer(format!("blocks.{block}.norm2"), vec![width]);
        layer(format!("blocks.{block}.mlp.fc1"), vec![hidden, width]);
        layer(format!("blocks.{block}.mlp.fc2"), vec![width, hidden]);
    }
    layer("norm".to_owned(), vec![width]);
    shapes
}
