//! A pod as arguments of `podman run` and `docker run`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{Brand, POD_LABEL, SERVER_LABEL, VOLUMES_LABEL, words};
use crate::engine::{EngineError, PodSpec};

/// By this name a person finds the pod's container.
pub(super) fn name_of(pod: &PodSpec) -> String {
    format!("cairn-pod-{}", pod.pod_id)
}

/// Refuses what would mean something else to the engine than to whoever asked for the pod: a path that carries options of
/// a mount, an image that is a file of this host.
pub(super) fn check(pod: &PodSpec, directories: &[PathBuf]) -> Result<(), EngineError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    if pod.image.is_empty() || pod.image.contains(":/") || !pod.image.chars().all(plain) {
        let reason = "the name of an image looks like registry.example/team/image:tag".to_owned();
        return Err(EngineError::Image { image: pod.image.clone(), reason });
    }
    let targets = pod.mounts.iter().map(|mount| mount.path.clone());
    for path in targets.chain(directories.iter().map(|directory| directory.display().to_string())) {
        if !path.starts_with('/') || path.contains([',', '"', ':']) || path.contains(char::is_control) {
            return Err(EngineError::Refused(format!(
                "{path:?} cannot be mounted: a path begins with a slash and has no commas, colons or quotation marks"
            )));
        }
    }
    Ok(())
}

/// Variables in a file that only this user can read, because arguments of a command are seen by everybody. Removed
/// when dropped.
pub(super) struct EnvironmentFile {
    file: tempfile::NamedTempFile,
    /// Variables that a file of lines cannot hold.
    arguments: Vec<OsString>,
}

impl EnvironmentFile {
    pub(super) fn write(folder: &Path, pod: &PodSpec) -> Result<Self, EngineError> {
        let mut text = String::new();
        let mut arguments = Vec::new();
        for (name, value) in &pod.env {
            let fits = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '=';
            if name.is_empty() || name.starts_with('#') || !name.chars().all(fits) {
                return Err(EngineError::Refused(format!("{name:?} cannot be the name of an environment variable")));
            }
            if value.contains('\0') {
                return Err(EngineError::Refused(format!(
                    "the value of the environment variable {name} contains a NUL byte"
                )));
            }
            if value.contains(['\n', '\r']) {
                arguments.extend(["--env".into(), format!("{name}={value}").into()]);
            } else {
                let _ = writeln!(text, "{name}={value}");
            }
        }
        let failed = |error: std::io::Error| EngineError::Refused(format!("cannot write the pod's variables: {error}"));
        let mut file = tempfile::Builder::new().prefix("environment-").tempfile_in(folder).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(EnvironmentFile { file, arguments })
    }
}

/// `run` for a pod whose volumes are mounted at `directories`, in their order.
pub(super) fn of_run(
    pod: &PodSpec,
    directories: &[PathBuf],
    environment: &EnvironmentFile,
    server: &str,
    further: &[String],
) -> Vec<OsString> {
    let volumes: Vec<&str> = pod.mounts.iter().map(|mount| mount.volume.as_str()).collect();
    let mut arguments = words(&["run", "--detach", "--pull=never", "--name", &name_of(pod)]);
    for (label, value) in
        [(POD_LABEL, pod.pod_id.as_str()), (SERVER_LABEL, server), (VOLUMES_LABEL, &volumes.join(","))]
    {
        arguments.extend(words(&["--label", &format!("{label}={value}")]));
    }
    arguments.extend(["--env-file".into(), environment.file.path().into()]);
    arguments.extend(environment.arguments.iter().cloned());
    for (mount, directory) in pod.mounts.iter().zip(directories) {
        let mut bind = OsString::from("type=bind,source=");
        bind.push(directory);
        bind.push(format!(",target={}", mount.path));
        arguments.extend(["--mount".into(), bind]);
    }
    for port in &pod.ports {
        // What is not UDP is TCP below; only this machine reaches it.
        let protocol = if port.protocol == "udp" { "udp" } else { "tcp" };
        arguments.extend(words(&["--publish", &format!("127.0.0.1::{}/{protocol}", port.container_port)]));
    }
    if let Some(program) = pod.entrypoint.first() {
        arguments.extend(words(&["--entrypoint", program]));
    }
    arguments.extend(further.iter().map(OsString::from));
    arguments.extend(words(&["--", &pod.image]));
    arguments.extend(pod.entrypoint.iter().skip(1).chain(&pod.command).map(OsString::from));
    arguments
}

/// Kills and removes at once; a container that does not exist is no failure for Podman.
pub(super) fn of_remove(brand: Brand, container: &str) -> Vec<OsString> {
    match brand {
        Brand::Podman => words(&["rm", "--force", "--ignore", "--time", "0", "--volumes", "--", container]),
        Brand::Docker => words(&["rm", "--force", "--volumes", "--", container]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::{MountSpec, PortSpec};

    fn pod() -> PodSpec {
        PodSpec {
            pod_id: "pod0000001".into(),
            image: "runpod/pytorch".into(),
            entrypoint: vec!["bash".into(), "-c".into()],
            command: vec!["sleep 1".into()],
            env: BTreeMap::from([("A".into(), "b c=\"d\"".into()), ("KEY".into(), "two\nlines".into())]),
            ports: vec![
                PortSpec { container_port: 8888, protocol: "http".into() },
                PortSpec { container_port: 53, protocol: "udp".into() },
            ],
            mounts: vec![MountSpec { volume: "agv6w2qcg7".parse().expect("id"), path: "/workspace".into() }],
        }
    }

    #[test]
    fn a_pod_becomes_a_command_line() {
        let folder = tempfile::tempdir().expect("folder");
        let environment = EnvironmentFile::write(folder.path(), &pod()).expect("written");
        let path = environment.file.path().to_owned();
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "A=b c=\"d\"\n");
        let got =
            of_run(&pod(), &["/state/live/agv6w2qcg7".into()], &environment, "server", &["--network=none".into()]);
        let wanted = [
            "run",
            "--detach",
            "--pull=never",
            "--name",
            "cairn-pod-pod0000001",
            "--label",
            "cairn.pod=pod0000001",
            "--label",
            "cairn.server=server",
            "--label",
            "cairn.volumes=agv6w2qcg7",
            "--env-file",
            path.to_str().expect("text"),
            "--env",
            "KEY=two\nlines",
            "--mount",
            "type=bind,source=/state/live/agv6w2qcg7,target=/workspace",
            "--publish",
            "127.0.0.1::8888/tcp",
            "--publish",
            "127.0.0.1::53/udp",
            "--entrypoint",
            "bash",
            "--network=none",
            "--",
            "runpod/pytorch",
            "-c",
            "sleep 1",
        ];
        assert_eq!(got, wanted.map(OsString::from));
        drop(environment);
        assert!(!path.exists());
    }

    #[test]
    fn what_would_mean_more_to_the_engine_is_refused() {
        let directory = PathBuf::from("/state/live/agv6w2qcg7");
        assert!(check(&pod(), std::slice::from_ref(&directory)).is_ok());
        for path in ["/x,source=/etc", "/x:ro", "relative", "/a\"b", "/a\nb", ""] {
            let mounts = vec![MountSpec { volume: "agv6w2qcg7".parse().expect("id"), path: path.into() }];
            assert!(check(&PodSpec { mounts, ..pod() }, std::slice::from_ref(&directory)).is_err(), "{path:?}");
        }
        for image in ["", "dir:/root", "docker-archive:/x.tar", "a b", "docker://alpine"] {
            assert!(check(&PodSpec { image: image.into(), ..pod() }, &[]).is_err(), "{image:?}");
        }
        let image = "registry.example:5000/team/image@sha256:0011".to_owned();
        assert!(check(&PodSpec { image, ..pod() }, &[]).is_ok());
    }

    #[test]
    fn variables_that_cannot_be_are_told() {
        let folder = tempfile::tempdir().expect("folder");
        for (name, value) in [("", "x"), ("A B", "x"), ("A\nB", "x"), ("#A", "x"), ("A=", "x"), ("A", "a\0b")] {
            let pod = PodSpec { env: BTreeMap::from([(name.into(), value.into())]), ..pod() };
            assert!(EnvironmentFile::write(folder.path(), &pod).is_err(), "{name:?} {value:?}");
        }
    }
}
