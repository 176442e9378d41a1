//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Emulation;
    /// Files written since they were synced last.
    Unflushed,
    /// When a bandwidth is used up.
    Bucket,
    /// What is to be woken when. Who waits is woken with nothing held.
    TimerQueue,
}
