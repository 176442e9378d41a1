//! Finding the paths of nodes, which nothing but a search can tell.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cairn_types::Ino;

use super::cursor::Cursor;
use super::{Finding, Problem};
use crate::error::StoreError;
use crate::layout;
use crate::record::EntryRecord;
use crate::snapshot::Snapshot;

/// Beyond this depth a chain of parents is taken for a loop.
const DEPTH_MAX: usize = 4096;

/// Where a node was found.
type Names = HashMap<Ino, (Ino, Vec<u8>)>;

pub(super) fn with_paths(snapshot: &Snapshot, problems: Vec<Problem>) -> Result<Vec<Finding>, StoreError> {
    let mut names = Names::new();
    let mut wanted: HashSet<Ino> = problems.iter().filter_map(Problem::ino).collect();
    // One pass over all names finds the nodes themselves, the next their directories, and so on upwards.
    while !wanted.is_empty() && names.len() < super::PROBLEMS_MAX {
        let found = search(snapshot, &wanted)?;
        wanted = found.values().map(|(parent, _)| *parent).filter(|parent| !names.contains_key(parent)).collect();
        names.extend(found);
        wanted.retain(|ino| *ino != Ino::ROOT && !names.contains_key(ino));
    }
    let path = |problem: &Problem| problem.ino().and_then(|ino| path_of(&names, ino));
    Ok(problems.into_iter().map(|problem| Finding { path: path(&problem), problem }).collect())
}

fn search(snapshot: &Snapshot, wanted: &HashSet<Ino>) -> Result<Names, StoreError> {
    let mut names = Names::new();
    let mut entries = Cursor::new(snapshot, layout::space(layout::ENTRIES), |key, value| {
        let (parent, name) = layout::parse_entry(key)?;
        let ino = EntryRecord::decode(value)?.ino;
        Some((ino, parent, if wanted.contains(&ino) { name.to_vec() } else { Vec::new() }))
    });
    while let Some(row) = entries.take()? {
        if let Ok((ino, parent, name)) = row
            && wanted.contains(&ino)
        {
            names.entry(ino).or_insert((parent, name));
        }
    }
    Ok(names)
}

fn path_of(names: &Names, ino: Ino) -> Option<PathBuf> {
    let mut parts = Vec::new();
    let mut current = ino;
    while current != Ino::ROOT {
        let (parent, name) = names.get(&current)?;
        parts.push(OsStr::from_bytes(name));
        if parts.len() > DEPTH_MAX {
            return None;
        }
        current = *parent;
    }
    Some(std::iter::once(OsStr::new("/")).chain(parts.into_iter().rev()).collect())
}
