//! Pre-trains a Vision Transformer with PatchMix on images in folders by class, such as ImageNet. The loop is in
//! `src/pretrain/mod.rs`.

fn main() -> std::process::ExitCode {
    patchmix_examples::pretrain::main(patchmix_examples::pretrain::Program::Imagenet)
}
