//! Pre-trains a Vision Transformer with PatchMix on images in folders by class, such as ImageNet. The method is in
//! `examples/pretrain/mod.rs`, which `pretrain_cifar` shares.

#[path = "../pretrain/mod.rs"]
mod pretrain;

fn main() -> std::process::ExitCode {
    pretrain::main(pretrain::Program::Imagenet)
}
