//! `cairn mount`, in the foreground or as a daemon that returns once the mount is live.
//!
//! The daemon is this program started again with `--foreground`; its standard output is a pipe on which it says
//! that it is ready, or why not. Nothing is forked after threads exist.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use cairn_runtime::MemoryBudget;

use crate::cli::Mount;
use crate::commands::mounted::{self, Plan};
use crate::exit_code::{Exit, WithExit};
use crate::{connect, output, paths, runtime};

/// Set in the process that becomes the daemon.
const DAEMON_VARIABLE: &str = "CAIRN_INTERNAL_DAEMON";
const READY: &str = "ready";

pub(crate) fn run(options: &Mount) -> Result<ExitCode> {
    if std::env::var_os(DAEMON_VARIABLE).is_some() {
        return run_daemon(options);
    }
    if options.foreground {
        serve(options, true, |live| println!("mounted {} at {}", live.volume_name(), live.directory().display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    start_daemon(options)
}

fn serve(options: &Mount, foreground: bool, ready: impl FnOnce(&mounted::Live)) -> Result<()> {
    runtime::new()?.block_on(async {
        let plan = Plan {
            memory: MemoryBudget::of_process(),
            connect: connect::options(&options.connection)?,
            volume: options.volume.clone(),
            directory: options.directory.clone(),
            tuning: options.tuning.clone(),
            kernel_options: options.options.iter().filter(|option| !option.is_empty()).cloned().collect(),
            foreground,
        };
        let live = mounted::start(plan).await?;
        ready(&live);
        live.run_to_end().await
    })
}

fn run_daemon(options: &Mount) -> Result<ExitCode> {
    // SAFETY: setsid has no memory effects; it fails only for a process group leader, which changes nothing here.
    unsafe { libc::setsid() };
    let mut announced = false;
    let outcome = serve(options, false, |_| {
        announced = true;
        println!("{READY}");
    });
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if announced => Err(error),
        Err(error) => {
            let exit = error.downcast_ref::<WithExit>().map_or(Exit::Failure, |with| with.0);
            println!("{} {}", exit as u8, output::sentence(&error));
            Ok(exit.into())
        }
    }
}

fn start_daemon(options: &Mount) -> Result<ExitCode> {
    let log_path = options.log_file.clone().unwrap_or_else(paths::mount_log);
    let log = open_log(&log_path)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments: Vec<OsString> = crate::arguments()?.into_iter().skip(1).collect();
    let mut child = Command::new(program)
        .args(arguments)
        .env(DAEMON_VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the mount process")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        // Ends at the latest when opening the volume gives up: the daemon limits every wait of its own.
        BufReader::new(output).read_line(&mut line).context("the mount process did not answer")?;
    }
    let line = line.trim_end();
    if line == READY {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((code, message)) = line.split_once(' ')
        && let Ok(code) = code.parse::<u8>()
    {
        eprintln!("cairn: {message}");
        return Ok(ExitCode::from(code));
    }
    bail!("the mount process exited before the mount was ready; see {}", log_path.display())
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write the log {}: name another with --log-file", path.display()))?;
    writeln!(log, "cairn {} mounts in the background", env!("CARGO_PKG_VERSION"))
        .with_context(|| format!("cannot write the log {}: name another with --log-file", path.display()))?;
    Ok(log)
}

/// Options of `mount -o` that are flags of this program, with the flags they stand for.
const HELPER_FLAGS: [(&str, &str); 18] = [
    ("server", "--server"),
    ("key", "--key"),
    ("key_file", "--key-file"),
    ("tls_ca", "--tls-ca"),
    ("cache_size", "--cache-size"),
    ("transport", "--transport"),
    ("cache_dir", "--cache-dir"),
    ("disk_cache_size", "--disk-cache-size"),
    ("threads", "--threads"),
    ("server_timeout", "--server-timeout"),
    ("log_file", "--log-file"),
    ("config", "--config"),
    ("profile", "--profile"),
    ("ro", "--read-only"),
    ("allow_other", "--allow-other"),
    ("nonempty", "--nonempty"),
    ("noatime", "--noatime"),
    ("no_short_circuit", "--no-short-circuit"),
];

/// Options that are meant for mount(8) or systemd and say nothing to a file system.
const IGNORED: [&str; 12] =
    ["rw", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail", "relatime", "suid", "dev"];

/// Turns `mount.fuse.cairn VOLUME DIRECTORY [-sfnv] [-o OPTIONS]` into the arguments of `cairn mount`.
pub(crate) fn from_mount_helper(arguments: &[OsString]) -> Result<Vec<OsString>> {
    let mut result: Vec<OsString> = vec!["cairn".into(), "mount".into()];
    let mut positional = Vec::new();
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"-o" => {
                let options = rest.next().and_then(|options| options.to_str()).unwrap_or_default();
                push_helper_options(options, &mut result);
            }
            b"-t" => {
                rest.next();
            }
            bytes if bytes.starts_with(b"-") => {}
            _ => positional.push(argument.clone()),
        }
    }
    if positional.len() != 2 {
        bail!(WithExit(Exit::Usage, "usage: mount.fuse.cairn VOLUME DIRECTORY [-o OPTIONS]".into()));
    }
    result.push("--".into());
    result.extend(positional);
    Ok(result)
}

fn push_helper_options(options: &str, result: &mut Vec<OsString>) {
    for option in options.split(',').filter(|option| !option.is_empty() && !IGNORED.contains(option)) {
        if option.starts_with("x-") || option.starts_with("comment=") {
            continue;
        }
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match HELPER_FLAGS.iter().find(|(known, _)| *known == name) {
            Some((_, flag)) => {
                result.push((*flag).into());
                result.extend(value.map(OsString::from));
            }
            None => result.extend(["-o".into(), OsString::from(option)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let result = from_mount_helper(&arguments).expect("accepted");
        result.into_iter().map(|argument| argument.into_string().expect("text")).collect()
    }

    #[test]
    fn mount_options_become_flags() {
        let got = helper(&[
            "/sbin/mount.fuse.cairn",
            "models",
            "/workspace",
            "-o",
            "rw,server=host:1,ro,_netdev,nosuid,x-systemd.automount",
        ]);
        let wanted =
            ["cairn", "mount", "--server", "host:1", "--read-only", "-o", "nosuid", "--", "models", "/workspace"];
        assert_eq!(got, wanted);
    }

    #[test]
    fn what_is_missing_is_told() {
        let error = from_mount_helper(&["mount.fuse.cairn".into(), "models".into()]).expect_err("refused");
        assert!(error.to_string().contains("DIRECTORY"));
    }
}
