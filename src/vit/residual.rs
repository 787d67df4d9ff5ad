//! The residual stream of a transformer: tokens that branches are added to.

use tch::{Kind, Tensor};

use super::layers::LayerNorm;
use crate::error::Result;
use crate::native::add_norm::{AddNorm, add_norm};

/// Tokens `[B, T, width]`, and a branch that is yet to be added to them: where the next thing to happen is a norm, a
/// GPU does both at once.
#[derive(Debug)]
pub(super) struct Residual {
    tokens: Tensor,
    branch: Option<Branch>,
}

#[derive(Debug)]
struct Branch {
    /// `[B, T, width]`, in the kind of the matrix products.
    output: Tensor,
    /// What it is multiplied by for every image, `[B, 1, 1]` of `Float`: drop path.
    kept: Option<Tensor>,
}

impl Residual {
    pub(super) fn new(tokens: Tensor) -> Residual {
        Residual { tokens, branch: None }
    }

    /// The number of tokens of an image.
    pub(super) fn length(&self) -> i64 {
        self.tokens.size()[1]
    }

    /// Adds a branch. In training, drop path leaves it out for some images, with probability `drop_path`, and makes up
    /// for it in the others.
    pub(super) fn add(self, output: Tensor, drop_path: f64, train: bool) -> Result<Residual> {
        let tokens = self.tokens()?;
        let kept = if train && drop_path > 0.0 { Some(draw_kept(&output, 1.0 - drop_path)?) } else { None };
        Ok(Residual { tokens, branch: Some(Branch { output, kept }) })
    }

    /// The first `wanted` tokens of every image. All of them are taken as they are, since the gradient of a part is a
    /// whole tensor of zeros with that part filled in.
    pub(super) fn first(self, wanted: i64) -> Result<Residual> {
        if self.length() == wanted {
            return Ok(self);
        }
        Ok(Residual::new(self.tokens()?.f_narrow(1, 0, wanted)?))
    }

    /// The tokens, with all branches added.
    pub(super) fn tokens(self) -> Result<Tensor> {
        let Some(Branch { output, kept }) = self.branch else { return Ok(self.tokens) };
        let output = match kept {
            Some(kept) => output.f_mul(&kept.f_to_kind(output.f_kind()?)?)?,
            None => output,
        };
        Ok(self.tokens.f_add(&output)?)
    }

    /// The stream, and its tokens normalized: in the kind of the norm, or where one kernel does it all, in `BFloat16`,
    /// which is what they are turned into next.
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

/// `[B, 1, 1]` of `Float`: 0 for images whose branch is left out, `1 / keep` for the others.
fn draw_kept(output: &Tensor, keep: f64) -> Result<Tensor> {
    let drawn = Tensor::f_rand([output.size()[0], 1, 1], (Kind::Float, output.device()))?.f_lt(keep)?;
    Ok(drawn.f_to_kind(Kind::Float)?.f_div_scalar(keep)?)
}
