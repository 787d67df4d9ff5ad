//! Rotation, shear and translation: every pixel is read from a place that is affine in its own, with bicubic
//! interpolation.

use tch::{Device, Kind, Tensor};

use super::AugmentOperation;
use crate::augment::{chosen, on_some};
use crate::error::Result;
use crate::numbers::{range, scalar, to_device};

/// Applies the operations of this kind, one or none per image. Places outside the image show `fill`.
pub(super) fn apply(images: Tensor, operations: &[Option<AugmentOperation>], fill: [u8; 3]) -> Result<Tensor> {
    let (_, _, height, width) = images.size4()?;
    let (positions, maps) =
        chosen(operations, |operation| operation.and_then(|operation| map(operation, height as f64, width as f64)));
    on_some(images, &positions, |images| resample(images, &maps, fill))
}

/// The map `[a, b, c, d, e, f]` of an operation: the pixel centered on `(x, y)` is read from
/// `(a x + b y + c, d x + e y + f)`.
fn map(operation: AugmentOperation, height: f64, width: f64) -> Option<[f64; 6]> {
    match operation {
        AugmentOperation::ShearX { slope } => Some([1.0, slope, 0.0, 0.0, 1.0, 0.0]),
        AugmentOperation::ShearY { slope } => Some([1.0, 0.0, 0.0, slope, 1.0, 0.0]),
        AugmentOperation::TranslateX { share } => Some([1.0, 0.0, share * width, 0.0, 1.0, 0.0]),
        AugmentOperation::TranslateY { share } => Some([1.0, 0.0, 0.0, 0.0, 1.0, share * height]),
        AugmentOperation::Rotate { degrees } => {
            // To 15 digits, as in Pillow: a right angle is then exact.
            let rounded = |value: f64| (value * 1e15).round() / 1e15;
            let (sin, cos) = (-degrees.rem_euclid(360.0).to_radians()).sin_cos();
            let (sin, cos) = (rounded(sin), rounded(cos));
            let (x, y) = (width / 2.0, height / 2.0);
            Some([cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y])
        }
        _ => None,
    }
}

/// Reads every pixel of `images` `[N, 3, H, W]` from the place that its image's map says.
///
/// In double precision and in Pillow's order of operations, which drops the fraction of the result: a flat area keeps
/// its value only if no rounding error gets in.
fn resample(images: &Tensor, maps: &[[f64; 6]], fill: [u8; 3]) -> Result<Tensor> {
    let (count, channels, height, width) = images.size4()?;
    let (x, y) = places(maps, height, width, images.device())?;
    let inside = within(&x, width)?.f_logical_and_(&within(&y, height)?)?.f_unsqueeze(1)?;
    let (columns, x) = taps(&x, width, 1)?;
    let (rows, y) = taps(&y, height, width)?;

    let pixels = images.f_reshape([count, channels, height * width])?;
    let read = |row: &Tensor, column: &Tensor| -> Result<Tensor> {
        let place = row.f_add(column)?.f_view([count, 1, height * width])?;
        let read = pixels.f_gather(2, &place.f_expand([count, channels, height * width], false)?, false)?;
        Ok(read.f_view([count, channels, height, width])?.f_to_kind(Kind::Double)?)
    };
    let mut lines = Vec::with_capacity(4);
    for row in &rows {
        let values = columns.iter().map(|column| read(row, column)).collect::<Result<Vec<_>>>()?;
        lines.push(cubic(&values, &x)?);
    }
    let values = cubic(&lines, &y)?.f_clamp_(0.0, 255.0)?.f_to_kind(Kind::Uint8)?;
    let fill = to_device(&Tensor::f_from_slice(&fill)?, images.device())?.f_view([1, 3, 1, 1])?;
    Ok(values.f_where_self(&inside, &fill)?)
}

/// The columns and the rows `[N, H, W]`, `Double`, from which the maps read the pixels of images of `height` x `width`.
fn places(maps: &[[f64; 6]], height: i64, width: i64, device: Device) -> Result<(Tensor, Tensor)> {
    let coefficients = to_device(&Tensor::f_from_slice(maps.as_flattened())?, device)?;
    let coefficients = coefficients.f_view([-1, 6, 1, 1])?.f_unbind(1)?; // six of [N, 1, 1]
    let centers =
        |side: i64| -> Result<Tensor> { Ok(range(side, device)?.f_to_kind(Kind::Double)?.f_add_scalar_(0.5)?) };
    let (x, y) = (centers(width)?, centers(height)?.f_unsqueeze(1)?);
    let place = |row: &[Tensor]| -> Result<Tensor> { Ok(row[0].f_mul(&x)?.f_add(&row[1].f_mul(&y)?)?.f_add(&row[2])?) };
    Ok((place(&coefficients[..3])?, place(&coefficients[3..])?))
}

/// Whether places are within a side of `length` pixels.
fn within(places: &Tensor, length: i64) -> Result<Tensor> {
    let (first, end) = (scalar(0.0)?, scalar(length as f64)?);
    Ok(places.f_ge_tensor(&first)?.f_logical_and_(&places.f_lt_tensor(&end)?)?)
}

/// The four pixels of a side of `length` pixels that surround each of `places` `[N, H, W]`, times `stride`, and how far
/// the place is from the second towards the third, `[N, 1, H, W]`. The border repeats its last pixel.
fn taps(places: &Tensor, length: i64, stride: i64) -> Result<(Vec<Tensor>, Tensor)> {
    let places = places.f_sub(&scalar(0.5)?)?;
    let second = places.f_floor()?;
    let tap = |offset: f64| -> Result<Tensor> {
        let mut pixel = second.f_add(&scalar(offset)?)?;
        Ok(pixel.f_clamp_(0, length - 1)?.f_mul_scalar_(stride)?.f_to_kind(Kind::Int64)?)
    };
    let taps = [-1.0, 0.0, 1.0, 2.0].into_iter().map(tap).collect::<Result<Vec<_>>>()?;
    Ok((taps, places.f_sub(&second)?.f_unsqueeze(1)?))
}

/// The cubic convolution of four values with a = -1, at `distance` from the second towards the third.
fn cubic(values: &[Tensor], distance: &Tensor) -> Result<Tensor> {
    let step = values[0].f_sub(&values[1])?;
    let linear = values[2].f_sub(&values[0])?;
    let square = step.f_add(&step)?.f_add_(&values[2])?.f_sub_(&values[3])?;
    let cube = step.f_neg()?.f_sub_(&values[2])?.f_add_(&values[3])?;
    let slope = cube.f_mul(distance)?.f_add_(&square)?.f_mul_(distance)?.f_add_(&linear)?;
    Ok({ slope }.f_mul_(distance)?.f_add_(&values[1])?)
}
