//! Every lock of this crate, outermost first (see [`cairn_locks`]).

cairn_locks::ranks! { Band::Control;
    /// Accounts, volumes, pods and money in memory. Changed by one task at a time, which holds an asynchronous lock.
    Records,
    /// The list of asynchronous locks, one for each pod whose container is being worked on.
    WorkOnPods,
    /// What the container engine said last.
    ObservedContainers,
    /// Who is connected.
    Seats,
    /// Numbers of connections.
    NextSeat,
}
