//! Pre-trains a Vision Transformer with PatchMix on CIFAR-10, CIFAR-100 or built-in images. The loop is in
//! `src/pretrain/mod.rs`.

fn main() -> std::process::ExitCode {
    patchmix_examples::pretrain::main(patchmix_examples::pretrain::Program::Cifar)
}
