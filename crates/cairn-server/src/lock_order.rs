//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Server;
    /// All volumes by id.
    Catalogue,
    /// What is known of a volume while it is closed.
    VolumeInfo,
    /// The engine of an open volume.
    LiveVolume,
    /// Keys that let clients in.
    Keys,
    /// Who may object to the deletion of a volume.
    DeletionGuard,
    /// Addresses at which clients may come.
    Listening,
    /// Who is connected, and which place each has.
    Connections,
}

/// What is written from inside an engine, which has locks of its own then.
pub(crate) mod reports {
    cairn_locks::ranks! { Band::Reports;
        /// Checks that are running or have ended, with how far they are.
        Checks,
    }
}
