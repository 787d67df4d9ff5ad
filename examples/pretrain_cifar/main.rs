//! Pre-trains a Vision Transformer with PatchMix on CIFAR-10, CIFAR-100 or built-in images. The method is in
//! `examples/pretrain/mod.rs`, which `pretrain_imagenet` shares.

#[path = "../pretrain/mod.rs"]
mod pretrain;

fn main() -> std::process::ExitCode {
    pretrain::main(pretrain::Program::Cifar)
}
