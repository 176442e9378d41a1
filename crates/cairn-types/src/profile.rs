//! Emulation profiles: how a volume is to behave when it stands in for another one.
//!
//! A profile is a base (a column of the table in `docs/profiles.md`) and what differs from it, written as one text:
//! `runpod-standard,chown=native`. Here are the parameters and their text form. What they do to requests is the front's
//! (`cairn-emulation`), what they do to the quota is [`Allocation`]'s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::allocation::Allocation;
use crate::size::Size;

/// The columns of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// No limits.
    #[default]
    Native,
    RunpodStandard,
    RunpodHighPerformance,
    Moosefs,
}

impl Base {
    pub const ALL: [Base; 4] = [Base::Native, Base::RunpodStandard, Base::RunpodHighPerformance, Base::Moosefs];

    pub fn name(self) -> &'static str {
        match self {
            Base::Native => "native",
            Base::RunpodStandard => "runpod-standard",
            Base::RunpodHighPerformance => "runpod-high-performance",
            Base::Moosefs => "moosefs",
        }
    }
}

/// For how long a client of MooseFS relies on what it was told (`mfsattrcacheto`, `mfsdirentrycacheto`: 1 s;
/// `mfsentrycacheto` and `mfsnegentrycacheto`: not at all).
pub const MOOSEFS_ATTRIBUTE_TIME: Duration = Duration::from_secs(1);

/// What `df` shows as size and as free where a volume shows the pool that it lies in, in bytes: `2.3P` and `885T`, as it
/// was seen on a rented volume. Other sites show other figures, none the quota.
pub const POOL_BYTES: u64 = 2_330 << 40;
pub const POOL_BYTES_FREE: u64 = 885 << 40;

/// Shown as a mount's source where it is MooseFS's.
pub const MOOSEFS_SOURCE: &str = "mfs#localhost:9421";

/// Permission bits of everything but directories and symlinks, and of those, where `chmod` is ignored.
pub const FIXED_FILE_MODE: u32 = 0o666;
pub const FIXED_DIRECTORY_MODE: u32 = 0o777;

/// All parameters of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub base: Base,
    /// Bytes a second in the long run; `None` for no limit.
    pub read_bandwidth: Option<u64>,
    pub write_bandwidth: Option<u64>,
    /// Bytes that pass at full speed after a pause, for each direction.
    pub burst: u64,
    /// Least time that an operation on names and attributes takes.
    pub metadata_latency: Duration,
    /// Least time that a read takes, or a flush of what was written.
    pub data_latency: Duration,
    /// The kernel caches names and attributes for as long as with MooseFS, and not for as long as a lease allows.
    pub moosefs_caching: bool,
    /// The quota counts MooseFS's blocks and headers.
    pub moosefs_allocation: bool,
    /// `df` shows the pool.
    pub pool_df: bool,
    /// `chown` fails with `EPERM`, for root, too.
    pub refuse_chown: bool,
    /// `chmod` is ignored.
    pub fixed_modes: bool,
    /// The mount's source, type and options are MooseFS's.
    pub moosefs_source: bool,
}

const MEGABYTE: u64 = 1_000_000;

impl From<Base> for Profile {
    fn from(base: Base) -> Self {
        let runpod = |megabytes: u64, metadata_us: u64, data_us: u64| Profile {
            base,
            read_bandwidth: Some(megabytes * MEGABYTE),
            write_bandwidth: Some(megabytes * MEGABYTE),
            burst: 256 * MEGABYTE,
            metadata_latency: Duration::from_micros(metadata_us),
            data_latency: Duration::from_micros(data_us),
            moosefs_caching: true,
            moosefs_allocation: true,
            pool_df: true,
            refuse_chown: true,
            fixed_modes: true,
            moosefs_source: true,
        };
        match base {
            Base::Native => Profile::default(),
            Base::RunpodStandard => runpod(200, 2000, 3000),
            Base::RunpodHighPerformance => runpod(400, 1000, 1500),
            Base::Moosefs => Profile { refuse_chown: false, fixed_modes: false, ..runpod(300, 500, 800) },
        }
    }
}

/// Writes one parameter's value.
type Text = fn(&Profile) -> String;

/// Name and value of each parameter; the one place that lists them.
const PARAMETERS: [(&str, Text); 11] = [
    ("read-bandwidth", |profile| bandwidth_text(profile.read_bandwidth)),
    ("write-bandwidth", |profile| bandwidth_text(profile.write_bandwidth)),
    ("burst", |profile| bytes_text(profile.burst)),
    ("metadata-latency", |profile| latency_text(profile.metadata_latency)),
    ("data-latency", |profile| latency_text(profile.data_latency)),
    ("caching", |profile| switch_text(profile.moosefs_caching, "moosefs")),
    ("allocation", |profile| switch_text(profile.moosefs_allocation, "moosefs")),
    ("df", |profile| switch_text(profile.pool_df, "pool")),
    ("chown", |profile| switch_text(profile.refuse_chown, "refused")),
    ("modes", |profile| switch_text(profile.fixed_modes, "fixed")),
    ("source", |profile| switch_text(profile.moosefs_source, "moosefs")),
];

impl Profile {
    /// What the quota counts.
    pub fn allocation(&self) -> Allocation {
        if self.moosefs_allocation { Allocation::MOOSEFS } else { Allocation::NATIVE }
    }

    /// Whether requests are to pass through unchanged.
    pub fn leaves_requests_alone(&self) -> bool {
        let front = Profile { base: Base::Native, burst: 0, moosefs_allocation: false, moosefs_source: false, ..*self };
        front == Profile::default()
    }

    /// Each parameter with its value as text.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        PARAMETERS.iter().map(|(name, value)| (*name, value(self)))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ProfileError> {
        const BANDWIDTH: &str = "bytes a second such as 200MB, or native for no limit";
        const LATENCY: &str = "a time such as 2ms or 500us, at most 10s, or native for none";
        let invalid =
            |takes: &'static str| ProfileError::Value { parameter: name.to_owned(), value: value.to_owned(), takes };
        let switch = |on: &'static str, takes: &'static str| match value {
            "native" => Ok(false),
            given if given == on => Ok(true),
            _ => Err(invalid(takes)),
        };
        match name {
            "read-bandwidth" => self.read_bandwidth = parse_bandwidth(value).map_err(|()| invalid(BANDWIDTH))?,
            "write-bandwidth" => self.write_bandwidth = parse_bandwidth(value).map_err(|()| invalid(BANDWIDTH))?,
            "burst" => {
                self.burst = parse_bytes(value).ok_or_else(|| invalid("bytes such as 256MB, or native for none"))?;
            }
            "metadata-latency" => self.metadata_latency = parse_latency(value).ok_or_else(|| invalid(LATENCY))?,
            "data-latency" => self.data_latency = parse_latency(value).ok_or_else(|| invalid(LATENCY))?,
            "caching" => self.moosefs_caching = switch("moosefs", "moosefs or native")?,
            "allocation" => self.moosefs_allocation = switch("moosefs", "moosefs or native")?,
            "df" => self.pool_df = switch("pool", "pool or native")?,
            "chown" => self.refuse_chown = switch("refused", "refused or native")?,
            "modes" => self.fixed_modes = switch("fixed", "fixed or native")?,
            "source" => self.moosefs_source = switch("moosefs", "moosefs or native")?,
            _ => return Err(ProfileError::Parameter(name.to_owned())),
        }
        Ok(())
    }
}

/// What is wrong with the text of a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("there is no profile {0:?}: choose native, runpod-standard, runpod-high-performance or moosefs")]
    Base(String),
    #[error(
        "profiles have no parameter {0:?}: there are read-bandwidth, write-bandwidth, burst, metadata-latency, \
         data-latency, caching, allocation, df, chown, modes and source"
    )]
    Parameter(String),
    #[error("{0:?} is not a parameter of a profile with its value: write PARAMETER=VALUE, such as chown=native")]
    NoValue(String),
    #[error("a profile's {parameter} cannot be {value:?}: it takes {takes}")]
    Value { parameter: String, value: String, takes: &'static str },
}

impl FromStr for Profile {
    type Err = ProfileError;

    /// Parts are joined by commas, or by `+` where a comma has a meaning already (`mount -o`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split([',', '+']).map(str::trim);
        let name = parts.next().unwrap_or_default();
        let base = Base::ALL.into_iter().find(|base| base.name() == name);
        let mut profile = Profile::from(base.ok_or_else(|| ProfileError::Base(name.to_owned()))?);
        for part in parts {
            let (parameter, value) = part.split_once('=').ok_or_else(|| ProfileError::NoValue(part.to_owned()))?;
            profile.set(parameter.trim(), value.trim())?;
        }
        Ok(profile)
    }
}

impl fmt::Display for Profile {
    /// The base and what differs from it; reads back as the same profile.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.base.name())?;
        let base = Profile::from(self.base);
        for ((name, value), (_, usual)) in self.parameters().zip(base.parameters()) {
            if value != usual {
                write!(formatter, ",{name}={value}")?;
            }
        }
        Ok(())
    }
}

fn switch_text(on: bool, word: &str) -> String {
    if on { word.to_owned() } else { NATIVE.to_owned() }
}

const NATIVE: &str = "native";

/// Longest latency that makes sense: beyond, programs take the volume for dead.
const LATENCY_MAX: Duration = Duration::from_secs(10);

/// Units of byte counts: powers of ten, as bandwidths are told, and powers of two with an `i`.
const UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("MB", MEGABYTE),
    ("MiB", 1 << 20),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("", 1),
];

fn bytes_text(bytes: u64) -> String {
    if bytes == 0 {
        return NATIVE.to_owned();
    }
    let (unit, size) = UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size)).copied().unwrap_or(("", 1));
    format!("{}{unit}", bytes / size)
}

fn parse_bytes(text: &str) -> Option<u64> {
    if text == NATIVE {
        return Some(0);
    }
    text.parse::<Size>().ok().map(|size| size.0)
}

fn bandwidth_text(bandwidth: Option<u64>) -> String {
    bytes_text(bandwidth.unwrap_or(0))
}

fn parse_bandwidth(text: &str) -> Result<Option<u64>, ()> {
    let bytes = parse_bytes(text.strip_suffix("/s").unwrap_or(text)).ok_or(())?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

fn latency_text(latency: Duration) -> String {
    match latency.as_micros() {
        0 => NATIVE.to_owned(),
        micros if micros.is_multiple_of(1000) => format!("{}ms", micros / 1000),
        micros => format!("{micros}us"),
    }
}

fn parse_latency(text: &str) -> Option<Duration> {
    if text == NATIVE {
        return Some(Duration::ZERO);
    }
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let micros = match unit {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        _ => return None,
    };
    let latency = Duration::from_micros(number.parse::<u64>().ok()?.checked_mul(micros)?);
    Some(latency).filter(|latency| *latency <= LATENCY_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(text: &str) -> Profile {
        text.parse().expect("a profile")
    }

    #[test]
    fn every_base_is_its_own_text() {
        for base in Base::ALL {
            assert_eq!(profile(base.name()), Profile::from(base));
            assert_eq!(Profile::from(base).to_string(), base.name());
        }
        assert!(profile("native").leaves_requests_alone());
        assert!(!profile("moosefs").leaves_requests_alone());
        assert!(profile("native,allocation=moosefs,source=moosefs,burst=1GB").leaves_requests_alone());
    }

    #[test]
    fn every_parameter_can_be_switched_off() {
        let all_off: Vec<String> = Profile::default().parameters().map(|(name, _)| format!(",{name}=native")).collect();
        for base in Base::ALL {
            let plain = profile(&format!("{}{}", base.name(), all_off.concat()));
            assert_eq!(Profile { base: Base::Native, ..plain }, Profile::default());
        }
    }

    #[test]
    fn differences_are_told_and_no_others() {
        let text = "runpod-standard,read-bandwidth=1GB,metadata-latency=2500us,chown=native";
        assert_eq!(
            profile("runpod-standard + chown=native+metadata-latency=2500us,read-bandwidth=1000MB/s,df=pool")
                .to_string(),
            text
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, wanted) in [
            ("", "choose native"),
            ("Moosefs", "choose native"),
            ("moosefs,chown", "write PARAMETER=VALUE"),
            ("moosefs,colour=blue", "no parameter \"colour\""),
            ("moosefs,chown=pool", "refused or native"),
            ("moosefs,burst=many", "such as 256MB"),
            ("moosefs,data-latency=11s", "at most 10s"),
            ("moosefs,read-bandwidth=99999999999TB", "200MB"),
        ] {
            let error = text.parse::<Profile>().expect_err(text).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    proptest! {
        #[test]
        fn texts_read_back(
            base in prop::sample::select(&Base::ALL[..]),
            bytes: (u64, u64, u64),
            latencies in (0..10_000_000u64, 0..10_000_000u64),
            switches: [bool; 6],
        ) {
            let profile = Profile {
                base,
                read_bandwidth: Some(bytes.0).filter(|bytes| *bytes > 0),
                write_bandwidth: Some(bytes.1).filter(|bytes| *bytes > 0),
                burst: bytes.2,
                metadata_latency: Duration::from_micros(latencies.0),
                data_latency: Duration::from_micros(latencies.1),
                moosefs_caching: switches[0],
                moosefs_allocation: switches[1],
                pool_df: switches[2],
                refuse_chown: switches[3],
                fixed_modes: switches[4],
                moosefs_source: switches[5],
            };
            prop_assert_eq!(profile.to_string().parse(), Ok(profile));
        }

        #[test]
        fn any_text_is_a_profile_or_refused(text: String) {
            let _ = text.parse::<Profile>();
        }
    }
}
