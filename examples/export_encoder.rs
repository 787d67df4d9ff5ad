//! Writes the encoder of a run into one file that this crate and timm load.

fn main() -> std::process::ExitCode {
    patchmix_examples::export::main()
}
