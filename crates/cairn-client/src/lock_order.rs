//! Every lock of this crate, outermost first (see [`cairn_locks`]). None is held while anything waits.

cairn_locks::ranks! { Band::Client;
    /// Files and folders that are being warmed.
    WarmJobs,
    /// When somebody last asked how a warming goes.
    WarmAsked,
    /// A part of the table of nodes. A node is locked in it only to look whether it may leave, or to void its stamps; no table is
    /// looked at while a node is locked.
    NodeTable,
    /// What is known of a node. Several are locked together in the order of their numbers, one that is just being made
    /// last. Everything below is entered, reserved or noted while they are.
    Node,
    /// Changes on their way to the server.
    JournalQueue,
    /// Files with buffered content.
    DirtyFiles,
    /// Nodes whose access time the server is to be told.
    AccessTimes,
    /// Space that the server has set aside for this mount.
    SpaceReservation,
    /// Files that were declared open because they may be about to be opened.
    ExpectedOpens,
    /// Locks of files that programs of this mount hold.
    HeldFileLocks,
    /// Open files by handle.
    OpenFiles,
    /// Open directories by handle.
    OpenDirectories,
    /// Which lost writes a handle was told of.
    ErrorSeen,
    /// Fetches under way.
    Fetches,
    /// A part of the cache of blocks in memory.
    Blocks,
    /// Whom a session tells of recalls and of its end.
    SessionEvents,
    /// Messages that want no answer.
    SessionErrands,
    /// Whether a session is connected, and what waits for answers.
    SessionState,
    /// Numbers for new nodes and blobs.
    NumberStocks,
    /// What breaks a session's connection.
    SessionBreaker,
    /// Requests of a data connection that wait for answers.
    DataRequests,
    /// Packs of the server that are open here.
    OpenPacks,
    /// Until when packs are not asked for.
    PacksRest,
    /// Descriptors that came with bytes.
    Descriptors,
    /// The thread that writes to the disk cache.
    DiskCacheWriter,
    /// What is to be written to the disk cache.
    DiskCacheQueue,
    /// What the disk cache holds.
    DiskCacheIndex,
    /// Where walks through trees are.
    TreeWalk,
    /// Files of a folder that are read one after another.
    Series,
    /// Streams of an open file.
    Streams,
}
