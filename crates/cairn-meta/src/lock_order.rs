//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Meta;
    /// The last commit. Swapped for a moment; readers clone it.
    CurrentSnapshot,
    /// The next free numbers.
    Numbering,
    /// What the log beside the local store has not been emptied of. Held while a commit is written.
    LocalLog,
    /// All rows of a store in memory.
    MemoryRows,
}
