//! Sizes as people write them: `10GiB`, `64 KiB`, `1T`, `4096`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes that parses and prints with units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Suffix and bytes of each unit. Units without `i` mean the same powers of two, except `KB`, `MB`, `GB`, `TB`,
/// which are powers of ten, as `dd` and `truncate` read them.
const UNITS: [(&str, u64); 18] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("pb", 1_000_000_000_000_000),
    ("bytes", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let explain = || format!("{text:?} is not a size: write a number and a unit, such as 10GiB, 500GB or 65536");
        let trimmed = text.trim();
        let digits = trimmed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(explain)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Size).ok_or_else(explain);
        }
        let fraction: f64 = number.parse().map_err(|_| explain())?;
        let bytes = fraction * factor as f64;
        if bytes.is_finite() && (0.0..=u64::MAX as f64).contains(&bytes) {
            Ok(Size(bytes as u64))
        } else {
            Err(explain())
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        if unit == "B" || value.fract() == 0.0 {
            write!(formatter, "{value:.0} {unit}")
        } else {
            write!(formatter, "{value:.1} {unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_printed() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("64 KiB", 65536),
            ("1T", 1 << 40),
            ("500GB", 500_000_000_000),
            ("1.5g", 3 << 29),
            ("7", 7),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(Size(10 << 30).to_string(), "10 GiB");
        assert_eq!(Size(1536).to_string(), "1.5 KiB");
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "ten", "-5", "5 parsecs", "99999999999P", "."] {
            assert!(text.parse::<Size>().unwrap_err().contains("10GiB"), "{text}");
        }
    }
}
