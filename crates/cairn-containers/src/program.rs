//! Running another program to its end, with a limit on time and on what it may print.

use std::ffi::{OsStr, OsString};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cairn_locks::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::lock_order;

/// Most bytes that are kept of what a program prints, on either stream.
const OUTPUT_MAX: usize = 4 << 20;
/// How long a program that has ended may leave its output open in the hands of its children.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// What became of a program that ended by itself.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What the program said of its failure: the last lines of its error output, or how it ended.
    pub fn complaint(&self) -> String {
        let text = self.stderr.trim();
        let text = if text.is_empty() { self.stdout.trim() } else { text };
        if text.is_empty() {
            return format!("it exited with {}", self.status);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(4)..].join("; ")
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot run {program}: {source}")]
    CannotRun { program: String, source: std::io::Error },
    #[error("{program} did not finish within {limit:?}")]
    TimedOut { program: String, limit: Duration },
}

/// Runs `program` and waits for its end, `limit` at most; then it is killed.
pub async fn run(
    program: &OsStr,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    limit: Duration,
) -> Result<Outcome, RunError> {
    let name = || program.to_string_lossy().into_owned();
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| RunError::CannotRun { program: name(), source })?;
    let stdout = Reader::start(child.stdout.take());
    let stderr = Reader::start(child.stderr.take());
    match timeout(limit, child.wait()).await {
        Ok(Ok(status)) => Ok(Outcome { status, stdout: stdout.finish().await, stderr: stderr.finish().await }),
        Ok(Err(source)) => Err(RunError::CannotRun { program: name(), source }),
        // Killed and collected when `child` is dropped.
        Err(_) => Err(RunError::TimedOut { program: name(), limit }),
    }
}

/// Reads a stream to its end, so that the program is never stopped by a full pipe, and keeps the beginning.
struct Reader {
    kept: Arc<Mutex<Vec<u8>, lock_order::ProgramOutput>>,
    task: JoinHandle<()>,
}

impl Reader {
    fn start(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::<_, lock_order::ProgramOutput>::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0; 16 * 1024];
            // A stream that cannot be read any more has ended as far as its reader is concerned.
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let mut kept = keep.lock();
                let room = OUTPUT_MAX - kept.len();
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
        });
        Reader { kept, task }
    }

    /// What was read, once the stream has ended or its grace is over.
    async fn finish(mut self) -> String {
        if timeout(OUTPUT_GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
        String::from_utf8_lossy(&self.kept.lock()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> Result<Outcome, RunError> {
        run(OsStr::new("sh"), &["-c".into(), script.into()], &[("WORD".into(), "yes".into())], limit).await
    }

    #[tokio::test]
    async fn output_and_status_come_back() {
        let outcome = shell("echo $WORD; echo no >&2; exit 3", Duration::from_secs(10)).await.expect("ran");
        assert_eq!((outcome.stdout.as_str(), outcome.status.code()), ("yes\n", Some(3)));
        assert_eq!(outcome.complaint(), "no");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_and_a_child_that_holds_the_output_is_not_waited_for() {
        let error = shell("sleep 60", Duration::from_millis(200)).await.expect_err("too slow");
        assert!(matches!(error, RunError::TimedOut { .. }));
        let begin = std::time::Instant::now();
        let outcome = shell("echo there; sleep 5 & exit 0", Duration::from_secs(10)).await.expect("ran");
        assert_eq!(outcome.stdout, "there\n");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn much_output_neither_blocks_nor_grows() {
        let outcome = shell("head -c 20000000 /dev/zero", Duration::from_secs(20)).await.expect("ran");
        assert_eq!(outcome.stdout.len(), OUTPUT_MAX);
    }
}
