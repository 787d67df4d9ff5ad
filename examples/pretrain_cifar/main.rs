use patchmix as _;
fn main() {
    println!("{}", tch::Cuda::is_available());
}
