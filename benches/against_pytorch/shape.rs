//! The encoders and batch sizes of measured steps.

use patchmix::contrast::HeadConfig;
use patchmix::vit::{Precision, VitConfig};

use crate::is_rehearsal;

/// An encoder with its heads, and a batch size.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) encoder: VitConfig,
    pub(crate) heads: HeadConfig,
    pub(crate) batch: i64,
}

impl Shape {
    /// ViT-T on 32 pixels with the published heads; tiny in a rehearsal.
    pub(crate) fn tiny(patch_size: i64, batch: i64, precision: Precision) -> Shape {
        Shape::published(VitConfig { precision, ..VitConfig::tiny(32, patch_size) }, batch)
    }

    /// ViT-S/16 on 224 pixels in bfloat16.
    pub(crate) fn small(batch: i64) -> Shape {
        let precision = Precision::BFloat16;
        Shape::published(VitConfig { width: 384, heads: 12, precision, ..VitConfig::tiny(224, 16) }, batch)
    }

    /// ViT-B/16 on 224 pixels in bfloat16.
    pub(crate) fn base(batch: i64) -> Shape {
        let precision = Precision::BFloat16;
        Shape::published(VitConfig { width: 768, heads: 12, precision, ..VitConfig::tiny(224, 16) }, batch)
    }

    fn published(encoder: VitConfig, batch: i64) -> Shape {
        if is_rehearsal() {
            let encoder = VitConfig { width: 24, depth: 1, heads: 3, patch_size: encoder.image_size / 4, ..encoder };
            return Shape { encoder, heads: HeadConfig { hidden: 32, output: 16 }, batch: batch / 32 };
        }
        Shape { encoder, heads: HeadConfig { hidden: 4096, output: 256 }, batch }
    }

    /// The same as arguments for the peer.
    pub(crate) fn for_peer(&self) -> String {
        let VitConfig { depth, width, heads, image_size, patch_size, .. } = self.encoder;
        let HeadConfig { hidden, output } = self.heads;
        format!("{depth} {width} {heads} {image_size} {patch_size} {} {hidden} {output}", self.batch)
    }

    /// The shape of [`Shape::for_peer`] followed by what the peer does.
    pub(crate) fn from_peer(words: &str) -> Option<Shape> {
        let (shape, way) = words.rsplit_once(' ')?;
        let numbers = shape.split(' ').map(|word| word.parse().ok()).collect::<Option<Vec<i64>>>()?;
        let [depth, width, heads, side, patch, batch, hidden, output] = numbers[..] else { return None };
        let precision = if way == "bf16" { Precision::BFloat16 } else { Precision::Full };
        let encoder = VitConfig { depth, width, heads, precision, ..VitConfig::tiny(side, patch) };
        Some(Shape { encoder, heads: HeadConfig { hidden, output }, batch })
    }
}
