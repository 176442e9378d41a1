//! The metrics over HTTP, for Prometheus: `GET /metrics` and nothing else.
//!
//! Deliberately not a web server: one request a connection, a small head within a short time, few connections at once. It asks for no key, so
//! it tells numbers and names of volumes only; by default it is not there.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::ServerState;

const HEAD_MAX: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 16;

/// Answers until the task is ended.
pub(crate) async fn serve(shared: Arc<ServerState>, listener: TcpListener) {
    let mut answering = JoinSet::new();
    loop {
        if answering.len() >= AT_ONCE {
            answering.join_next().await;
        }
        while answering.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the metrics page cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        answering.spawn(async move {
            // A reader of metrics that goes away half way is nobody's concern.
            let _ = timeout(PATIENCE, answer(&shared, stream)).await;
        });
    }
}

async fn answer(shared: &ServerState, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let first_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = first_line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET", b"/metrics") => ("200 OK", shared.metrics_text().await),
        (b"GET", _) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
