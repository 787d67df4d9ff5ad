//! Batch normalization over the images of one rank or of all ranks.

use tch::nn::Path;
use tch::{Kind, Tensor, no_grad_guard};

use crate::error::Result;
use crate::numbers::scalar;
use crate::ranks::Ranks;

const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

#[derive(Debug)]
pub(super) struct BatchNorm {
    affine: Option<(Tensor, Tensor)>,
    running_mean: Tensor,
    running_variance: Tensor,
}

impl BatchNorm {
    pub(super) fn new(path: &Path<'_>, width: i64, affine: bool) -> Result<BatchNorm> {
        let affine = match affine {
            true => Some((path.f_ones("weight", &[width])?, path.f_zeros("bias", &[width])?)),
            false => None,
        };
        let running_mean = path.f_zeros_no_train("running_mean", &[width])?;
        let running_variance = path.f_ones_no_train("running_var", &[width])?;
        Ok(BatchNorm { affine, running_mean, running_variance })
    }

    /// `[B, D]` to `[B, D]`. In training it uses the statistics of the batch (of all ranks, if there are several), else
    /// the running statistics.
    pub(super) fn forward(&self, x: &Tensor, train: bool, ranks: Option<&dyn Ranks>) -> Result<Tensor> {
        // Statistics have the kind of the running ones, even if the layer before computed in bfloat16.
        let x = x.f_to_kind(self.running_mean.f_kind()?)?;
        if let (true, Some(ranks)) = (train, ranks) {
            return self.forward_synchronized(&x, ranks);
        }
        let (weight, bias) = self.affine.as_ref().map(|(weight, bias)| (weight, bias)).unzip();
        let (mean, variance) = (Some(&self.running_mean), Some(&self.running_variance));
        Ok(x.f_batch_norm(weight, bias, mean, variance, train, MOMENTUM, EPSILON, true)?)
    }

    /// The training pass with the statistics of all ranks. Every rank has the same number of images.
    fn forward_synchronized(&self, x: &Tensor, ranks: &dyn Ranks) -> Result<Tensor> {
        let count = x.size()[0] as f64 * ranks.world_size() as f64;
        let (mean, variance) = mean_and_variance(x, count, ranks)?;
        self.update_running_statistics(&mean, &variance, count)?;
        let kind = x.f_kind()?;
        let scale = variance.f_add(&scalar(EPSILON)?)?.f_rsqrt()?.f_to_kind(kind)?;
        let normalized = x.f_sub(&mean.f_to_kind(kind)?)?.f_mul(&scale)?;
        match &self.affine {
            Some((weight, bias)) => Ok(normalized.f_mul(weight)?.f_add(bias)?),
            None => Ok(normalized),
        }
    }

    /// As in libtorch's own batch normalization, the running variance is the unbiased one.
    fn update_running_statistics(&self, mean: &Tensor, variance: &Tensor, count: f64) -> Result<()> {
        let _no_grad = no_grad_guard();
        let unbiased = variance.f_mul(&scalar(count / (count - 1.0))?)?;
        for (running, batch) in [(&self.running_mean, mean), (&self.running_variance, &unbiased)] {
            let updated = running.f_mul(&scalar(1.0 - MOMENTUM)?)?.f_add(&batch.f_mul(&scalar(MOMENTUM)?)?)?;
            running.shallow_clone().f_copy_(&updated)?;
        }
        Ok(())
    }
}

/// Mean and biased variance `[D]` over the rows `[B, D]` of all ranks, `count` in total; in `Double`, with gradient.
fn mean_and_variance(x: &Tensor, count: f64, ranks: &dyn Ranks) -> Result<(Tensor, Tensor)> {
    // Squares of `Float` are exact in `Double`, so subtracting the squared mean loses little precision.
    let x = x.f_to_kind(Kind::Double)?;
    let sum_rows = |tensor: &Tensor| tensor.f_sum_dim_intlist(0, false, None);
    let sums = Tensor::f_stack(&[sum_rows(&x)?, sum_rows(&x.f_square()?)?], 0)?; // [2, D]
    let moments = ranks.sum(&sums)?.f_div(&scalar(count)?)?;
    let (mean, mean_square) = (moments.f_select(0, 0)?, moments.f_select(0, 1)?);
    let variance = mean_square.f_sub(&mean.f_square()?)?.f_maximum(&scalar(0.0)?)?;
    Ok((mean, variance))
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;

    struct Alone;

    impl Ranks for Alone {
        fn rank(&self) -> i64 {
            0
        }
        fn world_size(&self) -> i64 {
            1
        }
        fn gather(&self, rows: &Tensor) -> Result<Tensor> {
            Ok(rows.shallow_clone())
        }
        fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
            Ok(tensor.shallow_clone())
        }
    }

    /// With a mean of 1000 and a deviation of 0.1, sums in single precision would lose the variance altogether.
    #[test]
    fn a_large_mean_does_not_swallow_the_variance() {
        let x = Tensor::randn([64, 4], (Kind::Float, Device::Cpu)) * 0.1 + 1000.0;
        let store = VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&store.root(), 4, true).unwrap();
        let normalized = norm.forward(&x, true, Some(&Alone)).unwrap();
        let wide = x.to_kind(Kind::Double);
        let expected = (&wide - wide.mean_dim(0, true, None)) / (wide.var_dim(0, false, true) + EPSILON).sqrt();
        assert!((normalized - expected).abs().max().double_value(&[]) < 1e-2);
        assert!((&norm.running_mean - 100.0).abs().max().double_value(&[]) < 0.01);
    }
}
