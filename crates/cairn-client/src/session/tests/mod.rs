//! The session against a server whose every answer, silence and hang-up is scripted, and against a small model of a
//! server that hangs up and restarts at random.

mod blobs;
mod fake;
mod locks;
mod model;
mod outages;
mod requests;
