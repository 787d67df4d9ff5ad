//! Both views of a batch of images, on one core: a batch in tensor operations, against torchvision on PIL images.

use std::time::Duration;

use patchmix::augment::ViewRecipe;
use tch::{Device, Kind, Tensor};

use crate::peer::Peer;
use crate::{device, heading, medians, row, timed, times};

pub(crate) fn run(_peer: &mut Peer) {
    if device().is_cuda() {
        println!("\nviews: of the CPU only");
        return;
    }
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let mut peer = Peer::start(1);
    heading("Views a second on one core", &["images", "patchmix", "torchvision", "patchmix / torchvision"]);
    for (count, side) in [(512, 32), (64, 224)] {
        let images = Tensor::randint(256, [count, 3, side, side], (Kind::Uint8, Device::Cpu));
        let recipes = [ViewRecipe::first(side, 0.1), ViewRecipe::second(side, 0.1)];
        let case = format!("views {count} {side}");
        let [ours, torchvision] = medians(
            Duration::from_secs(15),
            [&mut || timed(|| recipes.each_ref().map(|recipe| recipe.view(&images).unwrap())), &mut || {
                peer.seconds(&case)
            }],
        );
        let a_second = |seconds: f64| format!("{:.0}", 2.0 * count as f64 / seconds);
        let shape = format!("[{count}, 3, {side}, {side}]");
        row(&[shape, a_second(ours), a_second(torchvision), times(torchvision / ours)]);
    }
    tch::set_num_threads(threads);
}
