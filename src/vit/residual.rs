//! The residual stream of a transformer, with the last branch added lazily.

use tch::{Kind, Tensor};

use super::layers::LayerNorm;
use crate::error::Result;
use crate::native::add_norm::{AddNorm, add_norm};

/// Tokens `[B, T, width]`, and a branch that is still to be added to them: if a norm follows, one operation does both.
#[derive(Debug)]
pub(super) struct Residual {
    tokens: Tensor,
    branch: Option<Branch>,
}

#[derive(Debug)]
struct Branch {
    /// `[B, T, width]`, in the precision of the matrix products.
    output: Tensor,
    /// The factor per image from drop path, `[B, 1, 1]`.
    kept: Option<Tensor>,
}

impl Residual {
    pub(super) fn new(tokens: Tensor) -> Residual {
        Residual { tokens, branch: None }
    }

    /// The number of tokens per image.
    pub(super) fn length(&self) -> i64 {
        self.tokens.size()[1]
    }

    /// Adds a branch. In training, drop path zeroes it with probability `drop_path` per image and scales it up in the
    /// other images.
    pub(super) fn add(self, output: Tensor, drop_path: f64, train: bool) -> Result<Residual> {
        let tokens = self.tokens()?;
        let kept = if train && drop_path > 0.0 { Some(draw_kept(&output, 1.0 - drop_path)?) } else { None };
        Ok(Residual { tokens, branch: Some(Branch { output, kept }) })
    }

    /// The first `wanted` tokens of every image. If that is all of them, no slice is taken: the gradient of a slice
    /// would allocate and fill a tensor of the full size.
    pub(super) fn first(self, wanted: i64) -> Result<Residual> {
        if self.length() == wanted {
            return Ok(self);
        }
        Ok(Residual::new(self.tokens()?.f_narrow(1, 0, wanted)?))
    }

    /// The tokens with all branches added.
    pub(super) fn tokens(self) -> Result<Tensor> {
        let Some(Branch { output, kept }) = self.branch else { return Ok(self.tokens) };
        let output = match kept {
            Some(kept) => output.f_mul(&kept.f_to_kind(output.f_kind()?)?)?,
            None => output,
        };
        Ok(self.tokens.f_add(&output)?)
    }

    /// The stream, and its tokens after `norm`. The fused operation returns them in the dtype of the branch, which the
    /// next layer would cast them to anyway; without it they keep the dtype of the norm.
    pub(super) fn normalized(self, norm: &LayerNorm) -> Result<(Residual, Tensor)> {
        if let Some(Branch { output, kept }) = &self.branch {
            let (weight, bias, epsilon) = norm.parameters();
            let parts = AddNorm { tokens: &self.tokens, branch: output, kept: kept.as_ref(), weight, bias, epsilon };
            if let Some((tokens, normed)) = add_norm(parts)? {
                return Ok((Residual::new(tokens), normed));
            }
        }
        let tokens = self.tokens()?;
        let normed = norm.forward(&tokens)?;
        Ok((Residual::new(tokens), normed))
    }
}

/// The factors of drop path, `[B, 1, 1]`: 0 with probability `1 - keep`, otherwise `1 / keep`. `Double` if the branch
/// is, `Float` otherwise.
fn draw_kept(output: &Tensor, keep: f64) -> Result<Tensor> {
    let drawn = Tensor::f_rand([output.size()[0], 1, 1], (Kind::Float, output.device()))?.f_lt(keep)?;
    let kind = if output.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
    Ok(drawn.f_to_kind(kind)?.f_div_scalar(keep)?)
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use tch::Device;

    use super::*;

    /// The factor is 1 / keep to the precision of the branch, so that the branch keeps its mean.
    #[test]
    fn drop_path_keeps_the_mean() {
        tch::manual_seed(1);
        for (kind, share) in [(Kind::Double, 1.0 / 0.7), (Kind::Float, f64::from(1.0 / 0.7_f32))] {
            let stream = Residual::new(Tensor::zeros([4000, 1, 2], (kind, Device::Cpu)));
            let ones = Tensor::ones([4000, 1, 2], (kind, Device::Cpu));
            let added = stream.add(ones, 0.3, true).unwrap().tokens().unwrap().to_kind(Kind::Double);
            let added = Vec::<f64>::try_from(added.flatten(0, -1)).unwrap();
            let kept = added.iter().filter(|value| **value > 0.0).count() as f64 / 8000.0;
            assert_abs_diff_eq!(kept, 0.7, epsilon = 0.04); // five standard errors
            assert!(added.chunks(2).all(|image| image == [0.0, 0.0] || image == [share, share]));
        }
    }

    #[test]
    fn evaluation_drops_nothing() {
        let stream = Residual::new(Tensor::zeros([8, 1, 2], (Kind::Float, Device::Cpu)));
        let ones = Tensor::ones([8, 1, 2], (Kind::Float, Device::Cpu));
        assert_eq!(stream.add(ones.shallow_clone(), 0.9, false).unwrap().tokens().unwrap(), ones);
    }
}
