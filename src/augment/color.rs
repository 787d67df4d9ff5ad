//! Colour jitter, greyscale and solarization. Everything here is `[B, 3, H, W]`, `Float`, contiguous, in `0..=1`.

use tch::Tensor;

use super::{JitterStep, ViewParameters, chosen, on_some};
use crate::error::Result;
use crate::numbers::{scalar, to_device};

/// How much red, green and blue count in the grey of a pixel.
const GREY_WEIGHTS: [f32; 3] = [0.2989, 0.587, 0.114];

/// What a step other than hue makes of a pixel: `image * pixel + grey * grey(pixel) + mean * mean of grey(image)`.
#[derive(Clone, Copy, PartialEq)]
struct Blend {
    image: f32,
    grey: f32,
    mean: f32,
}

impl Blend {
    /// The image stays as it is.
    const NONE: Blend = Blend { image: 1.0, grey: 0.0, mean: 0.0 };
    /// Greyscale.
    const GREY: Blend = Blend { image: 0.0, grey: 1.0, mean: 0.0 };

    /// What an image's colour jitter does as its step number `turn`.
    fn of_jitter(parameters: &ViewParameters, turn: usize) -> Blend {
        let Some(jitter) = parameters.jitter else { return Blend::NONE };
        let (brightness, contrast) = (jitter.brightness as f32, jitter.contrast as f32);
        let saturation = jitter.saturation as f32;
        match jitter.order[turn] {
            JitterStep::Brightness => Blend { image: brightness, ..Blend::NONE },
            JitterStep::Contrast => Blend { image: contrast, mean: 1.0 - contrast, ..Blend::NONE },
            JitterStep::Saturation => Blend { image: saturation, grey: 1.0 - saturation, ..Blend::NONE },
            JitterStep::Hue => Blend::NONE,
        }
    }
}

/// Jitters the colours of the images that are to be, each in its own order, and takes them from those that are grey.
pub(super) fn jitter_and_grey(mut images: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    for turn in 0..4 {
        let blends: Vec<Blend> = parameters.iter().map(|parameters| Blend::of_jitter(parameters, turn)).collect();
        images = blend(images, &blends)?;
        let (positions, turns) = chosen(parameters, |parameters| {
            parameters
                .jitter
                .filter(|jitter| jitter.order[turn] == JitterStep::Hue && jitter.hue != 0.0)
                .map(|jitter| jitter.hue)
        });
        images = on_some(images, &positions, |images| turn_hue(images, &turns))?;
    }
    let greys: Vec<Blend> =
        parameters.iter().map(|parameters| if parameters.grey { Blend::GREY } else { Blend::NONE }).collect();
    blend(images, &greys)
}

/// Inverts the values of one half and above of the images that are to be solarized.
pub(super) fn solarize(images: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    let (positions, _) = chosen(parameters, |parameters| parameters.solarize.then_some(()));
    // From one half on, and only there, 1 - x is the smaller of the two.
    on_some(images, &positions, |images| Ok(images.f_neg()?.f_add_scalar_(1.0)?.f_minimum(images)?))
}

/// Blends every image as its entry says. One product with a 3 x 3 matrix per image is all of it, which is less work
/// than picking out the images of each kind.
fn blend(images: Tensor, blends: &[Blend]) -> Result<Tensor> {
    if blends.iter().all(|blend| *blend == Blend::NONE) {
        return Ok(images);
    }
    let (batch_size, channels, height, width) = images.size4()?;
    let matrices = |entry: fn(&Blend, bool, f32) -> f32| -> Result<Tensor> {
        let mut values = Vec::with_capacity(9 * blends.len());
        for blend in blends {
            for row in 0..3 {
                values.extend((0..3).map(|column| entry(blend, row == column, GREY_WEIGHTS[column])));
            }
        }
        Ok(to_device(&Tensor::f_from_slice(&values)?, images.device())?.f_reshape([batch_size, 3, 3])?)
    };
    let of_pixel = matrices(|blend, diagonal, weight| blend.grey * weight + if diagonal { blend.image } else { 0.0 })?;
    let of_mean = matrices(|blend, _, weight| blend.mean * weight)?;
    let pixels = images.f_view([batch_size, channels, height * width])?;
    // The mean of the grey image is the grey of the mean colour.
    let offset = of_mean.f_bmm(&pixels.f_mean_dim(2, true, None)?)?;
    let blended = offset.f_baddbmm_out(&pixels.f_empty_like()?, &of_pixel, &pixels)?.f_clamp_(0.0, 1.0)?;
    Ok(blended.f_view([batch_size, channels, height, width])?)
}

/// Turns the hue of every image by its entry of `turns`, in full turns of the colour circle.
///
/// The way through hue, saturation and value, with the latter two left out: a colour is its smallest channel, plus its
/// chroma (largest less smallest channel) times the share that each channel has at the hue.
fn turn_hue(images: &Tensor, turns: &[f64]) -> Result<Tensor> {
    let (red, green, blue) = (&images.f_select(1, 0)?, &images.f_select(1, 1)?, &images.f_select(1, 2)?);
    let largest = red.f_maximum(green)?.f_maximum(blue)?;
    let smallest = red.f_minimum(green)?.f_minimum(blue)?;
    let chroma = largest.f_sub(&smallest)?;

    // The hue in sixths of a turn: red at 0, green at 2, blue at 4, and how far towards a neighbour. Grey has none, and
    // any will do. Masks are numbers and choosing is `lerp`, because `where` takes ten times as long on a CPU.
    let inverse = chroma.f_clamp_min_out(&chroma.f_empty_like()?, f64::from(f32::MIN_POSITIVE))?.f_reciprocal_()?;
    let near = |next: &Tensor, previous: &Tensor, place: f64| -> Result<Tensor> {
        Ok(next.f_sub(previous)?.f_mul_(&inverse)?.f_add_scalar_(place)?)
    };
    let is_largest = |plane: &Tensor| plane.f_eq_tensor_out(&chroma.f_empty_like()?, &largest);
    let hue = near(red, green, 4.0)?.f_lerp_tensor_(&near(blue, red, 2.0)?, &is_largest(green)?)?;
    let mut hue = { hue }.f_lerp_tensor_(&near(green, blue, 0.0)?, &is_largest(red)?)?;

    // A whole turn more keeps the number positive, so that its fraction is its place on the circle.
    let turns: Vec<f32> = turns.iter().map(|turn| (turn + 1.0) as f32).collect();
    let turns = to_device(&Tensor::f_from_slice(&turns)?, images.device())?.f_reshape([-1, 1, 1])?;
    let hue = hue.f_div_scalar_(6.0)?.f_add_(&turns)?.f_frac_()?.f_mul_scalar_(6.0)?;

    // A channel has its full share within a sixth of a turn of its own hue and none from two sixths on. The distance
    // from red, on both ends of the scale, is 3 less the distance from cyan.
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
