//! Files that are no checkpoint of a Vision Transformer, and options that do not fit.

use super::{CHECKPOINTS, import};

/// Checkpoint, options, and words of the refusal.
const CASES: [(&str, &str, &str); 71] = [
    // Weights that are no plain Vision Transformer.
    ("misshapen.pth", "", "norm.bias has shape (49,)"),
    ("scaled.pth", "", "blocks.0.ls1.gamma has no place"),
    ("missing.pth", "", "has no blocks.1.mlp.fc1.weight"),
    ("block.pth", "", "has blocks.99999999999 and no blocks.2"),
    ("gap.pth", "", "and no blocks.2"),
    ("beside.pth", "", "blocks.0.optimizer.weight has no place"),
    ("number.pth", "", "has the key [0] among its weights, which names no weight"),
    ("numbers.pth", "", "it begins with [0]"),
    ("digits.pth", "", "has the key [a long int] among its weights"),
    ("pairs.pth", "", "several encoders: [a long tuple], [a long bytes]"),
    ("long-name.pth", "", "[a long str]"),
    ("steering.pth", "", r"\x1b[2J\u202e\nerror: all is well has no place"),
    ("two.pth", "", "several encoders: encoder, backbone; choose one, for example --prefix encoder"),
    ("two.pth", "--prefix model", "no encoder at --prefix model, but at: encoder, backbone"),
    ("above.pth", "", "several encoders: '', backbone; choose one, for example --prefix ''"),
    ("same.pth", "", "two tensors of the name encoder."),
    ("endless.pth", "", "more than 16 levels"),
    ("wide.pth", "", "or 200000 entries"),
    ("codes.pth", "", "is torch.int8"),
    ("nan.pth", "", "norm.bias has NaN"),
    ("large.pth", "", "norm.bias has NaN or infinite"),
    ("infinite.pth", "", "pos_embed has NaN or infinite"),
    ("complex.pth", "", "is torch.complex64"),
    ("float8.pth", "", "is torch.float8_e4m3fn"),
    ("no-elements.pth", "", "cls_token has shape (0, 1, 48)"),
    ("no-width.pth", "", "cls_token has shape (1, 1, 0)"),
    ("repeated.pth", "", "bytes, but the file has "),
    ("oblong.pth", "", "16 positions, a square, and none for the class token"),
    ("seventeen.pth", "", "17 positions besides the class token, not a square; give --grid"),
    ("resnet.pth", "", "no Vision Transformer with a class token; it begins with state_dict.module.conv1.weight"),
    ("other.safetensors", "", "it begins with conv1.weight"),
    ("optimizer.pth", "", "state of an optimizer"),
    ("list.pth", "", "has no weights"),
    ("tensor.pth", "", "has no weights"),
    // Code.
    ("foreign.pth", "", "__main__.Foreign, which is code"),
    ("program.pth", "", "system, which is code"),
    ("old-program.pth", "", "system, which is code"),
    ("program.pkl", "", "is no checkpoint"),
    ("script.pt", "", "TorchScript"),
    // Files cut off, and files of other kinds.
    ("half.pth", "", "perhaps cut off; download it again"),
    ("half-old.pth", "", "is damaged"),
    ("half.safetensors", "", "is damaged"),
    ("empty.pth", "", "is empty"),
    ("text.pth", "", "is no checkpoint"),
    ("page.pth", "", "is a web page"),
    ("lfs.pth", "", "git lfs pull"),
    ("image.png", "", "is a PNG image"),
    ("image.jpg", "", "is a JPEG image"),
    ("array.npy", "", "is an array of NumPy"),
    ("keras.h5", "", "is an HDF5 file"),
    ("packed.pth", "", "unpack it"),
    ("bomb.pth", "", "bytes and unpacks to "),
    ("other.zip", "", "torch.save did not write"),
    ("folder.pth", "", "is a folder"),
    ("pipe.pth", "", "is no regular file"),
    ("none.pth", "", "no such file"),
    // Options.
    ("bare.pth", "--heads 5", "--heads 5: must divide the width 48"),
    ("bare.pth", "--std 0 0 0", "--std 0.0 0.0 0.0: must be finite and positive"),
    ("bare.pth", "--std 1 inf 1", "--std 1.0 inf 1.0: must be finite and positive"),
    ("bare.pth", "--std 1 1 nan", "--std 1.0 1.0 nan: must be finite and positive"),
    ("bare.pth", "--std 1 1 -1", "--std 1.0 1.0 -1.0: must be finite and positive"),
    ("bare.pth", "--std 1 1 1e-60", "--std 1.0 1.0 1e-60: must be finite and positive"),
    ("bare.pth", "--mean nan 0 0", "--mean nan 0.0 0.0: must be finite"),
    ("bare.pth", "--mean 0 0 1e60", "--mean 0.0 0.0 1e+60: must be finite"),
    ("bare.pth", "--encoder momentum", "no momentum encoder; omit --encoder momentum"),
    ("single/0-teacher.pth", "--encoder trained", "no trained encoder; omit --encoder trained"),
    ("bare.pth", "--image-size 18", "--image-size 18: must be a multiple of the patch size 4"),
    ("bare.pth", "--image-size 400000000", "at most 4096"),
    ("bare.pth", "--grid 3 5", "has positions for 16 patches, not for --grid 3 5"),
    ("bare.pth", "--grid 2 8", "give their --image-size"),
    ("bare.pth", "--grid 16 -1", "--grid 16 -1"),
];

#[test]
fn anything_else_is_refused_in_one_line_that_says_what_it_is() {
    let Some(checkpoints) = &*CHECKPOINTS else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = CASES.map(|(_, options, _)| format!("--heads 3 {options}")); // of two --heads the last counts
    let mut cases: Vec<_> = CASES.iter().zip(&options).map(|((name, ..), options)| (*name, options.as_str())).collect();
    cases.push(("bare.pth", "--arch vit-small"));
    let words = CASES.iter().map(|(_, _, words)| *words);
    let words = words.chain(["width 384 and 12 blocks, the file width 48 and 2 blocks"]);
    for ((case, words), (imported, text)) in cases.iter().zip(words).zip(import(folder.path(), &cases)) {
        assert!(!imported && text.contains(words), "{case:?}: {text}");
        assert!(text.starts_with("error: ") && text.lines().count() == 1, "{case:?}: {text}");
    }
    let (_, usage) = import(folder.path(), &[("bare.pth", "")]).remove(0);
    assert!(usage.contains("--heads --arch is required"), "{usage}");
    let (imported, text) = import(&folder.path().join("none"), &[("bare.pth", "--heads 3")]).remove(0);
    assert!(!imported && text.contains("its folder does not exist"), "{text}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "no file is written");
    assert!(!checkpoints.join("executed").exists(), "nothing is executed");
}
