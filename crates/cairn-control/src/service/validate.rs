//! What names, paths, environments and the like must look like. Pure checks, used wherever such a thing comes in.

use std::collections::BTreeMap;

use super::error::ServiceError;
use super::records::ContainerConfig;

/// Longest name of anything, in characters; the emulated cloud's own limit.
const NAME_MAX: usize = 191;
const PATH_MAX: usize = 255;
/// Most bytes of an environment, names and values together.
const ENV_MAX: usize = 64 * 1024;
const LIST_MAX: usize = 256;
const TEXT_MAX: usize = 32 * 1024;

pub(crate) fn name(name: &str, what: &str) -> Result<(), ServiceError> {
    let fits = !name.is_empty() && name.chars().count() <= NAME_MAX && !name.chars().any(char::is_control);
    let explain = || format!("the {what}'s name takes 1 to {NAME_MAX} characters, none of them a control character");
    if fits { Ok(()) } else { Err(ServiceError::Invalid(explain())) }
}

pub(crate) fn mount_path(path: &str) -> Result<(), ServiceError> {
    let fits = path.starts_with('/')
        && path.len() <= PATH_MAX
        && !path.trim_matches('/').is_empty()
        && !path.split('/').any(|part| matches!(part, "." | ".."))
        && !path.chars().any(|letter| letter.is_control() || matches!(letter, ':' | ','));
    let explain = || format!("{path:?} is not a valid mount path: write an absolute one, such as /workspace");
    if fits { Ok(()) } else { Err(ServiceError::Invalid(explain())) }
}

pub(crate) fn env(env: &BTreeMap<String, String>) -> Result<(), ServiceError> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENV_MAX {
        return Err(ServiceError::Invalid(format!("the environment has {bytes} bytes: the limit is {ENV_MAX}")));
    }
    for (name, value) in env {
        let fits = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        if !fits {
            return Err(ServiceError::Invalid(format!("{name:?} is not a valid name of an environment variable")));
        }
    }
    Ok(())
}

pub(crate) fn ports(ports: &[String]) -> Result<(), ServiceError> {
    if ports.len() > LIST_MAX {
        return Err(ServiceError::Invalid(format!("at most {LIST_MAX} ports can be exposed")));
    }
    for port in ports {
        if parse_port(port).is_none() {
            return Err(ServiceError::Invalid(format!(
                "{port:?} is not a valid port: write NUMBER/http, NUMBER/tcp or NUMBER/udp"
            )));
        }
    }
    Ok(())
}

/// The number and protocol of `8888/http`.
pub(crate) fn parse_port(text: &str) -> Option<(u16, &str)> {
    let (number, protocol) = text.split_once('/')?;
    let number: u16 = number.parse().ok()?;
    (number > 0 && matches!(protocol, "http" | "tcp" | "udp")).then_some((number, protocol))
}

pub(crate) fn text(text: &str, what: &str) -> Result<(), ServiceError> {
    if text.len() > TEXT_MAX || text.contains('\0') {
        return Err(ServiceError::Invalid(format!("the {what} takes at most {TEXT_MAX} bytes")));
    }
    Ok(())
}

pub(crate) fn texts(texts: &[String], what: &str) -> Result<(), ServiceError> {
    if texts.len() > LIST_MAX {
        return Err(ServiceError::Invalid(format!("the {what} takes at most {LIST_MAX} items")));
    }
    texts.iter().try_for_each(|item| text(item, what))
}

/// Of a pod, template or endpoint. Whether an image is needed is for the caller to say.
pub(crate) fn config(config: &ContainerConfig) -> Result<(), ServiceError> {
    env(&config.env)?;
    ports(&config.ports)?;
    text(&config.args, "command")?;
    texts(&config.entrypoint, "entry point")?;
    texts(&config.start_command, "start command")?;
    if !config.mount_path.is_empty() {
        mount_path(&config.mount_path)?;
    }
    let image_fits =
        config.image.len() <= 512 && !config.image.chars().any(|letter| letter.is_control() || letter == ' ');
    if !image_fits || config.image.starts_with('-') {
        return Err(ServiceError::Invalid(format!("{:?} is not a valid image name", config.image)));
    }
    if shlex::split(&config.args).is_none() {
        return Err(ServiceError::invalid("the command has an unclosed quotation mark"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths() {
        for good in ["/workspace", "/runpod-volume", "/a/b/"] {
            assert!(mount_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "//", "workspace", "/a/../b", "/a:b", "/a,b", "/a\nb"] {
            assert!(mount_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_numbers_with_a_protocol() {
        assert_eq!(parse_port("8888/http"), Some((8888, "http")));
        for bad in ["", "8888", "0/tcp", "70000/tcp", "80/ftp", "x/tcp"] {
            assert_eq!(parse_port(bad), None, "{bad:?}");
        }
    }
}
