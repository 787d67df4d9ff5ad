//! The two help texts: `-h` fits a screen, `--help` lists everything.

use crate::support::{command_in, error_text};

const PROGRAMS: [&str; 2] = ["pretrain_cifar", "pretrain_imagenet"];

/// What the program prints in a terminal of 100 columns.
#[track_caller]
fn help(program: &str, option: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = command_in(folder.path(), program, option).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_short_help_fits_a_screen() {
    for program in PROGRAMS {
        let text = help(program, "-h");
        assert!(text.lines().count() <= 40, "{program}: {} lines\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{program}:\n{text}");
        for words in ["--recipe", "--out", "--help"] {
            assert!(text.contains(words), "{program}: {words} is not in\n{text}");
        }
    }
}

#[test]
fn the_long_help_lists_everything_under_headings() {
    for program in PROGRAMS {
        let text = help(program, "--help");
        for heading in
            ["Model", "Images", "Views", "Mixing and losses", "Optimization", "Measuring and saving", "Machine"]
        {
            assert!(text.lines().any(|line| line == format!("{heading}:")), "{program}: {heading} is not in\n{text}");
        }
        for option in ["--width", "--limit", "--crop-min-scale", "--temperature", "--lr", "--keep", "--threads"] {
            assert!(text.contains(option), "{program}: {option} is not in\n{text}");
        }
    }
}
