//! What to fetch before it is asked for, decided from what programs do. Each policy is a state machine: it is told what was seen
//! and answers how much to fetch; it asks nobody, waits for nothing and holds no lock. What that means for each, and what
//! bounds it, is in [`crate::prefetch`], which carries the decisions out.
//!
//! A policy lives as long as what it watches: [`streams`] with an open file, [`names`] and [`contents`] with what is known of a
//! directory, [`tree`] and [`series`] with the mount.

pub(crate) mod contents;
pub(crate) mod names;
pub(crate) mod series;
pub(crate) mod streams;
pub(crate) mod tree;
