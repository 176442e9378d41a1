//! Identifiers as the emulated clouds make them: lower-case letters and digits.

use rand::Rng;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn random(length: usize) -> String {
    let mut generator = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[generator.random_range(0..ALPHABET.len())])).collect()
}

/// Draws ids until one is free.
fn fresh(length: usize, taken: impl Fn(&str) -> bool) -> String {
    loop {
        let id = random(length);
        if !taken(&id) {
            return id;
        }
    }
}

/// Of pods and endpoints.
pub(crate) fn long(taken: impl Fn(&str) -> bool) -> String {
    fresh(14, taken)
}

/// Of keys, accounts and templates.
pub(crate) fn short(taken: impl Fn(&str) -> bool) -> String {
    fresh(10, taken)
}
