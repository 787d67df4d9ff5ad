//! The folder that all checkouts of a user share: whose it is, and one set-up at a time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use super::machine::Machine;

/// Runs the script where only `variables` name a place for the cache.
fn set_up(machine: &Machine, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = machine.command();
    for name in ["PATCHMIX_CACHE", "XDG_CACHE_HOME", "HOME"] {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_cache_is_the_users_and_never_a_folder_for_all() {
    let machine = Machine::new("0.24.0");
    let (succeeded, said) = set_up(&machine, &[]);
    assert!(!succeeded && said.contains("HOME is not set; set it, or name a folder of yours"), "{said}");
    let home = machine.at("home").display().to_string();
    for (variables, cache) in [
        (vec![("HOME", home.as_str())], "home/.cache/patchmix"),
        (vec![("HOME", "/nonexistent"), ("XDG_CACHE_HOME", home.as_str())], "home/patchmix"),
    ] {
        let (succeeded, said) = set_up(&machine, &variables);
        assert!(succeeded, "{said}");
        let cache = machine.at(cache);
        assert!(fs::read_link(machine.at("checkout/libtorch")).unwrap().starts_with(&cache), "{said}");
        assert_eq!(cache.metadata().unwrap().mode() & 0o777, 0o700);
        fs::remove_file(machine.at("checkout/libtorch")).unwrap();
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_not_trusted() {
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        let machine = Machine::with_both();
        fs::set_permissions(machine.at("cache"), fs::Permissions::from_mode(mode)).unwrap();
        let (succeeded, said) = machine.set_up(&[]);
        assert!(!succeeded && said.contains("others can write to the cache folder"), "{mode:o}: {said}");
        assert!(!machine.at("checkout/libtorch").exists());
    }
    let machine = Machine::with_both();
    symlink(machine.at("cache"), machine.at("link")).unwrap(); // the user's own
    let link = machine.at("link").display().to_string();
    assert!(machine.set_up(&[("PATCHMIX_CACHE", &link)]).0);
}

/// The script takes itself for another user, since a folder of another user needs root to make.
#[test]
fn a_cache_of_another_user_is_not_trusted() {
    let machine = Machine::with_both();
    let id = machine.at("bin/id");
    fs::write(&id, "#!/bin/sh\necho 12345\n").unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o755)).unwrap();
    let (succeeded, said) = machine.set_up(&[]);
    assert!(!succeeded && said.contains("belongs to another user; name one of yours"), "{said}");
}

/// The script on a machine without `flock`, such as macOS.
fn without_flock(machine: &Machine) -> Command {
    let bin = machine.at("bin");
    let path = std::env::var_os("PATH").unwrap();
    for entry in std::env::split_paths(&path).filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
        if entry.file_name() != "flock" {
            let _ = symlink(entry.path(), bin.join(entry.file_name())); // the first of a name counts
        }
    }
    let mut command = machine.command();
    command.env("PATH", &bin);
    command
}

#[test]
fn without_flock_the_lock_of_a_dead_set_up_is_taken_over() {
    let machine = Machine::new("0.24.0");
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    symlink(dead.id().to_string(), machine.at("cache/lock.held")).unwrap();
    let output = without_flock(&machine).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("waiting"), "{said}");
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
    assert!(machine.at("cache/lock.held").symlink_metadata().is_err(), "released");
}

#[test]
fn without_flock_a_set_up_waits_for_another() {
    let machine = Machine::new("0.24.0");
    let held = machine.at("cache/lock.held");
    symlink(std::process::id().to_string(), &held).unwrap(); // alive: this test
    let mut child = without_flock(&machine).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("waiting for another set-up to finish, process"), "{line}");
    assert_eq!(machine.calls("python3"), "", "nothing is installed meanwhile");
    fs::remove_file(&held).unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
}
