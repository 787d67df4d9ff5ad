//! Boxes of pixels, one per image: masks and range checks.

use tch::{Device, Tensor};

use super::Crop;
use crate::error::{Result, check_in};
use crate::numbers::to_device;

/// A mask of the pixels in each image's box: `Bool` `[B, 1, H, W]`.
pub(super) fn inside(boxes: &[Crop], height: i64, width: i64, device: Device) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(boxes.len() * height as usize);
    let mut columns = Vec::with_capacity(boxes.len() * width as usize);
    for Crop { top, left, height: box_height, width: box_width } in boxes {
        rows.extend((0..height).map(|row| (*top..top + box_height).contains(&row)));
        columns.extend((0..width).map(|column| (*left..left + box_width).contains(&column)));
    }
    let rows = to_device(&Tensor::f_from_slice(&rows)?, device)?.f_reshape([-1, 1, height, 1])?;
    let columns = to_device(&Tensor::f_from_slice(&columns)?, device)?.f_reshape([-1, 1, 1, width])?;
    Ok(rows.f_logical_and(&columns)?)
}

/// An error unless the box lies within an image of `height` x `width` pixels. It may be empty.
pub(super) fn check_box(pixels: &Crop, height: i64, width: i64) -> Result<()> {
    check_in("box top", pixels.top, 0..=height)?;
    check_in("box height", pixels.height, 0..=height - pixels.top)?;
    check_in("box left", pixels.left, 0..=width)?;
    check_in("box width", pixels.width, 0..=width - pixels.left)
}
