//! The folders that runs and fine-tunings begin in, each in its own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use patchmix::files::is_partial;

use super::Lock;
use super::lock::LOCK;
use crate::Result;
use crate::terminal::shown;

/// What begins in a folder.
#[derive(Clone, Copy)]
pub(crate) struct Beginning {
    /// The file that shows that it has begun.
    pub(crate) marker: &'static str,
    /// In words, with an article.
    pub(crate) what: &'static str,
}

/// An error if something that begins in the folder would overwrite what is there. The leftovers of a process that died
/// as it began there do not count.
pub(crate) fn check_new_folder(path: &Path, Beginning { marker, what }: Beginning) -> Result<()> {
    let name = shown(path);
    if path.join(marker).exists() {
        return Err(format!("{name} holds {what} already; add --resume to resume it, or name another folder").into());
    }
    let is_leftover = |name: &str| name == LOCK || is_partial(name, marker);
    if names(path).is_ok_and(|names| !names.iter().all(|name| is_leftover(name))) {
        return Err(format!("{name} is not empty; name another folder with --out").into());
    }
    Ok(())
}

/// The folder to begin or to resume in, locked: `out`, or `runs/NAME` with the first number behind it that is free.
/// Makes it unless it is there. An error if another process is at work there or something else would be overwritten.
pub(crate) fn claim(out: Option<&Path>, resumes: bool, name: &str, beginning: Beginning) -> Result<(PathBuf, Lock)> {
    let path = match out {
        Some(path) => path.to_owned(),
        None => make_free_folder(Path::new("runs"), name)?,
    };
    if !resumes {
        check_new_folder(&path, beginning)?; // before anything is made there
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", shown(&path)))?;
    }
    let lock = Lock::take(&path)?;
    if !resumes {
        check_new_folder(&path, beginning)?; // another process may have begun there a moment ago
    }
    Ok((path, lock))
}

/// Makes `parent/NAME`, or the one with the first number behind it that is free. Two processes never get the same.
fn make_free_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", shown(parent)))?;
    let mut numbers = 1..;
    loop {
        let path = match numbers.next() {
            Some(1) | None => parent.join(name),
            Some(number) => parent.join(format!("{name}-{number}")),
        };
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("{}: {error}", shown(&path)).into()),
            Ok(()) => return Ok(path),
        }
    }
}

/// Removes what processes have left in a folder that were killed while they wrote one of their files, for which
/// `is_own` holds. Only under a lock: a process that lives is still at it.
pub(crate) fn remove_partials(folder: &Path, lock: &Lock, is_own: impl Fn(&str) -> bool) {
    if !lock.is_held() {
        return;
    }
    let leftovers = names(folder).unwrap_or_default().into_iter().filter(|name| {
        let whole = name.strip_suffix(".partial").and_then(|rest| Some(rest.rsplit_once('.')?.0));
        whole.is_some_and(|whole| is_partial(name, whole) && is_own(whole))
    });
    for name in leftovers {
        let _ = fs::remove_file(folder.join(name)); // it is only in the way
    }
}

/// The names in a folder. One that is not UTF-8, which no run gives, comes as what it resembles.
pub(super) fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Beginning = Beginning { marker: "config.json", what: "a run" };

    #[test]
    fn what_a_process_leaves_that_died_as_it_began_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        for leftover in [LOCK, "config.json.12-0.partial"] {
            fs::write(folder.path().join(leftover), "").unwrap();
        }
        check_new_folder(folder.path(), RUN).unwrap();
        for (name, problem) in [("notes.txt", "is not empty"), ("config.json", "holds a run already")] {
            fs::write(folder.path().join(name), "").unwrap();
            let error = check_new_folder(folder.path(), RUN).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn folders_without_a_name_of_their_own_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("runs");
        let made = [1, 2, 3].map(|_| make_free_folder(&parent, "cifar10").unwrap());
        assert_eq!(made, ["cifar10", "cifar10-2", "cifar10-3"].map(|name| parent.join(name)));
    }

    #[test]
    fn only_ones_own_leftovers_are_removed_and_only_under_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (own, others) = ("a.json.12-0.partial", ["a.json", "a.json.partial", "b.json.12-0.partial"]);
        others.iter().chain([&own]).for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        let lock = Lock::take(folder.path()).unwrap();
        remove_partials(folder.path(), &lock, |name| name == "a.json");
        let mut left = names(folder.path()).unwrap();
        left.sort();
        assert_eq!(left, [&others[..], &[LOCK]].concat());
    }
}
