//! Integers and byte strings inside a value.

/// Version 1 of a record with `low` in the lower half of its first byte.
pub(super) fn header(low: u8) -> u8 {
    1 << 4 | low & 0x0f
}

/// The lower half of a first byte, if the upper half is a version that is known.
pub(super) fn open_header(byte: u8) -> Option<u8> {
    (byte >> 4 == 1).then_some(byte & 0x0f)
}

pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

pub(super) trait Encode {
    fn varint(&mut self, number: u64);
    fn signed(&mut self, number: i64);
    fn bytes(&mut self, bytes: &[u8]);
}

impl Encode for Vec<u8> {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn signed(&mut self, number: i64) {
        self.varint(zigzag(number));
    }

    /// With its length before it.
    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// A cursor over a value. Every method answers `None` when the bytes end too early or make no sense.
pub(super) struct Decode<'a>(pub(super) &'a [u8]);

impl<'a> Decode<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let digit = u64::from(byte & 0x7f);
            if digit << shift >> shift != digit {
                return None;
            }
            number |= digit << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn varint32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// `value`, if nothing is left over.
    pub(super) fn finish<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_come_back(number: u64, signed: i64, bytes: Vec<u8>) {
            let mut value = Vec::new();
            value.varint(number);
            value.signed(signed);
            value.bytes(&bytes);
            let mut decode = Decode(&value);
            prop_assert_eq!(decode.varint(), Some(number));
            prop_assert_eq!(decode.signed(), Some(signed));
            prop_assert_eq!(decode.bytes(), Some(bytes.as_slice()));
            prop_assert_eq!(decode.finish(()), Some(()));
        }
    }
}
