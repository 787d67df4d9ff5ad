//! Both views of a batch: tensor operations against torchvision on PIL images, on one core; on a GPU, compared with the
//! step that uses them.

use patchmix::augment::ViewRecipe;
use patchmix::vit::Precision;
use tch::{Device, Kind, Tensor};

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::{as_on_gpu, budget, device, heading, in_turns, medians, milliseconds, row, timed, times};

pub(crate) fn run(_peer: &mut Peer) {
    if as_on_gpu() {
        return on_gpu();
    }
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let mut peer = Peer::start(1);
    heading("Views per second on one core", &["images", "patchmix", "torchvision", "patchmix / torchvision"]);
    for (count, side) in [(512, 32), (64, 224)] {
        let images = random_images(count, side);
        let recipes = recipes(side);
        let case = format!("views {count} {side}");
        let [ours, torchvision] = medians(
            budget(15),
            [&mut || timed(|| recipes.each_ref().map(|recipe| recipe.view(&images).unwrap())), &mut || {
                peer.seconds(&case)
            }],
        );
        let per_second = |seconds: f64| format!("{:.0}", 2.0 * count as f64 / seconds);
        let shape = format!("[{count}, 3, {side}, {side}]");
        row(&[shape, per_second(ours), per_second(torchvision), times(torchvision / ours)]);
    }
    tch::set_num_threads(threads);
}

fn on_gpu() {
    let columns = ["images", "both views", "the step", "views / step", "views/s"];
    heading("Both views and the step that uses them, bfloat16: ViT-T/2 on 32 pixels, ViT-S/16 on 224", &columns);
    for shape in [Shape::tiny(2, 512, Precision::BFloat16), Shape::small(64), Shape::small(256)] {
        let (count, side) = (shape.batch, shape.encoder.image_size);
        let images = random_images(count, side).to_device(device());
        let recipes = recipes(side);
        let both = || recipes.each_ref().map(|recipe| recipe.view(&images).unwrap());
        let mut step = Step::new(&shape);
        let [views, step] =
            in_turns([&mut |count| timed(|| (0..count).for_each(|_| drop(both()))) / count as f64, &mut |count| {
                timed(|| (0..count).for_each(|_| step.run())) / count as f64
            }]);
        row(&[
            format!("[{count}, 3, {side}, {side}]"),
            milliseconds(views),
            milliseconds(step),
            format!("{:.1} %", 100.0 * views / step),
            format!("{:.0}", 2.0 * count as f64 / views),
        ]);
    }
}

/// The published views, with crops of at least a tenth of the area.
pub(crate) fn recipes(side: i64) -> [ViewRecipe; 2] {
    [ViewRecipe::first(side, 0.1), ViewRecipe::second(side, 0.1)]
}

pub(crate) fn random_images(count: i64, side: i64) -> Tensor {
    Tensor::randint(256, [count, 3, side, side], (Kind::Uint8, Device::Cpu))
}
