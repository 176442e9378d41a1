//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Runtime;
    /// A future that was begun inline and may be woken from anywhere.
    InlineStart,
    /// Who has how much of the budget.
    MemoryShares,
}
