//! Files that are no checkpoint of a Vision Transformer, and options that do not fit.

use super::{CHECKPOINTS, import};

/// Checkpoint, options, and words of the refusal.
const CASES: [(&str, &str, &str); 46] = [
    // Weights that are no plain Vision Transformer.
    ("misshapen.pth", "", "norm.bias has shape (49,)"),
    ("scaled.pth", "", "blocks.0.ls1.gamma has no place"),
    ("missing.pth", "", "has no blocks.1.mlp.fc1.weight"),
    ("block.pth", "", "has no blocks.2."),
    ("beside.pth", "", "blocks.0.optimizer.weight has no place"),
    ("number.pth", "", "0 has no place"),
    ("two.pth", "", "several encoders: encoder, backbone"),
    ("codes.pth", "", "is torch.int8"),
    ("nan.pth", "", "norm.bias has NaN"),
    ("large.pth", "", "norm.bias has NaN or infinite"),
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
    ("packed.pth", "", "unpack it"),
    ("other.zip", "", "torch.save did not write"),
    ("folder.pth", "", "is a folder"),
    ("none.pth", "", "no such file"),
    // Options.
    ("bare.pth", "--heads 5", "--heads 5: must divide the width 48"),
    ("bare.pth", "--std 0 0 0", "--std 0.0 0.0 0.0: must be finite and positive"),
    ("bare.pth", "--std 1 inf 1", "--std 1.0 inf 1.0: must be finite and positive"),
    ("bare.pth", "--mean nan 0 0", "--mean nan 0.0 0.0: must be finite"),
    ("bare.pth", "--encoder momentum", "no momentum encoder; omit --encoder momentum"),
    ("single/0-teacher.pth", "--encoder trained", "no trained encoder; omit --encoder trained"),
    ("bare.pth", "--image-size 18", "--image-size 18: must be a multiple of the patch size 4"),
    ("bare.pth", "--image-size 400000000", "at most 4096"),
    ("bare.pth", "--grid 3 5", "--grid 3 5"),
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

/// The part that is written first is a link to a disk without space.
#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_no_file_is_left() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("0.safetensors.part")).unwrap();
    let (imported, text) = import(folder.path(), &[("bare.pth", "--heads 3")]).remove(0);
    assert!(!imported && text.contains("cannot be written (No space left on device)"), "{text}");
    assert!(text.starts_with("error: ") && text.lines().count() == 1, "{text}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
