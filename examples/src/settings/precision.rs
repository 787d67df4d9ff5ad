//! Number formats of a run, and deterministic algorithms.

use clap::ValueEnum;
use patchmix::backend;
use patchmix::vit::Precision;
use serde::Serialize;
use tch::Device;

use crate::Result;

/// The values of `--precision`. Weights, norms, softmax and losses are float32 with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrecisionName {
    /// bf16 on GPUs and CPUs with fast bfloat16 products, else f32
    Auto,
    /// float32; on a GPU, matrix products and convolutions round their inputs to TF32
    F32,
    /// float32 without TF32
    F32Strict,
    /// bfloat16 matrix products
    Bf16,
}

impl PrecisionName {
    /// Resolves `auto` for a device with or without fast bfloat16 products.
    pub(crate) fn resolved(self, has_fast_bfloat16: bool) -> PrecisionName {
        match self {
            PrecisionName::Auto if has_fast_bfloat16 => PrecisionName::Bf16,
            PrecisionName::Auto => PrecisionName::F32,
            chosen => chosen,
        }
    }

    /// The model's matrix products. `auto` counts as float32 until it is resolved.
    pub(crate) fn of_products(self) -> Precision {
        match self {
            PrecisionName::Bf16 => Precision::BFloat16,
            PrecisionName::Auto | PrecisionName::F32 | PrecisionName::F32Strict => Precision::Full,
        }
    }

    fn takes_tf32(self) -> bool {
        self != PrecisionName::F32Strict
    }

    /// Sets libtorch up for a run; to be called before the first work on the device. The CPU always computes float32 in
    /// full and gives the same bits every time.
    pub(crate) fn set_up(self, deterministic: bool, device: Device) -> Result<()> {
        if device.is_cuda() {
            if deterministic {
                // SAFETY: no thread that reads the environment has been started yet.
                unsafe { backend::set_deterministic(true) }?;
            }
            backend::allow_tf32(self.takes_tf32())?;
        }
        Ok(())
    }

    /// The number formats in words.
    pub(crate) fn describe(self, deterministic: bool, device: Device) -> String {
        let is_bfloat16 = self.of_products() == Precision::BFloat16;
        let formats = match (is_bfloat16, device.is_cuda() && self.takes_tf32()) {
            (true, true) => "bfloat16 products, float32 with TF32 for the rest",
            (true, false) => "bfloat16 products, float32 for the rest",
            (false, true) => "float32 with TF32 products",
            (false, false) => "float32",
        };
        let deterministic = if device.is_cuda() && deterministic { "; deterministic algorithms" } else { "" };
        format!("{formats}{deterministic}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_faster_one_and_a_choice_stays() {
        use PrecisionName::{Auto, Bf16, F32, F32Strict};
        assert_eq!((Auto.resolved(true), Auto.resolved(false)), (Bf16, F32));
        for chosen in [F32, F32Strict, Bf16] {
            assert_eq!([chosen.resolved(true), chosen.resolved(false)], [chosen; 2]);
        }
    }

    #[test]
    fn only_a_gpu_has_tf32_and_algorithms_to_choose_from() {
        let said = |precision: PrecisionName, deterministic, device| precision.describe(deterministic, device);
        let gpu = Device::Cuda(0);
        assert_eq!(said(PrecisionName::Bf16, false, gpu), "bfloat16 products, float32 with TF32 for the rest");
        assert_eq!(said(PrecisionName::Bf16, true, Device::Cpu), "bfloat16 products, float32 for the rest");
        assert_eq!(said(PrecisionName::F32, true, gpu), "float32 with TF32 products; deterministic algorithms");
        assert_eq!(said(PrecisionName::F32Strict, false, gpu), "float32");
        assert_eq!(said(PrecisionName::F32, true, Device::Cpu), "float32");
    }
}
