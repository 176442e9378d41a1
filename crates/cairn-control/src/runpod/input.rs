//! What all of Runpod's faces share in reading requests and naming things.

use crate::service::ServiceError;
use crate::service::records::{Hardware, Scaler};

/// Every pod runs on the server's machine.
pub(super) const MACHINE_ID: &str = "local";
/// For those who name no GPU.
pub(super) const ANY_GPU: &str = "NVIDIA GeForce RTX 4090";
/// For those who name no pod; the published default.
pub(super) const POD_NAME: &str = "my pod";

/// The host that a pod's proxy addresses begin with.
pub(super) fn host_id(pod: &str) -> String {
    format!("{pod}-{MACHINE_ID}")
}

/// A list with commas.
pub(super) fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(super) fn scaler(name: &str) -> Result<Scaler, ServiceError> {
    match name {
        "QUEUE_DELAY" => Ok(Scaler::QueueDelay),
        "REQUEST_COUNT" => Ok(Scaler::RequestCount),
        _ => Err(ServiceError::Invalid("the type of the scaler is QUEUE_DELAY or REQUEST_COUNT".to_owned())),
    }
}

/// Whole seconds or requests, for APIs that know no parts of them.
pub(super) fn scaler_units(milli: u64) -> u64 {
    milli.div_ceil(1000)
}

/// A CPU pod's hardware from `cpu3c-2-4` (flavor, virtual CPUs, GB of memory) or from what is asked for.
pub(super) fn cpu_instance(instance: Option<&str>, vcpu: Option<u32>) -> Result<Hardware, ServiceError> {
    let Some(instance) = instance.filter(|instance| !instance.is_empty()) else {
        return Ok(Hardware::Cpu { flavor: "cpu3g".to_owned(), vcpu: vcpu.unwrap_or(2).max(2) });
    };
    let mut parts = instance.split('-');
    let flavor = parts.next().unwrap_or_default().to_owned();
    let vcpu = match parts.next() {
        None => vcpu.unwrap_or(2),
        Some(number) => number
            .parse()
            .map_err(|_| ServiceError::Invalid("an instance is FLAVOR-VCPUS-MEMORY, such as cpu3c-2-4".to_owned()))?,
    };
    Ok(Hardware::Cpu { flavor, vcpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_name_hardware() {
        let hardware = cpu_instance(Some("cpu3c-4-8"), None).expect("read");
        assert_eq!(hardware, Hardware::Cpu { flavor: "cpu3c".to_owned(), vcpu: 4 });
        assert!(cpu_instance(Some("cpu3c-x"), None).is_err());
        assert!(matches!(cpu_instance(None, Some(1)), Ok(Hardware::Cpu { vcpu: 2, .. })));
    }

    #[test]
    fn lists_with_commas() {
        assert_eq!(split(" 8888/http, 22/tcp,,"), vec!["8888/http", "22/tcp"]);
    }
}
