//! The modules of this crate depend on one another in one direction: what sends buffered content knows neither recalls nor
//! operations, recalls know no operations, and what is known of a node knows nobody who asks for it. Names of other modules in the
//! sources are held against a table of what each may know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What each module may know of this crate, from the lowest up. A new arrow belongs here only if it points down. A module
/// inside another has a line of its own where what is below the outer one may know it.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("error", &[]),
    // Every module that has a lock names its rank.
    ("lock_order", &[]),
    ("extents", &[]),
    ("held_locks", &["lock_order"]),
    ("overlay", &[]),
    ("private", &[]),
    ("stats", &[]),
    ("timer", &[]),
    ("tls", &[]),
    ("api", &["error"]),
    ("address", &[]),
    ("connect", &["address", "error", "lock_order", "tls"]),
    ("session", &["address", "connect", "error", "lock_order"]),
    ("admin", &["address", "connect", "error"]),
    ("cache", &["error", "lock_order", "private", "session", "stats"]),
    // Policies alone: which names and files will be asked for next.
    ("prefetch::policy", &[]),
    ("node", &["extents", "lock_order", "overlay", "prefetch::policy"]),
    ("node_cache", &["api", "node", "session"]),
    ("reservation", &["lock_order", "node"]),
    ("read_plan", &["cache", "error", "extents", "node", "node_cache", "overlay"]),
    (
        "prefetch",
        &["cache", "error", "lock_order", "node", "node_cache", "prefetch::policy", "read_plan", "session", "stats"],
    ),
    (
        "writeback",
        &[
            "error",
            "lock_order",
            "node",
            "node_cache",
            "overlay",
            "private",
            "reservation",
            "session",
            "stats",
            "timer",
        ],
    ),
    (
        "recall",
        &[
            "api",
            "held_locks",
            "lock_order",
            "node",
            "node_cache",
            "reservation",
            "session",
            "stats",
            "timer",
            "writeback",
        ],
    ),
    (
        "volume",
        &[
            "api",
            "cache",
            "error",
            "extents",
            "held_locks",
            "lock_order",
            "node",
            "node_cache",
            "overlay",
            "prefetch",
            "prefetch::policy",
            "read_plan",
            "recall",
            "reservation",
            "session",
            "stats",
            "timer",
            "writeback",
        ],
    ),
    ("benchmarks", &["cache", "extents", "overlay"]),
    // Names them all.
    ("lib", &[]),
];

/// Sources of each module at the top of the crate.
fn modules(folder: &Path) -> BTreeMap<String, String> {
    fn read(path: &Path, module: &str, modules: &mut BTreeMap<String, String>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a folder of sources") {
                let path = entry.expect("an entry").path();
                let inner = format!("{module}::{}", path.file_stem().expect("a name").to_string_lossy());
                let listed = MAY_KNOW.iter().any(|(name, _)| *name == inner);
                read(&path, if listed { &inner } else { module }, modules);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(path).expect("a source file");
            modules.entry(module.to_owned()).or_default().push_str(&source);
        }
    }
    let mut modules = BTreeMap::<String, String>::new();
    for entry in fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        read(&path, &name, &mut modules);
    }
    modules
}

/// Modules that code (not comments) names by `crate::`.
fn names_in(source: &str) -> BTreeSet<&str> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = code.flat_map(|line| line.split("crate::").skip(1));
    let names = after.filter_map(|rest| {
        let of_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
        let path = rest.split(|letter| !of_path(letter)).next()?;
        let inner = MAY_KNOW.iter().map(|(name, _)| *name).find(|name| {
            name.contains("::") && path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        inner.or_else(|| path.split("::").next())
    });
    names.filter(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase())).collect()
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
