//! The options of `docker volume create -o NAME=VALUE`: how a volume is made, and how it is mounted.

use std::collections::BTreeMap;

use cairn_types::{Profile, Size};

/// What can be said of a volume. What is not said has the default of a new volume, and any value of one that exists.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeSpec {
    pub(super) size: Option<u64>,
    pub(super) inodes: Option<u64>,
    pub(super) chunk_size: Option<u32>,
    pub(super) data_center: Option<String>,
    /// What the volume emulates.
    pub(super) profile: Option<Profile>,
    /// Further flags of `cairn mount`.
    pub(super) mount_flags: Vec<String>,
}

const KNOWN: &str = "size, inodes, chunk-size, data-center, profile, read-only, noatime, cache-size, server-timeout";

impl VolumeSpec {
    /// Reads the options; the error is a sentence.
    pub(super) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut spec = VolumeSpec::default();
        for (name, value) in options {
            match name.as_str() {
                "size" => spec.size = Some(size(value)?),
                "inodes" => spec.inodes = Some(count(name, value)?),
                "chunk-size" => {
                    let bytes = size(value)?;
                    spec.chunk_size =
                        Some(u32::try_from(bytes).map_err(|_| format!("chunk-size is at most 64MiB, not {value}"))?);
                }
                "data-center" => spec.data_center = Some(value.clone()),
                "profile" => spec.profile = Some(value.parse::<Profile>().map_err(|error| error.to_string())?),
                "read-only" | "noatime" => {
                    if flag(name, value)? {
                        spec.mount_flags.push(format!("--{name}"));
                    }
                }
                "cache-size" => {
                    size(value)?;
                    spec.mount_flags.push(format!("--{name}={value}"));
                }
                "server-timeout" => spec.mount_flags.push(format!("--{name}={value}")),
                _ => return Err(format!("unknown option {name:?}; the options are: {KNOWN}")),
            }
        }
        Ok(spec)
    }
}

fn size(value: &str) -> Result<u64, String> {
    value.parse::<Size>().map(|size| size.0)
}

fn count(name: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{name} is a number, not {value:?}"))
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{name} is true or false, not {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<VolumeSpec, String> {
        VolumeSpec::read(&options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn options_become_a_volume_and_flags() {
        let spec = read(&[("size", "10GiB"), ("chunk-size", "1MiB"), ("read-only", "true"), ("noatime", "false")]);
        let wanted = VolumeSpec {
            size: Some(10 << 30),
            chunk_size: Some(1 << 20),
            mount_flags: vec!["--read-only".into()],
            ..VolumeSpec::default()
        };
        assert_eq!(spec, Ok(wanted));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (option, word) in [
            (("colour", "red"), "chunk-size"),
            (("size", "much"), "10GiB"),
            (("chunk-size", "1TiB"), "64MiB"),
            (("inodes", "few"), "number"),
            (("read-only", "perhaps"), "true or false"),
        ] {
            let error = read(&[option]).expect_err("refused");
            assert!(error.contains(word), "{error}");
        }
    }
}
