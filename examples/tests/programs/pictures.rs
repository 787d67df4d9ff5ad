//! `pictures`: a picture of each kind from a tiny run, and its answers to wrong input.

use std::fs;
use std::process::Output;

use crate::support::{TINY_RUN, closed_pipe, command_in, error_text};

fn pictures(options: &str) -> Output {
    command_in(&TINY_RUN, "pictures", options).output().unwrap()
}

/// Draws a picture; returns its width and height and the standard output.
#[track_caller]
fn drawn(options: &str, name: &str) -> ((u32, u32), String) {
    let output = pictures(&format!("{options} --out {name}"));
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    (image::open(TINY_RUN.join(name)).unwrap().into_rgb8().dimensions(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn similar_images_have_a_row_for_each_test_image() {
    let ((width, height), printed) = drawn("similar --checkpoint run --images 3 --neighbors 7", "three.png");
    assert!(printed.contains("epoch 1") && printed.contains("of 21 neighbors"), "{printed}");
    let (more, _) = drawn("similar --checkpoint run --images 4 --neighbors 9", "four.png");
    assert!(more.0 > width && more.1 > height);
    // There are no more neighbors than training images.
    let (_, printed) = drawn("similar --checkpoint run --images 1 --neighbors 50 --limit 40", "all.png");
    assert!(printed.contains("of 40 neighbors"), "{printed}");
    assert!(printed.contains("--neighbors 50: there are only 40 training images"), "{printed}");
}

#[test]
fn a_map_shows_the_images_that_are_asked_for() {
    let (_, printed) = drawn("map --checkpoint run --images 40", "map.png");
    assert!(printed.contains("40 test images") && printed.contains("% of the variance"), "{printed}");
    let (_, printed) =
        drawn("map --checkpoint run/checkpoints/best.safetensors --images 0 --pooling patch-mean", "whole.png");
    assert!(printed.contains("1000 test images"), "{printed}");
}

#[test]
fn attention_has_a_column_for_each_head_and_a_row_for_each_image() {
    let ((_, one), _) = drawn("attention --checkpoint run --images 1", "one.png");
    let ((_, five), printed) = drawn("attention --checkpoint run --images 5 --block 0", "five.png");
    assert!(five > one && printed.contains("to itself"), "{printed}");
}

#[test]
fn curves_show_one_run_or_several() {
    let (one, printed) = drawn("curves run", "curves.png");
    assert!(printed.contains("epochs 1"), "{printed}");
    let original = image::open(TINY_RUN.join("run/curves.png")).unwrap().into_rgb8();
    assert_eq!(image::open(TINY_RUN.join("curves.png")).unwrap().into_rgb8(), original);
    let (several, printed) = drawn("curves run run run", "several.png");
    assert!(several.1 > one.1 && printed.contains("epochs 1, 1, 1"), "{printed}");
}

#[test]
fn the_method_is_explained_by_an_animation_and_its_key_frames() {
    let output = pictures("explain --groups 3 --patches-per-side 2 --out how.png");
    assert!(output.status.success(), "{}", error_text(&output));
    let read = |name: &str| {
        let file = std::io::BufReader::new(fs::File::open(TINY_RUN.join(name)).unwrap());
        png::Decoder::new(file).read_info().unwrap()
    };
    let control = read("how.png").info().animation_control.expect("an animation");
    assert!(control.num_frames > 40 && control.num_plays == 0, "{control:?}");
    assert!(read("how-steps.png").info().animation_control.is_none());
}

/// Also where nobody reads what is printed.
#[test]
fn pictures_and_encoders_are_written_before_anything_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for (program, options, files) in [
        ("pictures", format!("curves run --out {}", at("curves.png")), vec!["curves.png"]),
        ("pictures", format!("similar --checkpoint run --images 1 --out {}", at("one.png")), vec!["one.png"]),
        (
            "export_encoder",
            format!("--checkpoint run --out {} --reference {}", at("a.safetensors"), at("b.safetensors")),
            vec!["a.safetensors", "b.safetensors"],
        ),
    ] {
        let mut command = command_in(&TINY_RUN, program, &options);
        let status = command.stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{program} {options}");
        assert!(files.iter().all(|name| folder.path().join(name).is_file()), "{program} {options}");
    }
}

#[test]
fn wrong_input_gets_one_line_that_says_what_to_do() {
    fs::create_dir_all(TINY_RUN.join("empty")).unwrap();
    fs::create_dir_all(TINY_RUN.join("older")).unwrap();
    fs::write(TINY_RUN.join("older/metrics.csv"), "epoch,step,lr\n1,4,0.001\n").unwrap();
    let cases = [
        ("similar --checkpoint nothing", "nothing"),
        ("similar --checkpoint empty", "name the folder of a run"),
        ("similar --checkpoint run --images 0", "1000 images"),
        ("similar --checkpoint run --neighbors 0", "--neighbors"),
        ("similar --checkpoint run --dataset cifar10 --data empty", "--data names the folder"),
        ("map --checkpoint run --images -1", "--images"),
        ("map --checkpoint run --images 1", "--images 1"),
        ("map --checkpoint run --device cuda:77", "--device"),
        ("attention --checkpoint run --block 2", "--block 2"),
        ("attention --checkpoint run --images 2000", "1000 images"),
        ("attention --checkpoint run --encoder momentum", "had none"),
        ("curves empty", "name the folder of a run"),
        ("curves older", "if another version wrote it"),
        ("explain --groups 5", "5 distinct images"),
        ("explain --patches-per-side 5", "--patches-per-side 5"),
        ("explain --dataset cifar100 --data empty", "--data names the folder"),
    ];
    for (options, expected) in cases {
        let output = pictures(options);
        let text = error_text(&output);
        assert!(!output.status.success() && text.contains(expected), "{options}: {text}");
        // Errors of the command line itself come from clap and have several lines.
        let lines = text.trim_end().lines().count();
        assert!(lines == 1 || text.contains("--help"), "{options}: {text}");
    }
    let output = pictures("curves run --out nowhere/curves.png");
    assert!(!output.status.success() && error_text(&output).contains("nowhere"));
}
