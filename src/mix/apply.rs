//! Mixes tensors by a plan: a copy on the CPU, a gather elsewhere.

use tch::{Device, Tensor};

use super::MixPlan;
use crate::error::{Error, Result, check_in, check_shape};
use crate::native;
use crate::numbers::{range, to_device};

/// The largest number of pieces, one per patch and pixel row of it. It limits what an expanded tensor, which has more
/// elements than memory, can make [`MixPlan::mix_images`] allocate.
const MAX_PIECES: i64 = 1 << 28;

impl MixPlan {
    /// Mixes patch sequences `[B, T, D]`: `mixed[i, t] = batch[(i + group(t) * stride) mod B, t]`. A plan
    /// [per image](MixPlan::per_image) has a `group` for each `i`.
    ///
    /// Works for any kind, device and memory layout. The gradient of a patch flows back to the image it was read from.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless `batch` is `[B, T, D]` with the plan's number of patches, and of images in a plan per
    /// image; [`Error::SourcesCollide`] if B images have fewer distinct sources than the plan has groups.
    pub fn mix_patches(&self, batch: &Tensor) -> Result<Tensor> {
        check_sequences(batch, self.images, Some(self.patches()))?;
        let (batch_size, patches, width) = batch.size3()?;
        match self.images {
            None => self.mix_pieces(batch, &self.group_of_position, width),
            Some(_) => self.mix_each(batch, &[batch_size, patches, width], &[batch_size, patches, 1]),
        }
    }

    /// Mixes images `[B, C, H, W]` in patches of `patch_size` x `patch_size` pixels; H and W may differ.
    ///
    /// Patches are numbered row by row, like the tokens of a Vision Transformer, so mixing the images and then
    /// embedding them gives the same tokens as mixing the embeddings.
    ///
    /// # Errors
    ///
    /// [`Error::PatchSize`] unless `patch_size` divides H and W; [`Error::Shape`] if the images do not have the plan's
    /// number of patches, or are not as many as in a plan per image; [`Error::SourcesCollide`] if B images have fewer
    /// distinct sources than the plan has groups; [`Error::Value`] for more than 2^28 rows of pixels in all patches.
    pub fn mix_images(&self, images: &Tensor, patch_size: i64) -> Result<Tensor> {
        let (rows, columns) = patch_grid(images, patch_size)?;
        let (batch_size, channels, _, _) = images.size4()?;
        let fits = rows.checked_mul(columns) == Some(self.patches());
        if !fits || self.images.is_some_and(|images| images != batch_size) {
            let images_of_plan = self.images.map_or("B".to_owned(), |images| images.to_string());
            let expected =
                format!("[{images_of_plan}, C, H, W] with {} patches of {patch_size} x {patch_size}", self.patches());
            return Err(Error::Shape { name: "images", expected, actual: images.size() });
        }
        if self.images.is_some() {
            let cut = [batch_size, channels, rows, patch_size, columns, patch_size];
            return self.mix_each(images, &cut, &[batch_size, 1, rows, 1, columns, 1]);
        }
        if images.numel() == 0 {
            return self.mix_pieces(images, &[], patch_size); // its other sizes may be of any length
        }
        // In memory, an image is a sequence of pieces `patch_size` pixels wide. A row of patches is `patch_size` pixel
        // rows, each with one piece of every patch.
        check_in("patches * patch_size", self.patches().saturating_mul(patch_size), ..=MAX_PIECES)?;
        let patch_rows = self.group_of_position.chunks(columns as usize);
        let group_of_piece: Vec<i64> = patch_rows.flat_map(|row| row.repeat(patch_size as usize)).collect();
        self.mix_pieces(images, &group_of_piece, patch_size)
    }

    /// Mixes `batch` `[B, ...]` alike, whose images are sequences of pieces of `piece_elements` elements in memory
    /// order. `group_of_piece` holds the group of each piece, and repeats until the image is full.
    fn mix_pieces(&self, batch: &Tensor, group_of_piece: &[i64], piece_elements: i64) -> Result<Tensor> {
        let batch_size = batch.size()[0];
        let shift_of_group = self.sources(batch_size)?;
        if batch.numel() == 0 {
            return Ok(batch.shallow_clone());
        }
        if batch.device() == Device::Cpu && !batch.requires_grad() {
            return native::mix(batch, group_of_piece, &shift_of_group, piece_elements);
        }
        let pieces = group_of_piece.len() as i64;
        let shift = shifts(group_of_piece, &shift_of_group, &[1, 1, pieces, 1])?;
        gather(batch, &[batch_size, -1, pieces, piece_elements], &shift)
    }

    /// Mixes `batch` image by image. In the shape `cut`, the positions of patches are dimensions of their own; in the
    /// shape `positions`, all others are 1.
    fn mix_each(&self, batch: &Tensor, cut: &[i64], positions: &[i64]) -> Result<Tensor> {
        let shift_of_group = self.sources(batch.size()[0])?;
        if batch.numel() == 0 {
            return Ok(batch.shallow_clone());
        }
        gather(batch, cut, &shifts(&self.group_of_position, &shift_of_group, positions)?)
    }
}

/// The shift of every group in `groups`, as a tensor of this shape.
fn shifts(groups: &[i64], shift_of_group: &[i64], shape: &[i64]) -> Result<Tensor> {
    let shifts: Vec<i64> = groups.iter().map(|&group| shift_of_group[group as usize]).collect();
    Ok(Tensor::f_from_slice(&shifts)?.f_view(shape)?)
}

/// `mixed[i, ...] = batch[(i + shift[i, ...]) mod B, ...]` in the shape `cut`, to which `shift` is expanded: one
/// gather, which works on any device and has a gradient.
fn gather(batch: &Tensor, cut: &[i64], shift: &Tensor) -> Result<Tensor> {
    let batch_size = batch.size()[0];
    let cut = batch.f_reshape(cut)?;
    let mut column = vec![1; cut.dim()];
    column[0] = batch_size;
    let row = range(batch_size, batch.device())?.f_view(column.as_slice())?;
    let source = row.f_add(&to_device(shift, batch.device())?)?.f_remainder_(batch_size)?;
    Ok(cut.f_gather(0, &source.f_expand(cut.size(), false)?, false)?.f_view(batch.size().as_slice())?)
}

/// An error unless `batch` is `[B, T, D]` with these numbers of images and patches, or any number of them.
pub(super) fn check_sequences(batch: &Tensor, images: Option<i64>, patches: Option<i64>) -> Result<()> {
    let checked = check_shape("batch", batch, &[("B", images), ("T", patches), ("D", None)]);
    checked.map_err(|error| match error {
        Error::Shape { name, expected, actual } if actual.len() == 4 => {
            let expected = format!("{expected} (for images, use MixPlan::for_images and MixPlan::mix_images)");
            Error::Shape { name, expected, actual }
        }
        other => other,
    })
}

/// The rows and columns of patches in images `[B, C, H, W]`.
pub(super) fn patch_grid(images: &Tensor, patch_size: i64) -> Result<(i64, i64)> {
    check_shape("images", images, &[("B", None), ("C", None), ("H", None), ("W", None)])?;
    let (_, _, height, width) = images.size4()?;
    if patch_size < 1 || height % patch_size != 0 || width % patch_size != 0 {
        return Err(Error::PatchSize { height, width, patch_size });
    }
    Ok((height / patch_size, width / patch_size))
}
