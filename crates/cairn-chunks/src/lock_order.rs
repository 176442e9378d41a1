//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Chunks;
    /// The end of one pack. Held while a batch is written to it, so everything else here may be needed inside.
    WriterSlot,
    /// Taken for a moment when a slot needs its next pack.
    ReusablePacks,
    /// What is to be flushed, and the round that is running. Who has appended tells it what, with the slot held.
    FlushRounds,
    /// All packs by number. The end of a flush takes their states from it.
    Packs,
    /// What is dead in one pack.
    PackStates,
    /// Descriptors that are kept. Looked up from anywhere.
    OpenFiles,
    /// All blobs of a store in memory.
    MemoryBlobs,
    /// Headers of blobs that are read in parts.
    KeptHeaders,
}
