//! One process per folder: a lock that ends with its process, however that ends.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::gethostname;
use patchmix::files::{printable, read_small};

use crate::Result;
use crate::terminal::{log, shown};

/// The locked file. It says which process has the lock, and stays behind empty: were it removed, one process could lock
/// the removed file and another one the next of that name.
pub(super) const LOCK: &str = "lock";

/// A folder that only this process writes to.
#[derive(Debug)]
pub(crate) struct Lock(Option<Flock<File>>);

impl Lock {
    /// Locks a folder; an error if another process has it. Where the file system has no locks, says so and goes on.
    pub(super) fn take(folder: &Path) -> Result<Lock> {
        let path = folder.join(LOCK);
        let named = |error: &dyn Display| format!("{}: {error}", shown(&path));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // A link of this name is not ours.
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path).map_err(|error| named(&error))?;
        if !file.metadata().map_err(|error| named(&error))?.is_file() {
            return Err(named(&"is not a file").into());
        }
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let host = gethostname().unwrap_or_default();
                let holder = format!("process {} on {}\n", process::id(), host.display());
                // On a full disk it stays unsaid who has the lock.
                let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
                Ok(Lock(Some(file)))
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(held(folder).into()),
            Err((_, error)) => {
                log!("note: {}: no lock ({error}); start no second process in this folder", shown(&path));
                Ok(Lock(None))
            }
        }
    }

    /// Whether other processes are kept out.
    pub(super) fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            let _ = file.set_len(0); // it says who has the lock, which matters only while somebody has it
        }
    }
}

/// What is said of a folder that another process has.
fn held(folder: &Path) -> String {
    let holder = read_small(&folder.join(LOCK), 1 << 10).unwrap_or_default();
    let holder = String::from_utf8_lossy(&holder).trim().to_owned();
    let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
    let (folder, holder) = (shown(folder), printable(holder));
    format!("{folder}: {holder} is training there; let it end, or stop it first, or name another folder with --out")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_its_holder_named() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        assert!(lock.is_held());
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        let host = gethostname().unwrap();
        let holder = format!("process {} on {} is training there", process::id(), host.display());
        assert!(error.contains(&holder) && error.contains("--out"), "{error}");
        drop(lock);
        assert_eq!(fs::read(folder.path().join(LOCK)).unwrap(), b"");
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_lock_writes_into_no_file_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "text").unwrap();
        symlink(&theirs, folder.path().join(LOCK)).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains("lock: "), "{error}");
        assert_eq!(fs::read(&theirs).unwrap(), b"text");
    }
}
