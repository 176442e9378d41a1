//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Transfer;
    /// Held by the worker that waits for the next item.
    NextItem,
    /// What went wrong first.
    Failure,
    /// What was copied, with its digest.
    CopiedItems,
    /// What was read only to be compared.
    OtherItems,
    /// The archive that is written.
    OpenArchive,
    /// Folders that were made.
    MadeFolders,
    /// What is set at the end, when nothing is added to folders any more.
    LateAttributes,
}
