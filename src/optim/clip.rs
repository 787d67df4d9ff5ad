//! Clipping of gradients by their norm.

use tch::{Tensor, no_grad_guard};

use super::AdamW;
use crate::error::{Result, check_positive};
use crate::numbers::scalar;

/// Added to the norm, as in PyTorch.
const EPSILON: f64 = 1e-6;

impl AdamW {
    /// Scales all gradients in place so that their L2 norm together is at most `max_norm`, and returns the norm from
    /// before: a scalar on the device, as [`AdamW::gradient_norm`] gives it.
    ///
    /// The factor is `min(1, max_norm / (norm + 1e-6))`, as in PyTorch's `clip_grad_norm_`; gradients of a smaller norm
    /// keep their bits. It stays on the device, so the call does not wait. Several ranks average their gradients first.
    /// If the norm is not finite, neither are the gradients afterwards, or they are 0: skip the step, with
    /// [`AdamW::step_if`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `max_norm` is positive and finite; those of
    /// [`AdamW::gradient_norm`]. Nothing is changed then.
    pub fn clip_gradients(&mut self, max_norm: f64) -> Result<Tensor> {
        check_positive("max_norm", max_norm)?;
        let _no_grad = no_grad_guard();
        let norm = self.gradient_norm()?;
        let factor = scalar(max_norm)?.f_div(&norm.f_add(&scalar(EPSILON)?)?)?.f_minimum(&scalar(1.0)?)?;
        let factor = factor.f_to_kind(norm.f_kind()?)?;
        for mut gradient in self.gradients() {
            let _ = gradient.f_mul_(&factor)?;
        }
        Ok(norm)
    }
}
