//! Views of a batch of images: global ones, and local ones of another size.

use tch::Tensor;

use crate::error::{Error, Result, check_shape};
use crate::mix::MixPlan;

/// A view of a batch of images, and how it is mixed.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// `[B, 3, H, W]`.
    pub images: &'a Tensor,
    /// Mixes the patches of these images: a plan of as many patches as they have.
    pub plan: &'a MixPlan,
}

impl View<'_> {
    /// The mixed images, `[B, 3, H, W]`.
    pub(super) fn mixed(&self, patch_size: i64) -> Result<Tensor> {
        self.plan.mix_images(self.images, patch_size)
    }
}

/// Views of the same images, global ones of one size and local ones of one size; plans that agree in the number of
/// groups and the stride: mixed otherwise, they would have no common target.
pub(super) fn check([view_1, view_2]: &[View<'_>; 2], local: &[View<'_>]) -> Result<()> {
    check_size("view_1", view_1, [None; 3])?;
    let size = |view: &View<'_>| view.images.size();
    let of_global = size(view_1);
    check_size("view_2", view_2, [0, 2, 3].map(|dimension| Some(of_global[dimension])))?;
    check_plan(["groups of plan_2", "mix_stride of plan_2"], view_2.plan, view_1.plan)?;
    let mut of_local = [Some(of_global[0]), None, None];
    for view in local {
        check_size("local view", view, of_local)?;
        of_local = [0, 2, 3].map(|dimension| Some(size(view)[dimension]));
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
            return Err(Error::Value { name, expected: format!("{wanted} as in plan_1"), actual: actual as f64 });
        }
    }
    Ok(())
}
