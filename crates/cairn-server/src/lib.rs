//! placeholder header, replaced below

pub mod volume;
