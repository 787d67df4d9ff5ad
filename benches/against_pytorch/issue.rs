//! How long the host takes to issue steps, compared with how long the GPU takes to finish them.
//!
//! The driver queues about a thousand kernels. A host further ahead has to wait, so over many steps the time to issue
//! approaches the time to finish. Two rows show whether anything else makes the host wait: a single step from an idle
//! GPU, and a tiny batch, whose steps are limited by the host.

use std::time::Instant;

use patchmix::vit::Precision;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::views::{random_images, recipes};
use crate::{device, heading, is_rehearsal, milliseconds, row, synchronize};

pub(crate) fn run(_peer: &mut Peer) {
    heading(
        "Issuing and finishing steps with their views: ViT-T on 32 pixels in bfloat16",
        &["patch", "batch", "steps", "issue per step", "finish per step", "issue / finish"],
    );
    let many = if is_rehearsal() { 2 } else { 20 };
    for patch in [2, 4] {
        for batch in [512, 8] {
            let shape = Shape::tiny(patch, if is_rehearsal() { 512 } else { batch }, Precision::BFloat16);
            let side = shape.encoder.image_size;
            let images = random_images(shape.batch, side).to_device(device());
            let recipes = recipes(side);
            let mut step = Step::new(&shape);
            let mut run = |steps: i64| {
                for _ in 0..steps {
                    step.run_on(recipes.each_ref().map(|recipe| recipe.view(&images).unwrap()));
                }
            };
            run(many / 2);
            for steps in [1, many] {
                synchronize();
                let start = Instant::now();
                run(steps);
                let issued = start.elapsed().as_secs_f64() / steps as f64;
                synchronize();
                let finished = start.elapsed().as_secs_f64() / steps as f64;
                row(&[
                    patch.to_string(),
                    shape.batch.to_string(),
                    steps.to_string(),
                    milliseconds(issued),
                    milliseconds(finished),
                    format!("{:.0} %", 100.0 * issued / finished),
                ]);
            }
        }
    }
}
