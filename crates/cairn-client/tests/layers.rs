//! The modules of this crate depend on one another in one direction: what sends buffered content knows neither recalls nor
//! operations, recalls know no operations, and what is known of a node knows nobody who asks for it. Names of other modules in the
//! sources are held against a table of what each may know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What each module may know of this crate, from the lowest up. A new arrow belongs here only if it points down.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("extents", &[]),
    ("held_locks", &[]),
    ("overlay", &[]),
    ("private", &[]),
    ("stats", &[]),
    ("timer", &[]),
    ("tls", &[]),
    ("api", &["error"]),
    ("address", &[]),
    ("connect", &["address", "error", "tls"]),
    ("session", &["address", "connect", "error"]),
    ("admin", &["address", "connect", "error"]),
    ("cache", &["error", "private", "session", "stats"]),
    // Policies alone: which names and files will be asked for next.
    ("readahead", &[]),
    ("walk", &[]),
    ("node", &["extents", "overlay", "walk"]),
    ("node_cache", &["api", "node", "session"]),
    ("reservation", &["node"]),
    ("writeback", &["error", "node", "node_cache", "overlay", "private", "reservation", "session", "stats", "timer"]),
    ("recall", &["api", "held_locks", "node", "node_cache", "reservation", "session", "stats", "timer", "writeback"]),
    (
        "volume",
        &[
            "api",
            "cache",
            "error",
            "extents",
            "held_locks",
            "node",
            "node_cache",
            "overlay",
            "readahead",
            "recall",
            "reservation",
            "session",
            "stats",
            "timer",
            "walk",
            "writeback",
        ],
    ),
    ("benchmarks", &["cache", "extents", "overlay"]),
    // Names them all.
    ("lib", &[]),
];

/// Sources of each module at the top of the crate.
fn modules(folder: &Path) -> BTreeMap<String, String> {
    fn read(path: &Path, into: &mut String) {
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a folder of sources") {
                read(&entry.expect("an entry").path(), into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).expect("a source file"));
        }
    }
    let mut modules = BTreeMap::<String, String>::new();
    for entry in fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        read(&path, modules.entry(name).or_default());
    }
    modules
}

/// Modules that code (not comments) names by `crate::`.
fn names_in(source: &str) -> BTreeSet<&str> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = code.flat_map(|line| line.split("crate::").skip(1));
    let names = after.map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next());
    names.flatten().filter(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase())).collect()
}

#[test]
fn arrows_point_down() {
    let table: BTreeMap<&str, &[&str]> = MAY_KNOW.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, source) in &modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let Some(allowed) = table.get(module.as_str()) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        let known = names_in(source).into_iter().filter(|name| name != module && !allowed.contains(name));
        wrong.extend(known.map(|name| format!("{module} knows {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_has_no_circle() {
    let mut below = BTreeSet::new();
    for (module, may_know) in MAY_KNOW {
        let above: Vec<_> = may_know.iter().filter(|name| !below.contains(*name)).collect();
        assert!(above.is_empty(), "{module} may know {above:?}, which come after it");
        below.insert(module);
    }
}
