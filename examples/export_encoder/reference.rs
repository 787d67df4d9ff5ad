//! What the encoder makes of a few images, for another program to compare itself with.

use std::collections::HashMap;
use std::path::Path;

use patchmix::augment::normalize;
use patchmix::checkpoint::Checkpoint;
use patchmix::data::procedural;

use crate::Result;
use crate::encoder::LoadedEncoder;

/// How many images, and what they are drawn from.
const IMAGES: i64 = 4;
const SEED: u64 = 3;

/// Writes normalised images, and of these the features, the tokens after the last norm, and those after every block with
/// and without it.
pub(crate) fn write_reference(path: &Path, loaded: &LoadedEncoder) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let LoadedEncoder { encoder, mean, std, pooling, .. } = loaded;
    let config = encoder.config();
    let drawn = procedural(IMAGES, config.image_size, SEED)?;
    let images = normalize(&drawn.images, *mean, *std)?; // [4, 3, side, side]
    let blocks: Vec<i64> = (0..config.depth).collect();
    let mut reference = Checkpoint::default();
    for (name, normed) in [("blocks", false), ("normed_blocks", true)] {
        let after = encoder.intermediate(&images, &blocks, normed)?;
        let numbered = after.into_iter().enumerate().map(|(block, tokens)| (block.to_string(), tokens));
        reference.insert_all(name, numbered);
    }
    reference.tensors.extend(HashMap::from([
        ("tokens".to_owned(), encoder.tokens(&images, false)?),
        ("features".to_owned(), encoder.features(&images, *pooling, false)?),
        ("images".to_owned(), images),
    ]));
    Ok(reference.save(path)?)
}
