//! What Podman and Docker say of containers: `inspect` in the form that both share, failures, logs.

use std::collections::{BTreeMap, HashMap};

use cairn_types::VolumeId;
use serde::Deserialize;

use super::{POD_LABEL, VOLUMES_LABEL};
use crate::engine::{ContainerId, ContainerState, PodContainer, PublishedPort};

/// A container of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) pod: String,
    pub(super) volumes: Vec<VolumeId>,
    pub(super) state: ContainerState,
}

impl Container {
    pub(super) fn into_pod(self) -> PodContainer {
        PodContainer { pod_id: self.pod, container: self.id, state: self.state }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: State,
    config: Config,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    exit_code: i32,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    host_ip: String,
    host_port: String,
}

/// Reads the list that `inspect` prints; containers without a pod's label are left out.
pub(super) fn read(text: &str) -> Result<Vec<Container>, serde_json::Error> {
    // Nothing is printed where nothing was found.
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<Inspected> = serde_json::from_str(text)?;
    Ok(found.into_iter().filter_map(container).collect())
}

fn container(found: Inspected) -> Option<Container> {
    let mut labels = found.config.labels.unwrap_or_default();
    let pod = labels.remove(POD_LABEL)?;
    let volumes = labels.remove(VOLUMES_LABEL).unwrap_or_default();
    let state = if found.state.running {
        ContainerState::Running { ports: found.network_settings.ports.into_iter().flatten().flat_map(ports).collect() }
    } else {
        let ended = found.state.status == "exited" || found.state.status == "stopped";
        ContainerState::Exited { code: ended.then_some(found.state.exit_code) }
    };
    let volumes = volumes.split(',').filter_map(|id| id.parse().ok()).collect();
    Some(Container { id: ContainerId(found.id), pod, volumes, state })
}

/// `8888/tcp` and where it is reached.
fn ports((port, bindings): (String, Option<Vec<Binding>>)) -> Vec<PublishedPort> {
    let Some((number, protocol)) = port.split_once('/') else { return Vec::new() };
    let Ok(container_port) = number.parse() else { return Vec::new() };
    let published = |binding: Binding| {
        Some(PublishedPort {
            container_port,
            protocol: protocol.to_owned(),
            host: if binding.host_ip.is_empty() { "127.0.0.1".to_owned() } else { binding.host_ip },
            host_port: binding.host_port.parse().ok()?,
        })
    };
    bindings.unwrap_or_default().into_iter().filter_map(published).collect()
}

/// The name with its registry: what has none is of the registry that Docker and the emulated clouds take for granted, which
/// Podman does not.
pub(super) fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

/// Whether a complaint says that there is no such container.
pub(super) fn says_unknown(complaint: &str) -> bool {
    let complaint = complaint.to_lowercase();
    ["no such container", "no container with name or id", "no such object"]
        .iter()
        .any(|words| complaint.contains(words))
}

/// One text from what a container wrote on its two outputs, each line begun by its time, in the order of time.
pub(super) fn merge_logs(stdout: &str, stderr: &str) -> String {
    let mut lines: Vec<(&str, &str)> =
        stdout.lines().chain(stderr.lines()).map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
    lines.sort_by_key(|(time, _)| *time);
    lines.into_iter().flat_map(|(_, text)| [text, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engines_say_is_read() {
        let text = r#"[
            {"Id": "aa", "State": {"Running": true, "ExitCode": 0, "Status": "running"},
             "Config": {"Labels": {"cairn.pod": "p1", "cairn.volumes": "agv6w2qcg7"}},
             "NetworkSettings": {"Ports": {"8888/tcp": [{"HostIp": "", "HostPort": "40001"}], "22/tcp": null}}},
            {"Id": "bb", "State": {"Running": false, "ExitCode": 137, "Status": "exited"},
             "Config": {"Labels": {"cairn.pod": "p2", "cairn.volumes": ""}}, "NetworkSettings": {}},
            {"Id": "cc", "State": {"Running": false, "ExitCode": 0, "Status": "created"},
             "Config": {"Labels": {"cairn.pod": "p3"}}, "NetworkSettings": {"Ports": null}},
            {"Id": "dd", "State": {"Running": true, "ExitCode": 0}, "Config": {"Labels": null}}
        ]"#;
        let found = read(text).expect("read");
        let port =
            PublishedPort { container_port: 8888, protocol: "tcp".into(), host: "127.0.0.1".into(), host_port: 40001 };
        let states: Vec<ContainerState> = found.iter().map(|container| container.state.clone()).collect();
        assert_eq!(
            states,
            [
                ContainerState::Running { ports: vec![port] },
                ContainerState::Exited { code: Some(137) },
                ContainerState::Exited { code: None },
            ]
        );
        assert_eq!(found[0].volumes, ["agv6w2qcg7".parse().expect("id")]);
        assert!(found[1].volumes.is_empty());
        assert_eq!(read("[]\n").expect("read"), []);
        assert_eq!(read("").expect("read"), []);
    }

    #[test]
    fn images_have_their_registry() {
        for (image, full) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("runpod/pytorch:2.4", "docker.io/runpod/pytorch:2.4"),
            ("localhost/box", "localhost/box"),
            ("registry.example/team/image", "registry.example/team/image"),
            ("host:5000/image", "host:5000/image"),
        ] {
            assert_eq!(full_name(image), full);
        }
    }

    #[test]
    fn an_unknown_container_is_told_from_other_failures() {
        assert!(says_unknown("Error: no container with name or ID \"x\" found: no such container"));
        assert!(says_unknown("Error response from daemon: No such container: x"));
        assert!(!says_unknown("Error: runc create failed"));
    }

    #[test]
    fn logs_are_one_text_in_the_order_of_time() {
        let out = "2026-11-28T17:00:00.1Z one\n2026-11-28T17:00:00.3Z three\n";
        let err = "2026-11-28T17:00:00.2Z two  words\n2026-11-28T17:00:00.4Z\n";
        assert_eq!(merge_logs(out, err), "one\ntwo  words\nthree\n\n");
    }
}
