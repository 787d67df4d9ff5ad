//! A plain Vision Transformer: pre-norm blocks, attention by two matrix products, drop path with given factors.

use patchmix::vit::VitConfig;
use tch::{Kind, Tensor};

use crate::scene::Tensors;

/// The weights of an encoder, by name.
pub(crate) struct PlainVit<'a> {
    pub(crate) weights: &'a Tensors,
    pub(crate) config: &'a VitConfig,
}

impl PlainVit<'_> {
    /// The tokens `[B, 1 + T, width]` after the last norm, of images of the configured size. `factor` multiplies a
    /// branch: block by block, attention (branch 0) and perceptron (branch 1).
    pub(crate) fn tokens(&self, images: &Tensor, factor: impl Fn(i64, usize) -> f64) -> Tensor {
        let (batch_size, side, patch) = (images.size()[0], self.config.image_size, self.config.patch_size);
        let grid = side / patch;
        // Rows of pixels as the convolution reads them: channel, row, column.
        let patches = images.view([batch_size, 3, grid, patch, grid, patch]).permute([0, 2, 4, 1, 3, 5]);
        let patches = patches.reshape([batch_size, grid * grid, 3 * patch * patch]);
        let class_token = self.weights["cls_token"].expand([batch_size, 1, -1], false);
        let patches = self.linear("patch_embed.proj", &patches);
        let mut x = Tensor::cat(&[class_token, patches], 1) + &self.weights["pos_embed"];
        for block in 0..self.config.depth {
            let name = |layer: &str| format!("blocks.{block}.{layer}");
            x = &x + self.attention(&name("attn"), &self.norm(&name("norm1"), &x)) * factor(block, 0);
            let hidden = self.linear(&name("mlp.fc1"), &self.norm(&name("norm2"), &x));
            let activated: Tensor = &hidden * ((&hidden / 2.0_f64.sqrt()).erf() + 1.0) / 2.0;
            x = &x + self.linear(&name("mlp.fc2"), &activated) * factor(block, 1);
        }
        self.norm("norm", &x)
    }

    /// `softmax(q kᵀ / √d) v` in each head of width `d`.
    fn attention(&self, name: &str, x: &Tensor) -> Tensor {
        let (batch_size, length, width) = x.size3().unwrap();
        let heads = self.config.heads;
        let parts = self.linear(&format!("{name}.qkv"), x).view([batch_size, length, 3, heads, width / heads]);
        let parts = parts.permute([2, 0, 3, 1, 4]); // [3, B, heads, tokens, d]
        let [query, key, value] = [0, 1, 2].map(|part| parts.get(part));
        let scores = query.matmul(&key.transpose(2, 3)) / ((width / heads) as f64).sqrt();
        let attended = scores.softmax(3, None::<Kind>).matmul(&value); // [B, heads, tokens, d]
        self.linear(&format!("{name}.proj"), &attended.transpose(1, 2).reshape([batch_size, length, width]))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        let weight = self.weights[&format!("{name}.weight")].flatten(1, -1); // [outputs, inputs]
        x.matmul(&weight.tr()) + &self.weights[&format!("{name}.bias")]
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let centered = x - x.mean_dim(-1, true, None::<Kind>);
        let variance = centered.square().mean_dim(-1, true, None::<Kind>);
        let [weight, bias] = ["weight", "bias"].map(|part| &self.weights[&format!("{name}.{part}")]);
        centered / (variance + 1e-6).sqrt() * weight + bias
    }
}
