//! PatchMix for [tch](https://docs.rs/tch): training images made of the patches of several images, exact soft targets
//! for them, and the contrastive losses that learn from them, as in *Inter-Instance Similarity Modeling for Contrastive
//! Learning* (Shen et al., [arXiv 2306.12243](https://arxiv.org/abs/2306.12243)). The primitives work on tch
//! tensors of any model; an encoder, data loading, training and evaluation are included.
//!
//! # In your own model
//!
//! ```no_run
//! use patchmix::{MixPlan, loss};
//! use tch::Tensor;
//!
//! /// The PatchMix loss of two views `[B, 3, 32, 32]` of the same images.
//! fn patchmix_loss(
//!     query: impl Fn(&Tensor) -> Tensor, // encoder, projector, predictor: [B, 3, H, W] -> [B, D]
//!     key: impl Fn(&Tensor) -> Tensor,   // encoder, projector, without gradient
//!     view_1: &Tensor,
//!     view_2: &Tensor,
//! ) -> Result<Tensor, patchmix::Error> {
//!     let plan = MixPlan::for_images(view_1, 2, 2, 1)?; // patch size, images per mix, stride
//!     let (mixed_1, mixed_2) = (plan.mix_images(view_1, 2)?, plan.mix_images(view_2, 2)?);
//!     let targets = plan.targets(view_1.size()[0])?;
//!     let mixed_query = query(&mixed_2);
//!     let origin_to_origin = loss::origin_to_origin(&query(view_1), &key(view_2), 0.2)?;
//!     let mix_to_origin = loss::mix_to_origin(&mixed_query, &key(view_1), &targets.mix_to_origin, 0.2)?;
//!     let mix_to_mix = loss::mix_to_mix(&mixed_query, &key(&mixed_1), &targets.mix_to_mix, 0.2)?;
//!     Ok(origin_to_origin + (mix_to_origin + mix_to_mix) / 2.0)
//! }
//! ```
//!
//! For patch sequences, [`patch_mix`] does it in one call. Gradient flows through the mix, and the losses take its
//! dense targets as well:
//!
//! ```no_run
//! # let tokens = tch::Tensor::rand([8, 64, 192], tch::kind::FLOAT_CPU);
//! let (mixed, mix_to_origin, mix_to_mix) = patchmix::patch_mix(&tokens, 2, 1)?; // tokens: [B, T, D]
//! # Ok::<(), patchmix::Error>(())
//! ```
//!
//! # Modules
//!
//! - [`MixPlan`], [`patch_mix`], [`SoftTarget`] and [`MixTargets`], at the root, are the mix and its targets.
//! - [`loss`] has the losses on queries and keys.
//! - [`contrast`] has projector, predictor, momentum network, and the losses of a whole batch.
//! - [`vit`] is the Vision Transformer, with timm's parameter names.
//! - [`augment`] makes views of whole batches; [`data`] reads CIFAR, STL-10, image folders and archives, and draws
//!   built-in images.
//! - [`optim`] has AdamW and the schedules; [`finetune`] a classifier on the encoder; [`eval`] kNN, the linear probe
//!   and more for frozen features.
//! - [`checkpoint`] writes atomic checkpoint files; [`random`] derives seeds that make resumed runs exact.
//! - [`backend`] selects devices, precisions and kernels of libtorch.
//! - `distributed` (feature) joins process groups over Gloo and NCCL; `profile` (feature) times kernels.
//!
//! # libtorch and versions
//!
//! The tensors in the signatures are tch's. This version takes the tch that your `Cargo.toml` asks for: 0.24, which
//! needs libtorch 2.11.0, or 0.26, which needs libtorch 2.13.0 and is what cargo takes if you ask for none. libtorch is
//! found as tch finds it: `LIBTORCH` names its folder, `LIBTORCH_USE_PYTORCH=1` takes the one of `python3`, and the
//! feature `download-libtorch` fetches it. On Linux, a program that uses this crate keeps libtorch's CUDA half when it
//! is linked.
//!
//! To find libtorch when it runs, your package needs this `build.rs`; otherwise the program ends in `error while
//! loading shared libraries: libtorch_cpu.so`:
//!
//! ```no_run
//! fn main() {
//!     let libtorch = std::env::var("DEP_PATCHMIX_LIBTORCH_LIB").expect("patchmix is a direct dependency");
//!     println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}");
//! }
//! ```
//!
//! The programs that pre-train and evaluate encoders are in the crate's repository; its README shows how to run them.
#![deny(unsafe_code)] // except in src/native and src/distributed/native.rs
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::needless_doctest_main)] // of a build.rs, which is copied whole

/// Compiles the README's code as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
mod mix;
mod native;
mod numbers;
mod ranks;
mod target;

pub mod augment;
pub mod backend;
pub mod checkpoint;
pub mod contrast;
pub mod data;
#[cfg(feature = "distributed")]
pub mod distributed;
pub mod eval;
pub mod files;
pub mod finetune;
pub mod loss;
pub mod optim;
#[cfg(feature = "profile")]
pub mod profile;
pub mod random;
pub mod vit;

pub use error::{Error, Result};
pub use mix::{MixPlan, patch_mix};
pub use ranks::Ranks;
pub use target::{MixTargets, SoftTarget};
/// The version of tch whose tensors the signatures take.
pub use tch;
