//! Boxes of pixels, one for each image.

use tch::{Device, Tensor};

use super::Crop;
use crate::error::{Result, check_value};
use crate::numbers::to_device;

/// Which pixels of `height` x `width` lie in each image's box: `Bool` `[B, 1, H, W]`.
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
pub(super) fn check_box(of_pixels: &Crop, height: i64, width: i64) -> Result<()> {
    for (name, start, length, limit) in
        [("box rows", of_pixels.top, of_pixels.height, height), ("box columns", of_pixels.left, of_pixels.width, width)]
    {
        let expected = format!("0 or more, all of them within the image's {limit}");
        check_value(name, start as f64, &expected, (0..=limit).contains(&start))?;
        check_value(name, length as f64, &expected, (0..=limit - start).contains(&length))?;
    }
    Ok(())
}
