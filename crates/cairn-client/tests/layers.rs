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
    ("prefetch::policy", &[]),
    ("node", &["extents", "overlay", "prefetch::policy"]),
    ("node_cache", &["api", "node", "session"]),
    ("emptying", &["api", "node", "timer"]),
    ("reservation", &["node"]),
    ("read_plan", &["cache", "error", "extents", "node", "node_cache", "overlay"]),
    ("prefetch", &["cache", "error", "node", "node_cache", "prefetch::policy", "read_plan", "stats"]),
    ("writeback", &["error", "node", "node_cache", "overlay", "private", "reservation", "session", "stats", "timer"]),
    (
        "recall",
        &[
            "api",
            "emptying",
            "held_locks",
            "node",
            "node_cache",
            "reservation",
            "session",
            "stats",
            "timer",
            "writeback",
        ],
    ),
    // Operations, without fetching ahead. What is in files knows no names.
    ("volume::remote", &["api", "cache", "error", "node", "node_cache", "session", "stats", "timer", "writeback"]),
    ("volume::space", &["api", "error", "reservation", "volume::remote"]),
    ("volume::locks", &["error", "held_locks", "volume::remote"]),
    (
        "volume::content",
        &[
            "api",
            "cache",
            "emptying",
            "error",
            "extents",
            "node",
            "overlay",
            "prefetch::policy",
            "read_plan",
            "stats",
            "volume::locks",
            "volume::remote",
            "volume::space",
            "writeback",
        ],
    ),
    ("volume::attributes", &["api", "error", "node", "stats", "volume::content", "volume::remote", "writeback"]),
    (
        "volume::names",
        &["api", "error", "node", "stats", "timer", "volume::content", "volume::remote", "volume::space", "writeback"],
    ),
    ("volume::warm", &["cache", "error", "stats", "volume::content", "volume::remote"]),
    ("volume::upkeep", &["node_cache", "recall", "stats", "volume::remote", "volume::space", "writeback"]),
    // Puts the parts together, and tells fetching ahead what they are asked for.
    (
        "volume",
        &[
            "api",
            "cache",
            "error",
            "held_locks",
            "node",
            "node_cache",
            "prefetch",
            "prefetch::policy",
            "recall",
            "reservation",
            "session",
            "stats",
            "timer",
            "volume::attributes",
            "volume::content",
            "volume::locks",
            "volume::names",
            "volume::remote",
            "volume::space",
            "volume::upkeep",
            "volume::warm",
            "writeback",
        ],
    ),
    ("benchmarks", &["cache", "extents", "overlay"]),
    // Names them all.
    ("lib", &[]),
];

/// The ranks of the crate's locks, which every module that has one names.
const RANKS: &str = "lock_order";

/// Each source file of the crate, by the path of its module.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    fn read(path: &Path, outer: &str, sources: &mut BTreeMap<String, String>) {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let module = match (outer, name.as_ref()) {
            (outer, "mod") => outer.to_owned(),
            ("", name) => name.to_owned(),
            (outer, name) => format!("{outer}::{name}"),
        };
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a folder of sources") {
                read(&entry.expect("an entry").path(), &module, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(module, fs::read_to_string(path).expect("a source file"));
        }
    }
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the sources") {
        read(&entry.expect("an entry").path(), "", &mut sources);
    }
    sources
}

/// The line of the table that a path belongs to: the innermost.
fn listed(path: &str) -> &str {
    let inside = |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let lines = MAY_KNOW.iter().map(|(name, _)| *name).filter(|name| inside(name));
    lines.max_by_key(|name| name.len()).unwrap_or_else(|| {
        let first = path.split("::").next().unwrap_or_default();
        // What the crate's root names, as everybody else sees it.
        if first.starts_with(|letter: char| letter.is_ascii_uppercase()) { "lib" } else { first }
    })
}

/// Adds the paths that `code` begins with, one or a tree in braces, each behind `base`. Returns what follows them.
fn add_paths<'code>(base: &str, code: &'code str, paths: &mut BTreeSet<String>) -> &'code str {
    let of_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
    let (path, mut rest) = code.split_at(code.find(|letter| !of_path(letter)).unwrap_or(code.len()));
    let path = format!("{base}{path}");
    let Some(inside) = rest.strip_prefix('{').filter(|_| path.is_empty() || path.ends_with("::")) else {
        paths.insert(path.trim_end_matches(':').to_owned());
        return rest;
    };
    rest = inside;
    loop {
        rest = rest.trim_start_matches(|letter: char| letter == ',' || letter.is_whitespace());
        if rest.is_empty() || rest.starts_with('}') {
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        rest = add_paths(&path, rest, paths);
        // Over `*` and `as`.
        rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
    }
}

/// Paths from the crate's root that the code (not comments) of a module names by `crate::` or `super::`.
fn paths_in(module: &str, source: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut paths = BTreeSet::new();
    let (code, tests) = code.split_once("mod tests {").unwrap_or((&code, ""));
    for (module, code) in [(module.to_owned(), code), (format!("{module}::tests"), tests)] {
        for (at, start) in code.match_indices("crate::") {
            add_paths("", &code[at + start.len()..], &mut paths);
        }
        for (at, start) in code.match_indices("super::").filter(|(at, _)| !code[..*at].ends_with("super::")) {
            let (mut outer, mut rest) = (module.as_str(), &code[at..]);
            while let Some(behind) = rest.strip_prefix(start) {
                outer = outer.rsplit_once("::").map_or("", |(outer, _)| outer);
                rest = behind;
            }
            let base = if outer.is_empty() { String::new() } else { format!("{outer}::") };
            add_paths(&base, rest, &mut paths);
        }
    }
    // `super::*` at the top is the root's own.
    paths.remove("");
    paths
}

#[test]
fn arrows_point_down() {
    let table: BTreeMap<&str, &[&str]> = MAY_KNOW.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, source) in &sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let module = listed(path);
        if module == RANKS {
            continue;
        }
        let Some(allowed) = table.get(module) else {
            wrong.insert(format!("{module} is not in the table"));
            continue;
        };
        let known = paths_in(path, source);
        let known = known
            .iter()
            .map(|path| listed(path))
            .filter(|name| *name != module && *name != RANKS && !allowed.contains(name));
        wrong.extend(known.map(|name| format!("{path} knows {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_path_is_overlooked() {
    let source = "use super::super::names::{self, changes as c};\nuse super::Content;\n\
        use crate::{node::{Node, table::*},\n    volume::Mount, Volume};\n// crate::recall\n\
        fn f() { super::super::warm::ask() }\nmod tests {\n    use super::*;\n    use super::super::files::open;\n}";
    let paths = paths_in("volume::content::read", source);
    let all = [
        "Volume",
        "node::Node",
        "node::table",
        "volume::Mount",
        "volume::content::Content",
        "volume::content::files::open",
        "volume::content::read",
        "volume::names::changes",
        "volume::names::self",
        "volume::warm::ask",
    ];
    assert_eq!(paths.iter().map(String::as_str).collect::<Vec<_>>(), all);
    assert_eq!(all.map(listed)[..4], ["lib", "node", "node", "volume"]);
    assert_eq!(listed("volume::names::self"), "volume::names");
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
