//! Bindings to `csrc/views.cpp`: views of images, from crop to normalization as one operation.

use std::ffi::c_char;
use std::ptr;
use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::gpu::{self, Kernels};
use super::{ALLOWED, check, new_tensor};
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_views(
        made: *mut *mut C_tensor,
        images: *const C_tensor,
        plans: *const C_tensor,
        size: i64,
        gain: f32,
        means: *const f32,
        inverse_stds: *const f32,
    ) -> *mut c_char;
}

/// The widest box of a blur, in pixels to either side: the work grows with it, that of libtorch's products does not.
const MAX_REACH: f32 = 32.0;

/// `longest_blurred` of `csrc/view_math.cuh`.
const MAX_SIZE_ON_GPU: i64 = 6144;

/// Values that a thread of a CPU holds besides the view: `size` rows of the widest crop.
const MAX_VALUES_ON_CPU: i64 = 1 << 26;

/// The kind of a change of color in `csrc/view_math.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColorStep {
    Brightness = 1,
    Contrast = 2,
    Saturation = 3,
    Hue = 4,
}

/// The view of one image: `ViewPlan` of `csrc/view_math.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ViewPlan {
    /// Top, left, height and width of the crop, which are whole numbers.
    pub(crate) crop: [f32; 4],
    pub(crate) flip: bool,
    /// Changes of color, one after the other.
    pub(crate) steps: [Option<(ColorStep, f32)>; 5],
    pub(crate) blur: Option<BlurWeights>,
    pub(crate) solarize: bool,
}

/// The box that blurs three times: weights of pixels up to `reach` away, and of those one pixel farther.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BlurWeights {
    pub(crate) reach: f32,
    pub(crate) inner: f32,
    pub(crate) outer: f32,
}

impl ViewPlan {
    const NUMBERS: usize = 19;

    fn numbers(&self) -> [f32; Self::NUMBERS] {
        let [top, left, height, width] = self.crop;
        let [a, b, c, d, e] = self.steps.map(|step| step.map_or(0.0, |(kind, _)| f32::from(kind as u8)));
        let [f, g, h, i, j] = self.steps.map(|step| step.map_or(0.0, |(_, value)| value));
        let BlurWeights { reach, inner, outer } =
            self.blur.unwrap_or(BlurWeights { reach: -1.0, inner: 1.0, outer: 0.0 });
        let [flip, solarize] = [self.flip, self.solarize].map(|is| f32::from(u8::from(is)));
        [top, left, height, width, flip, a, b, c, d, e, f, g, h, i, j, reach, inner, outer, solarize]
    }

    /// Whether the crop lies within an image of `height` x `width` pixels, and the blur is not too wide.
    fn is_supported(&self, height: i64, width: i64) -> bool {
        let [top, left, rows, columns] = self.crop;
        let within = |first: f32, count: f32, end: i64| first >= 0.0 && count >= 1.0 && first + count <= end as f32;
        within(top, rows, height)
            && within(left, columns, width)
            && self.blur.is_none_or(|blur| (0.0..=MAX_REACH).contains(&blur.reach))
    }
}

/// What is the same for all images of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViewSizes {
    pub(crate) size: i64,
    /// Scales the images to `0..=1`.
    pub(crate) gain: f32,
    pub(crate) means: [f32; 3],
    pub(crate) inverse_stds: [f32; 3],
}

/// The views `[B, 3, size, size]` of `Float` that `plans` make of `images`, `[B, 3, H, W]` of `Uint8` or `Float`;
/// `None` if the arguments are not supported.
pub(crate) fn views(images: &Tensor, plans: &[ViewPlan], sizes: ViewSizes) -> Result<Option<Tensor>> {
    let &[batch_size, 3, height, width] = images.size().as_slice() else { return Ok(None) };
    let widest = plans.iter().map(|plan| plan.crop[3] as i64).max().unwrap_or(0);
    let supported = ALLOWED.load(Ordering::Relaxed)
        && matches!(images.f_kind()?, Kind::Uint8 | Kind::Float)
        && !images.is_sparse()
        && images.numel() > 0
        && sizes.size > 0
        && plans.len() as i64 == batch_size
        && height.max(width) <= 1 << 16 // exact in Float
        && plans.iter().all(|plan| plan.is_supported(height, width))
        && match images.device() {
            Device::Cpu => sizes.size * widest <= MAX_VALUES_ON_CPU,
            Device::Cuda(index) => sizes.size <= MAX_SIZE_ON_GPU && gpu::has(index, Kernels::Views),
            _ => false,
        };
    if !supported {
        return Ok(None);
    }
    let numbers: Vec<f32> = plans.iter().flat_map(ViewPlan::numbers).collect();
    let plans = Tensor::f_from_slice(&numbers)?;
    let mut made = ptr::null_mut();
    // SAFETY: live tensors, which are only read: images of the kinds and dimensions above, and the numbers of one plan
    // for each, whose crop lies within its image; two arrays of three numbers.
    let message = unsafe {
        patchmix_views(
            &mut made,
            images.as_ptr(),
            plans.as_ptr(),
            sizes.size,
            sizes.gain,
            sizes.means.as_ptr(),
            sizes.inverse_stds.as_ptr(),
        )
    };
    check(message)?;
    Ok(Some(new_tensor(made)?))
}
