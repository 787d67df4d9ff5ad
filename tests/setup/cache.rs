//! The folder that all checkouts of a user share: whose it is, and one set-up at a time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::{Child, Command, Stdio};

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
    machine.become_user(12345);
    let (succeeded, said) = machine.set_up(&[]);
    assert!(!succeeded && said.contains("belongs to another user; name one of yours"), "{said}");
}

/// The owner is one that neither runs the script nor is root; only root can give files away.
#[test]
fn a_link_to_a_libtorch_that_others_can_change_is_not_trusted() {
    let refused = |machine: &Machine, what: &str| {
        let (succeeded, said) = machine.set_up(&[]);
        assert!(!succeeded && said.contains("is not trusted: others own or can write to "), "{what}: {said}");
        assert!(said.lines().count() == 1 && said.contains("/checkout/libtorch"), "{what}: {said}");
    };
    for folder in ["torch-2.11.0-cpu", "torch-2.11.0-cpu/torch", "torch-2.11.0-cpu/torch/lib"] {
        let machine = Machine::with_both();
        assert!(machine.set_up(&[]).0);
        let folder = machine.at("cache").join(folder);
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            refused(&machine, &format!("{} with {mode:o}", folder.display()));
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(machine.set_up(&[]), (true, String::new()));
    }
    let machine = Machine::with_both();
    assert!(machine.set_up(&[]).0);
    let _ = chown(machine.at("cache/torch-2.11.0-cpu/torch"), Some(12345), None);
    machine.become_user(54321);
    refused(&machine, "another user");
}

/// With the umask of a system where every user has a group of their own.
#[test]
fn what_is_installed_is_trusted_whatever_the_umask() {
    let machine = Machine::new("0.24.0");
    let startup = machine.at("startup"); // which bash reads first
    fs::write(&startup, "umask 002\nunset BASH_ENV\n").unwrap();
    for _ in 0..2 {
        let (succeeded, said) = machine.set_up(&[("BASH_ENV", startup.to_str().unwrap())]);
        assert!(succeeded, "{said}");
    }
}

/// A process that has the lock of the cache.
fn holder(machine: &Machine) -> Child {
    let lock = "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print(flush=True); \
                sys.stdin.read()";
    let mut child = Command::new("python3")
        .args(["-c", lock])
        .arg(machine.at("cache/lock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    child
}

#[test]
fn a_set_up_waits_for_another_and_goes_on_when_that_was_killed() {
    let machine = Machine::new("0.24.0");
    let mut other = holder(&machine);
    let mut child = machine.command().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert_eq!(line, "libtorch: waiting for another set-up to finish");
    assert_eq!(machine.calls("python3"), "", "nothing is installed meanwhile");
    other.kill().unwrap();
    other.wait().unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
}

/// All wait for a set-up that is killed, and go on at the same time.
#[test]
fn of_many_set_ups_one_installs() {
    let machine = Machine::new("0.24.0");
    let mut other = holder(&machine);
    let mut children: Vec<Child> = (0..6).map(|_| machine.command().stderr(Stdio::piped()).spawn().unwrap()).collect();
    for child in &mut children {
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert!(line.contains("waiting for another set-up to finish"), "{line}");
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    }
    other.kill().unwrap();
    other.wait().unwrap();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(machine.calls("python3").matches("pip install").count(), 1);
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
}
