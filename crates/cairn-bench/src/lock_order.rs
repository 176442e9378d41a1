//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Bench;
    /// What is being measured.
    ProgressLabel,
}
