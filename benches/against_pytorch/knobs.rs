//! Settings of libtorch, one by one, for a step of ViT-T/2 in bfloat16.
//!
//! The allocator reads its settings when the process starts. With PYTORCH_CUDA_ALLOC_CONF set, only that is measured.

use patchmix::backend::{self, AttentionKernel};
use patchmix::vit::Precision;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::{heading, in_turns, milliseconds, row, timed};

type Knob = (&'static str, fn());

const KNOBS: [Knob; 6] = [
    ("flash attention", || backend::set_attention_kernel(AttentionKernel::Flash).unwrap()),
    ("cuDNN's attention", || backend::set_attention_kernel(AttentionKernel::Cudnn).unwrap()),
    ("cuDNN's attention, without the crate's own kernels", || {
        backend::set_attention_kernel(AttentionKernel::Cudnn).unwrap();
        backend::allow_own_kernels(false);
    }),
    ("flash attention, TF32", || {
        backend::set_attention_kernel(AttentionKernel::Flash).unwrap();
        backend::allow_tf32(true).unwrap();
    }),
    ("flash attention, cuDNN benchmark mode", || {
        backend::set_attention_kernel(AttentionKernel::Flash).unwrap();
        tch::Cuda::cudnn_set_benchmark(true);
    }),
    ("cuDNN's attention, cuDNN benchmark mode", || {
        backend::set_attention_kernel(AttentionKernel::Cudnn).unwrap();
        tch::Cuda::cudnn_set_benchmark(true);
    }),
];

pub(crate) fn run(_peer: &mut Peer) {
    let shape = Shape::tiny(2, 512, Precision::BFloat16);
    let mut step = Step::new(&shape);
    let mut seconds = |set: fn()| {
        set();
        let [seconds] = in_turns([&mut |count| timed(|| (0..count).for_each(|_| step.run())) / count as f64]);
        backend::allow_tf32(false).unwrap();
        tch::Cuda::cudnn_set_benchmark(false);
        backend::allow_own_kernels(true);
        seconds
    };
    heading("Settings, one by one: ViT-T/2 on 32 pixels in bfloat16", &["setting", "time per step", "images/s"]);
    let mut show = |name: &str, set: fn()| {
        let seconds = seconds(set);
        row(&[name.to_owned(), milliseconds(seconds), format!("{:.0}", shape.batch as f64 / seconds)]);
    };
    match std::env::var("PYTORCH_CUDA_ALLOC_CONF") {
        Ok(allocator) => show(&format!("flash attention, {allocator}"), KNOBS[0].1),
        Err(_) => KNOBS.into_iter().for_each(|(name, set)| show(name, set)),
    }
}
