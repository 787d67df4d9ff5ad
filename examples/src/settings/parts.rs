//! What the parts of a run make of its settings.

use patchmix::augment::ViewRecipe;
use patchmix::contrast::{HeadConfig, LossConfig, Term};
use patchmix::vit::VitConfig;

use super::Settings;

/// Hidden width of a block's multilayer perceptron, in multiples of the width; not a setting.
pub(crate) const MLP_RATIO: i64 = 4;

impl Settings {
    /// The encoder for global views.
    pub(crate) fn vit(&self) -> VitConfig {
        VitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            mlp_ratio: MLP_RATIO,
            drop_path: self.drop_path,
            precision: self.precision.of_products(),
        }
    }

    /// The same encoder for local views.
    pub(crate) fn local_vit(&self) -> VitConfig {
        VitConfig { image_size: self.local_size, ..self.vit() }
    }

    pub(crate) fn head(&self) -> HeadConfig {
        HeadConfig { hidden: self.hidden, output: self.out_dim }
    }

    /// How the views of an image are drawn: the first, the second, then the local ones.
    pub(crate) fn view_recipes(&self) -> Vec<ViewRecipe> {
        let least = if self.has_local_views() { self.local_max_scale } else { self.crop_min_scale };
        let global = [ViewRecipe::first(self.image_size, least), ViewRecipe::second(self.image_size, least)];
        let odds = self.blur_probability.iter().zip(&self.solarize_probability);
        let global = global.into_iter().zip(odds).map(|(recipe, (&blur_probability, &solarize_probability))| {
            self.recolored(ViewRecipe { blur_probability, solarize_probability, ..recipe })
        });
        let local = self.recolored(ViewRecipe::local(self.local_size, (self.crop_min_scale, self.local_max_scale)));
        global.chain((0..self.local_crops).map(|_| local.clone())).collect()
    }

    /// The recipe with the operations that all views have in common.
    fn recolored(&self, recipe: ViewRecipe) -> ViewRecipe {
        let strength = self.jitter_strength;
        ViewRecipe {
            flip_probability: self.flip_probability,
            jitter_probability: self.jitter_probability,
            brightness: strength * recipe.brightness,
            contrast: strength * recipe.contrast,
            saturation: strength * recipe.saturation,
            hue: strength * recipe.hue,
            gray_probability: self.gray_probability,
            ..recipe
        }
    }

    /// The losses of `part` images, this rank's part of a batch.
    pub(crate) fn loss(&self, part: i64) -> LossConfig {
        LossConfig {
            temperature: self.temperature,
            origin_smoothing: self.origin_smoothing,
            mix_smoothing: self.smoothing,
            micro_batch: (self.accumulate > 1).then(|| (part + self.accumulate - 1) / self.accumulate),
            weights: self.loss_weights.weights(),
            symmetric: self.symmetric,
            negatives: self.negatives,
            mix_patch_size: (self.mix_patch_size > 0).then_some(self.mix_patch_size),
        }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }

    /// The terms of the loss that this run computes, with their weights.
    pub(crate) fn terms(&self) -> impl Iterator<Item = Term> {
        self.loss_weights.terms(self.has_local_views())
    }

    /// Whether there are mixed images: without them, no term has a mixed query.
    pub(crate) fn mixes(&self) -> bool {
        self.terms().any(|term| term.name.contains("mix"))
    }

    /// The side in pixels of the blocks that are mixed.
    pub(crate) fn mix_block(&self) -> i64 {
        if self.mix_patch_size > 0 { self.mix_patch_size } else { self.patch_size }
    }

    /// How many global views become queries, plain or mixed, and how many kinds of every local view do.
    pub(crate) fn query_passes(&self) -> (i64, i64) {
        let count = |local: bool, mixed: bool| {
            let is_one = |term: Term| term.local == local && term.name.contains("mix") == mixed;
            i64::from(self.terms().any(is_one))
        };
        let directions = if self.symmetric { 2 } else { 1 };
        (directions * (count(false, false) + count(false, true)), count(true, false) + count(true, true))
    }

    pub(crate) fn has_temperature_warmup(&self) -> bool {
        self.temperature_warmup_epochs > 0
    }

    pub(crate) fn has_local_views(&self) -> bool {
        self.local_crops > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `contrast::losses` makes the plain query of the first view, which is always blurred and never solarized, and the
    /// mixed query of the second, blurred one time in ten and solarized one time in five.
    #[test]
    fn the_first_view_is_blurred_and_the_second_sometimes_solarized() {
        let with_local = Settings { local_crops: 2, local_size: 16, local_max_scale: 0.35, ..Settings::quick() };
        let without_local = Settings { local_crops: 0, ..Settings::quick() };
        for (settings, least) in [(with_local, 0.35), (without_local, Settings::quick().crop_min_scale)] {
            let recipes = settings.view_recipes();
            let size = settings.image_size;
            assert_eq!(recipes[..2], [ViewRecipe::first(size, least), ViewRecipe::second(size, least)]);
            assert_eq!(recipes.len(), 2 + settings.local_crops as usize);
            let odds = [0, 1].map(|view| (recipes[view].blur_probability, recipes[view].solarize_probability));
            assert_eq!(odds, [(1.0, 0.0), (0.1, 0.2)]);
            for local in &recipes[2..] {
                assert_eq!(*local, ViewRecipe::local(16, (settings.crop_min_scale, 0.35)));
            }
        }
    }

    #[test]
    fn the_operations_of_the_views_are_those_of_the_settings() {
        let settings = Settings {
            local_crops: 1,
            jitter_strength: 0.5,
            jitter_probability: 0.6,
            gray_probability: 0.1,
            flip_probability: 0.0,
            blur_probability: vec![0.3, 0.4],
            solarize_probability: vec![0.05, 0.15],
            ..Settings::quick()
        };
        let recipes = settings.view_recipes();
        for recipe in &recipes {
            let strengths = [recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue];
            assert_eq!(strengths, [0.2, 0.2, 0.1, 0.05]);
            let odds = (recipe.jitter_probability, recipe.gray_probability, recipe.flip_probability);
            assert_eq!(odds, (0.6, 0.1, 0.0));
        }
        let odds: Vec<_> =
            recipes.iter().map(|recipe| (recipe.blur_probability, recipe.solarize_probability)).collect();
        assert_eq!(odds, [(0.3, 0.05), (0.4, 0.15), (0.5, 0.0)]);
    }
}
