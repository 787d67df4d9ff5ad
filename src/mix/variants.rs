//! Other plans than the paper's: bands instead of scattered patches, and a partition for each image.

use tch::{Device, Kind, Tensor};

use super::{MixPlan, check_groups};
use crate::error::{Error, Result, check_in};

impl MixPlan {
    /// Draws bands instead of scattered patches, so that a mixed image is cut from regions as in CutMix.
    ///
    /// The `rows` x `columns` positions are read row by row or column by column, with equal odds. Starting at a random
    /// position and wrapping around at the end, each group takes the next run of them. Group sizes, and so the targets,
    /// are those of [`MixPlan::random`]. Follows [`tch::manual_seed`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless there is a row and a column; those of [`MixPlan::random`].
    pub fn bands(rows: i64, columns: i64, groups: i64, mix_stride: i64) -> Result<MixPlan> {
        check_in("rows", rows, 1..)?;
        check_in("columns", columns, 1..)?;
        let patches = rows.saturating_mul(columns);
        check_groups(groups, patches)?;
        let drawn = i64::try_from(Tensor::f_randint(2 * patches, [], (Kind::Int64, Device::Cpu))?)?;
        let (start, by_columns) = (drawn / 2, drawn % 2 == 1);
        let position = |step: i64| match (start + step) % patches {
            place if by_columns => place % rows * columns + place / rows,
            place => place,
        };
        MixPlan::from_permutation(&(0..patches).map(position).collect::<Vec<_>>(), groups, mix_stride)
    }

    /// The plan in which image `i` of a batch of `plans.len()` images is mixed by `plans[i]`.
    ///
    /// Its targets are those of every single plan, because they depend on the sizes of the groups alone.
    ///
    /// ```no_run
    /// use patchmix::MixPlan;
    /// let plans = (0..8).map(|_| MixPlan::random(64, 2, 1)).collect::<Result<Vec<_>, _>>()?;
    /// let plan = MixPlan::per_image(&plans)?; // for batches of 8 images
    /// # Ok::<(), patchmix::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if there is no plan, if the plans differ in the number of patches, groups or the stride, or if
    /// one of them is a plan per image itself.
    pub fn per_image(plans: &[MixPlan]) -> Result<MixPlan> {
        check_in("number of plans", plans.len() as i64, 1..)?;
        let first = &plans[0];
        for plan in plans {
            if let Some(images) = plan.images {
                let expected = "none: plans per image cannot be joined".to_owned();
                return Err(Error::Value { name: "images of a plan", expected, actual: images as f64 });
            }
            for (name, actual, wanted) in [
                ("patches of a plan", plan.patches(), first.patches()),
                ("groups of a plan", plan.groups, first.groups),
                ("mix_stride of a plan", plan.mix_stride, first.mix_stride),
            ] {
                if actual != wanted {
                    let expected = format!("{wanted}, as in the first plan");
                    return Err(Error::Value { name, expected, actual: actual as f64 });
                }
            }
        }
        let group_of_position = plans.iter().flat_map(|plan| plan.group_of_position.iter().copied()).collect();
        Ok(MixPlan { group_of_position, images: Some(plans.len() as i64), ..*first })
    }
}
