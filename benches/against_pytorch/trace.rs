//! The time of a step, kernel by kernel.

use patchmix::profile::kernel_times;
use patchmix::vit::Precision;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::views::{random_images, recipes};
use crate::{device, growth, heading, milliseconds, row, synchronize, timed};

const STEPS: u64 = 3;

pub(crate) fn run(_peer: &mut Peer) {
    let tiny = |patch| Shape::tiny(patch, 512, Precision::BFloat16);
    let tiny = [("ViT-T/2", tiny(2), 25), ("ViT-T/4", tiny(4), 25)];
    let large = growth::shapes().map(|(name, shape)| (name, shape, 12));
    for (name, shape, shown) in tiny.into_iter().chain(large) {
        let (batch, side) = (shape.batch, shape.encoder.image_size);
        let images = random_images(batch, side).to_device(device());
        let recipes = recipes(side);
        let mut step = Step::new(&shape);
        let mut run = |steps: u64| {
            for _ in 0..steps {
                step.run_on(recipes.each_ref().map(|recipe| recipe.view(&images).unwrap()));
            }
        };
        run(5);
        let wall = timed(|| run(STEPS)) / STEPS as f64;
        let kernels = kernel_times(|| {
            run(STEPS);
            synchronize();
            Ok(())
        });
        let kernels = kernels.unwrap();
        let total: f64 = kernels.iter().map(|kernel| kernel.microseconds).sum();
        let calls: u64 = kernels.iter().map(|kernel| kernel.calls).sum();

        heading(
            &format!("Kernels of a step with its views, {name} in bfloat16, batch {batch}"),
            &["kernel", "calls per step", "time per step", "share"],
        );
        let show = |name: String, calls: u64, microseconds: f64| {
            let (steps, share) = (STEPS as f64, 100.0 * microseconds / total);
            let (calls, time) = (format!("{:.1}", calls as f64 / steps), milliseconds(microseconds / 1e6 / steps));
            row(&[name, calls, time, format!("{share:.1} %")]);
        };
        for kernel in kernels.iter().take(shown) {
            show(shortened(&kernel.name), kernel.calls, kernel.microseconds);
        }
        let rest = kernels.get(shown..).unwrap_or_default();
        let name = format!("{} others", rest.len());
        show(name, rest.iter().map(|kernel| kernel.calls).sum(), rest.iter().map(|kernel| kernel.microseconds).sum());
        show("all".to_owned(), calls, total);
        // The host waits for the GPU at each of these copies.
        let to_host = kernels.iter().filter(|kernel| kernel.name.contains("DtoH"));
        let to_host = to_host.map(|kernel| kernel.calls).sum::<u64>() as f64 / STEPS as f64;
        println!("\nCopies to the host: {to_host:.1} per step");
        println!("Wall time of a step without the profiler: {}", milliseconds(wall));
    }
}

/// A kernel name, shortened for a table cell.
fn shortened(name: &str) -> String {
    const LENGTH: usize = 70;
    let mut name = name.replace('|', "/");
    for noise in ["void ", "at::native::", "(anonymous namespace)::", "<unnamed>::", "c10::"] {
        name = name.replace(noise, "");
    }
    match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}
