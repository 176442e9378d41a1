//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Containers;
    /// One asynchronous lock for each name of the plug-in, held while its volume is changed; this is the list of them.
    PluginTurns,
    /// One asynchronous lock for each volume, held while its mount is made or ended; this is the list of them.
    Turns,
    /// Volumes that the plug-in has made.
    VolumeNames,
    /// Who holds which mount.
    MountTable,
    /// The last bytes that a program said.
    ProgramOutput,
}
