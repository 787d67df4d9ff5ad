//! How the time of a step grows with batch size, groups, tokens and width.

use patchmix::contrast::HeadConfig;
use patchmix::vit::VitConfig;

use crate::peer::Peer;
use crate::step::Step;
use crate::{budget, heading, medians, milliseconds, row, timed};

pub(crate) fn run(_peer: &mut Peer) {
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
        let heads = HeadConfig { hidden: 512, output: 128 };
        let multiply_adds = multiply_adds(&config, &heads, batch);
        let tokens = config.patches() + 1;
        let mut step = Step::new(config, heads, batch);
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
fn multiply_adds(config: &VitConfig, heads: &HeadConfig, batch: i64) -> f64 {
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
    batch as f64 * (8.0 * image + 6.0 * predictor)
}
