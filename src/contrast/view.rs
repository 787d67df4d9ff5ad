//! Views of a batch: global views, and local views of another size.

use tch::Tensor;

use crate::error::{Error, Result, check_shape};
use crate::mix::MixPlan;

/// A view of a batch of images, with its mix.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// `[B, 3, H, W]`.
    pub images: &'a Tensor,
    /// Mixes the patches of these images, or blocks of [another size](super::LossConfig::mix_patch_size); it has as
    /// many as they have.
    pub plan: &'a MixPlan,
}

impl View<'_> {
    /// The mixed images, `[B, 3, H, W]`.
    pub(super) fn mixed(&self, patch_size: i64) -> Result<Tensor> {
        self.plan.mix_images(self.images, patch_size)
    }
}

/// An error unless all views have one batch size, global and local views have one image size each, and all plans agree
/// in the number of groups and the stride, so that they have the same targets.
pub(super) fn check([view_1, view_2]: &[View<'_>; 2], local: &[View<'_>]) -> Result<()> {
    check_size("view_1", view_1, [None; 3])?;
    let global_size = view_1.images.size();
    let (batch_size, height, width) = (global_size[0], global_size[2], global_size[3]);
    check_size("view_2", view_2, [Some(batch_size), Some(height), Some(width)])?;
    check_plan(["groups of plan_2", "mix_stride of plan_2"], view_2.plan, view_1.plan)?;
    let (mut height, mut width) = (None, None); // the first local view decides
    for view in local {
        check_size("local view", view, [Some(batch_size), height, width])?;
        let size = view.images.size();
        (height, width) = (Some(size[2]), Some(size[3]));
        check_plan(["groups of a local plan", "mix_stride of a local plan"], view.plan, view_1.plan)?;
    }
    Ok(())
}

fn check_size(name: &'static str, view: &View<'_>, [batch_size, height, width]: [Option<i64>; 3]) -> Result<()> {
    check_shape(name, view.images, &[("B", batch_size), ("3", Some(3)), ("H", height), ("W", width)])
}

fn check_plan([groups, mix_stride]: [&'static str; 2], plan: &MixPlan, first: &MixPlan) -> Result<()> {
    for (name, actual, wanted) in
        [(groups, plan.groups(), first.groups()), (mix_stride, plan.mix_stride(), first.mix_stride())]
    {
        if actual != wanted {
            return Err(Error::Value { name, expected: format!("{wanted}, as in plan_1"), actual: actual as f64 });
        }
    }
    Ok(())
}
