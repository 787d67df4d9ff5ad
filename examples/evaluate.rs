//! Measures a pre-trained encoder: nearest neighbors, a linear probe, fine-tuning.

fn main() -> std::process::ExitCode {
    patchmix_examples::evaluate::main()
}
