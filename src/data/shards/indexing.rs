//! Reads the indices of several shards at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::files::ShardFile;
use super::index::Index;
use crate::data::folder::problem;
use crate::data::image_folder::list::PassedOver;
use crate::error::Result;

/// Threads that read indices. They wait for the disk, and hardly compute.
const INDEXERS: usize = 16;

/// A shard's file, its images, and what was passed over in it.
pub(super) type Indexed = (ShardFile, Index, PassedOver);

/// Reads the indices of the archives at `paths`, in their order. No further one is begun after an error.
pub(super) fn read_indices(paths: &[PathBuf]) -> Result<Vec<Indexed>> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some((number, path)) = paths.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let result = read_index(path);
            if result.is_err() {
                next.store(paths.len(), Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(number, result);
        }
    };
    thread::scope(|scope| {
        // If the system allows no more threads, those that there are do all the work.
        let is_begun = |_: &usize| thread::Builder::new().spawn_scoped(scope, work).is_ok();
        let _begun = (1..INDEXERS.min(paths.len())).take_while(is_begun).count();
        work();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

pub(super) fn read_index(path: &Path) -> Result<Indexed> {
    let (shard, file, length) = ShardFile::open(path)?;
    let mut passed_over = PassedOver::new();
    let index = Index::read(&file, length, &mut passed_over).map_err(|advice| problem(path, advice))?;
    shard.check_unchanged(&file)?;
    Ok((shard, index, passed_over))
}
