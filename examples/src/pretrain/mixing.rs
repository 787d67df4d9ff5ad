//! The mixes of a batch: how many images are mixed, and which patches come from which.

use patchmix::MixPlan;
use patchmix::random::uniform;

use crate::settings::{MixBlocks, MixPlans, Settings};

/// The plans of the views of a batch.
pub(super) struct Plans {
    pub(super) global: [MixPlan; 2],
    pub(super) local: Vec<MixPlan>,
}

/// The number of images in a mixed image of a batch; 1 for a batch that is not mixed.
pub(super) fn draw_groups(settings: &Settings, seed: i64) -> i64 {
    if uniform(seed, 0) >= settings.mix_probability {
        return 1;
    }
    let choice = uniform(seed, 1) * settings.groups.len() as f64;
    settings.groups[choice as usize]
}

/// Draws a plan for images of `side` pixels in the run's blocks.
pub(super) fn draw_plan(settings: &Settings, side: i64, groups: i64, mix_stride: i64) -> patchmix::Result<MixPlan> {
    let blocks = side / settings.mix_block();
    match settings.mix_blocks {
        MixBlocks::Random => MixPlan::random(blocks * blocks, groups, mix_stride),
        MixBlocks::Contiguous => MixPlan::bands(blocks, blocks, groups, mix_stride),
    }
}

impl Plans {
    /// Draws the plans for a batch of `images` with `local_views` local views, following [`tch::manual_seed`]. All
    /// agree in the number of groups, and so give the same targets, however the patches are partitioned.
    pub(super) fn draw(settings: &Settings, groups: i64, images: i64, local_views: usize) -> patchmix::Result<Plans> {
        Plans::drawn_by(settings, images, local_views, |side| draw_plan(settings, side, groups, settings.mix_stride))
    }

    /// The plans of the views in their order, each drawn by `one` for images of a side in pixels.
    fn drawn_by(
        settings: &Settings,
        images: i64,
        local_views: usize,
        mut one: impl FnMut(i64) -> patchmix::Result<MixPlan>,
    ) -> patchmix::Result<Plans> {
        let mut of_view = |side: i64| match settings.mix_plans {
            MixPlans::PerImage => {
                MixPlan::per_image(&(0..images).map(|_| one(side)).collect::<patchmix::Result<Vec<_>>>()?)
            }
            MixPlans::PerBatch | MixPlans::PerView => one(side),
        };
        let first = of_view(settings.image_size)?;
        let shared = settings.mix_plans == MixPlans::PerBatch;
        let second = if shared { first.clone() } else { of_view(settings.image_size)? };
        let mut local: Vec<MixPlan> = Vec::with_capacity(local_views);
        for _ in 0..local_views {
            match local.first().filter(|_| shared) {
                Some(plan) => local.push(plan.clone()),
                None => local.push(of_view(settings.local_size)?),
            }
        }
        Ok(Plans { global: [first, second], local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mix_plans: MixPlans) -> Settings {
        Settings { mix_plans, local_crops: 2, local_size: 16, groups: vec![2], ..Settings::quick() }
    }

    /// Two plans of 64 patches in two groups are drawn alike with odds of 1 to 10^18.
    #[test]
    fn plans_are_shared_as_the_setting_says() {
        let draw = |mix_plans| Plans::draw(&settings(mix_plans), 2, 5, 2).unwrap();
        let batch = draw(MixPlans::PerBatch);
        assert!(batch.global[0] == batch.global[1] && batch.local[0] == batch.local[1]);
        let view = draw(MixPlans::PerView);
        assert!(view.global[0] != view.global[1] && view.local[0] != view.local[1]);
        let image = draw(MixPlans::PerImage);
        assert_eq!((image.global[0].patches(), image.local[0].patches()), (64, 16));
        let of_image: Vec<&[i64]> = image.global[0].group_of_position().chunks(64).collect();
        assert_eq!(of_image.len(), 5);
        assert!(of_image[1..].iter().all(|groups| *groups != of_image[0]));
        let targets = [&batch, &view, &image].map(|plans| plans.global[1].targets(5).unwrap());
        assert!(targets[1..].iter().all(|target| *target == targets[0]));
    }

    /// The plans of runs of earlier versions: the views draw one after the other.
    #[test]
    fn a_plan_per_view_is_the_default_and_draws_as_ever() {
        let settings = settings(Settings::quick().mix_plans);
        let mut drawn = Vec::new();
        let plans = Plans::drawn_by(&settings, 5, 2, |side| {
            drawn.push(draw_plan(&settings, side, 2, 1)?);
            Ok(drawn[drawn.len() - 1].clone())
        });
        let plans = plans.unwrap();
        assert_eq!(drawn.iter().map(MixPlan::patches).collect::<Vec<_>>(), [64, 64, 16, 16]);
        assert_eq!(plans.global.into_iter().chain(plans.local).collect::<Vec<_>>(), drawn);
    }

    #[test]
    fn blocks_of_another_size_and_shape_are_mixed() {
        let larger = Settings { mix_patch_size: 8, ..settings(MixPlans::PerView) };
        let plans = Plans::draw(&larger, 2, 5, 2).unwrap();
        assert_eq!((plans.global[0].patches(), plans.local[0].patches()), (16, 4));
        let bands = Settings { mix_blocks: MixBlocks::Contiguous, ..settings(MixPlans::PerView) };
        let groups = Plans::draw(&bands, 2, 5, 0).unwrap().global[0].group_of_position().to_vec();
        // In rows or in columns, the group changes twice around the circle.
        let changes = |groups: &[i64]| (0..64).filter(|place| groups[*place] != groups[(place + 1) % 64]).count();
        let by_columns: Vec<i64> = (0..64).map(|place| groups[place % 8 * 8 + place / 8]).collect();
        assert_eq!(changes(&groups).min(changes(&by_columns)), 2);
    }
}
