//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Fuse;
    /// The mount itself, taken when it ends.
    MountSession,
    /// Which handles have asked for locks.
    LockOwners,
    /// Requests that wait and may be interrupted.
    Interrupts,
    /// Places of a ring that go back to the kernel. Taken when an answer is there, whoever has it.
    RingReturns,
    /// Buffers for requests. A buffer may be given back with anything else held.
    SpareBuffers,
}
