//! Color jitter, grayscale and solarization of images `[B, 3, H, W]`, `Float`, contiguous, in `0..=1`.

use tch::Tensor;

use super::{JitterStep, ViewParameters, chosen, on_some};
use crate::error::Result;
use crate::numbers::{scalar, to_device};

/// Weights of red, green and blue in the gray of a pixel (ITU-R BT.601, as torchvision has them).
const GRAY_WEIGHTS: [f32; 3] = [0.2989, 0.587, 0.114];

/// A jitter step other than hue: each pixel becomes `image * pixel + gray * gray(pixel) + mean * mean(gray(image))`.
#[derive(Clone, Copy, PartialEq)]
struct Blend {
    image: f32,
    gray: f32,
    mean: f32,
}

impl Blend {
    /// The identity.
    const NONE: Blend = Blend { image: 1.0, gray: 0.0, mean: 0.0 };
    /// Grayscale.
    const GRAY: Blend = Blend { image: 0.0, gray: 1.0, mean: 0.0 };

    /// Step `turn` of an image's color jitter.
    fn jitter_step(parameters: &ViewParameters, turn: usize) -> Blend {
        let Some(jitter) = parameters.jitter else { return Blend::NONE };
        let (brightness, contrast) = (jitter.brightness as f32, jitter.contrast as f32);
        let saturation = jitter.saturation as f32;
        match jitter.order[turn] {
            JitterStep::Brightness => Blend { image: brightness, ..Blend::NONE },
            JitterStep::Contrast => Blend { image: contrast, mean: 1.0 - contrast, ..Blend::NONE },
            JitterStep::Saturation => Blend { image: saturation, gray: 1.0 - saturation, ..Blend::NONE },
            JitterStep::Hue => Blend::NONE,
        }
    }
}

/// Applies each image's color jitter, in its own order of steps, and then grayscale where it was drawn.
pub(super) fn jitter_and_gray(mut images: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    for turn in 0..4 {
        let blends: Vec<Blend> = parameters.iter().map(|parameters| Blend::jitter_step(parameters, turn)).collect();
        images = blend(images, &blends)?;
        let (positions, turns) = chosen(parameters, |parameters| {
            parameters
                .jitter
                .filter(|jitter| jitter.order[turn] == JitterStep::Hue && jitter.hue != 0.0)
                .map(|jitter| jitter.hue)
        });
        images = on_some(images, &positions, |images| turn_hue(images, &turns))?;
    }
    let grays: Vec<Blend> =
        parameters.iter().map(|parameters| if parameters.gray { Blend::GRAY } else { Blend::NONE }).collect();
    blend(images, &grays)
}

/// Inverts values of one half and above in the images for which solarization was drawn.
pub(super) fn solarize(images: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    let (positions, _) = chosen(parameters, |parameters| parameters.solarize.then_some(()));
    // 1 - x is the smaller of x and 1 - x exactly where x is one half or more.
    on_some(images, &positions, |images| Ok(images.f_neg()?.f_add_scalar_(1.0)?.f_minimum(images)?))
}

/// Applies one blend per image, as a single batched product with a 3 x 3 matrix per image: that is less work than
/// selecting the images of each kind of step.
fn blend(images: Tensor, blends: &[Blend]) -> Result<Tensor> {
    if blends.iter().all(|blend| *blend == Blend::NONE) {
        return Ok(images);
    }
    let (batch_size, channels, height, width) = images.size4()?;
    let matrices = |entry: fn(&Blend, bool, f32) -> f32| -> Result<Tensor> {
        let mut values = Vec::with_capacity(9 * blends.len());
        for blend in blends {
            for row in 0..3 {
                values.extend((0..3).map(|column| entry(blend, row == column, GRAY_WEIGHTS[column])));
            }
        }
        Ok(to_device(&Tensor::f_from_slice(&values)?, images.device())?.f_reshape([batch_size, 3, 3])?)
    };
    let pixel_matrices =
        matrices(|blend, diagonal, weight| blend.gray * weight + if diagonal { blend.image } else { 0.0 })?;
    let mean_matrices = matrices(|blend, _, weight| blend.mean * weight)?;
    let pixels = images.f_view([batch_size, channels, height * width])?;
    // The mean of the gray image is the gray of the mean color.
    let offset = mean_matrices.f_bmm(&pixels.f_mean_dim(2, true, None)?)?;
    let blended = offset.f_baddbmm_out(&pixels.f_empty_like()?, &pixel_matrices, &pixels)?.f_clamp_(0.0, 1.0)?;
    Ok(blended.f_view([batch_size, channels, height, width])?)
}

/// Shifts the hue of every image by its entry of `turns`, in full turns of the color circle.
///
/// This is the conversion through HSV with saturation and value left out: a color is its smallest channel, plus its
/// chroma (largest minus smallest channel) times each channel's share at the hue.
fn turn_hue(images: &Tensor, turns: &[f64]) -> Result<Tensor> {
    let (red, green, blue) = (&images.f_select(1, 0)?, &images.f_select(1, 1)?, &images.f_select(1, 2)?);
    let largest = red.f_maximum(green)?.f_maximum(blue)?;
    let smallest = red.f_minimum(green)?.f_minimum(blue)?;
    let chroma = largest.f_sub(&smallest)?;

    // The hue in sixths of a turn: red at 0, green at 2, blue at 4, plus the distance towards a neighbor. Gray has no
    // hue, and any will do. Masks are numbers and selection is `lerp`, because `where` takes ten times as long on a
    // CPU.
    let inverse = chroma.f_clamp_min_out(&chroma.f_empty_like()?, f64::from(f32::MIN_POSITIVE))?.f_reciprocal_()?;
    let near = |next: &Tensor, previous: &Tensor, place: f64| -> Result<Tensor> {
        Ok(next.f_sub(previous)?.f_mul_(&inverse)?.f_add_scalar_(place)?)
    };
    let is_largest = |plane: &Tensor| plane.f_eq_tensor_out(&chroma.f_empty_like()?, &largest);
    let hue = near(red, green, 4.0)?.f_lerp_tensor_(&near(blue, red, 2.0)?, &is_largest(green)?)?;
    let mut hue = { hue }.f_lerp_tensor_(&near(green, blue, 0.0)?, &is_largest(red)?)?;

    // One full turn more keeps the number positive, so that its fraction is its place on the circle.
    let turns: Vec<f32> = turns.iter().map(|turn| (turn + 1.0) as f32).collect();
    let turns = to_device(&Tensor::f_from_slice(&turns)?, images.device())?.f_reshape([-1, 1, 1])?;
    let hue = hue.f_div_scalar_(6.0)?.f_add_(&turns)?.f_frac_()?.f_mul_scalar_(6.0)?;

    // A channel has its full share within a sixth of a turn of its own hue, and none from two sixths on. Red lies at
    // both ends of the scale; the distance from it is 3 minus the distance from cyan.
    let distance = |place: f64| -> Result<Tensor> { Ok(hue.f_sub(&scalar(place)?)?.f_abs_()?) };
    let shares = [
        distance(3.0)?.f_sub_scalar_(1.0)?,
        distance(2.0)?.f_neg_()?.f_add_scalar_(2.0)?,
        distance(4.0)?.f_neg_()?.f_add_scalar_(2.0)?,
    ];
    let turned = shares
        .into_iter()
        .map(|mut share| share.f_clamp_(0.0, 1.0)?.f_mul_(&chroma)?.f_add_(&smallest))
        .collect::<std::result::Result<Vec<Tensor>, _>>()?;
    Ok(Tensor::f_stack(&turned, 1)?)
}
