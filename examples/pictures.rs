//! Draws the method and what an encoder has learned; `--help` lists the pictures.

fn main() -> std::process::ExitCode {
    patchmix_examples::pictures::main()
}
