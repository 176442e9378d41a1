//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Program;
    /// Pieces of files that are still to be warmed.
    PiecesToWarm,
    /// What went wrong first while files were warmed.
    FirstError,
    /// What an import or export has done so far, by name.
    TransferCounters,
}
