//! Every lock of this crate, outermost first (see [`cairn_locks`]). None is held while anything waits.

cairn_locks::ranks! { Band::Engine;
    /// Held while packs are rewritten or checked, which takes long and needs everything else.
    PackMaintenance,
    /// Held for a round of changes: whoever has it is the one writer.
    CommitWorker,
    /// The table of leases, and who waits for them.
    Leases,
    /// Sessions that may still come back.
    Restart,
    /// What sessions that came back have told.
    RetoldChanges,
    /// All sessions by number.
    Sessions,
    /// Who a session is.
    AboutSession,
    /// The connection by which a session is told things.
    Attachment,
    /// Who has which file open.
    OpenFiles,
    /// Locks of files and who waits for them.
    FileLocks,
    /// Blobs that no committed change refers to yet.
    PendingBlobs,
    /// When sessions were last asked for room.
    RoomAsked,
    /// What the next durable commit makes useless. Emptied into the errands.
    DeadWhenDurable,
    /// What the maintenance thread is to do.
    Errands,
    /// What waits for the committer. Anything may put something in.
    CommitQueue,
    /// The open metadata; gone when the volume is closed.
    Store,
    /// Free space of the disk, as last seen.
    DiskFigures,
    /// Size of all packs, as last counted.
    StoredBytes,
}
