//! Tests of the whole crate that look at its private parts. What a caller sees is tested in the crate's `tests/`.

mod golden;
