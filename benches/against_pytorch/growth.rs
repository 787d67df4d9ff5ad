//! How a step grows: with batch size, groups, tokens and width on a CPU, and to ViT-S/16 and ViT-B/16 on 224 pixels.

use patchmix::contrast::HeadConfig;
use patchmix::vit::VitConfig;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::step_table::{self, Measured};
use crate::{as_on_gpu, budget, heading, medians, milliseconds, row, timed};

pub(crate) fn run(peer: &mut Peer) {
    if !as_on_gpu() {
        one_by_one();
    }
    to_published_shapes(peer);
}

/// The published shapes on 224 pixels in bfloat16. Both sides have to fit on a GPU of 80 GB together; on a CPU, a step
/// should take seconds.
pub(crate) fn shapes() -> [(&'static str, Shape); 2] {
    let [small, base] = if as_on_gpu() { [256, 128] } else { [8, 2] };
    [("ViT-S/16", Shape::small(small)), ("ViT-B/16", Shape::base(base))]
}

/// Whether to compile the peer of [`shapes`].
pub(crate) fn is_compiling() -> bool {
    step_table::is_compiling(false)
}

fn to_published_shapes(peer: &mut Peer) {
    let columns = [&["encoder", "batch"][..], &Measured::COLUMNS, &["TFLOP/s"]].concat();
    heading("A step on 224 pixels with the published heads, bfloat16", &columns);
    step_table::allow_tf32(true, peer);
    for (name, shape) in shapes() {
        let measured = Measured::new(&shape, "bf16", is_compiling(), peer);
        let rate = 2.0 * multiply_adds(&shape) / measured.seconds / 1e12;
        let start = [name.to_owned(), shape.batch.to_string()];
        row(&[&start[..], &measured.cells(), &[format!("{rate:.2}")]].concat());
    }
    step_table::allow_tf32(false, peer);
}

fn one_by_one() {
    heading(
        "Growth of a step: 32 pixels, 4 blocks, heads of 512 and 128",
        &["batch", "M", "tokens", "width", "time", "multiply-adds", "GFLOP/s"],
    );
    let (batch, groups, patch, width) = (64, 2, 4, 96);
    let mut cases = vec![(batch, groups, patch, width)];
    cases.extend([128, 256].map(|batch| (batch, groups, patch, width)));
    cases.extend([4, 8].map(|groups| (batch, groups, patch, width)));
    cases.push((batch, groups, 2, width));
    cases.extend([192, 384].map(|width| (batch, groups, patch, width)));
    for (batch, groups, patch_size, width) in cases {
        let config =
            VitConfig { width, depth: 4, heads: width / 32, drop_path: 0.0, ..VitConfig::tiny(32, patch_size) };
        let tokens = config.patches() + 1;
        let shape = Shape { encoder: config, heads: HeadConfig { hidden: 512, output: 128 }, batch };
        let multiply_adds = multiply_adds(&shape);
        let mut step = Step::new(&shape);
        let [seconds] = medians(budget(6), [&mut || timed(|| step.run_mixed(groups))]);
        row(&[
            batch.to_string(),
            groups.to_string(),
            tokens.to_string(),
            width.to_string(),
            milliseconds(seconds),
            format!("{:.1} G", multiply_adds / 1e9),
            format!("{:.0}", 2.0 * multiply_adds / seconds / 1e9),
        ]);
    }
}

/// Multiply-adds of a step: four forward passes, two of them with a backward pass, which takes twice as many.
fn multiply_adds(Shape { encoder: config, heads, batch }: &Shape) -> f64 {
    let [tokens, width, depth, side] =
        [config.patches() + 1, config.width, config.depth, config.patch_size].map(|value| value as f64);
    let products = 4.0 + 2.0 * config.mlp_ratio as f64;
    let block = tokens * products * width * width + 2.0 * tokens * tokens * width;
    let [hidden, output] = [heads.hidden, heads.output].map(|value| value as f64);
    let projector = width * hidden + hidden * hidden + hidden * output;
    // The last block computes keys and values of all tokens, and everything else of the class token only.
    let last = 2.0 * tokens * width * width + (products - 2.0) * width * width + 2.0 * tokens * width;
    let image = (tokens - 1.0) * 3.0 * side * side * width + (depth - 1.0) * block + last + projector;
    let predictor = 2.0 * hidden * output;
    *batch as f64 * (8.0 * image + 6.0 * predictor)
}
