//! What several threads do to the engine's tables at once, in many orders (`cairn_locks::schedules`).

mod committer;
mod leases;
mod pending;
