//! A way to the server that can be shut for what the client says, while what the server says still arrives.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Forwards connections at its own socket to the server's.
pub(crate) struct Gate {
    pub(crate) socket: PathBuf,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new(directory: &Path, server: PathBuf) -> Gate {
        let socket = directory.join("gate.sock");
        let listener = UnixListener::bind(&socket).expect("gate");
        let (open, passage) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is not there shows as a connection that ends at once.
                let Ok(server) = UnixStream::connect(&server).await else { continue };
                tokio::spawn(forward(client, server, passage.clone()));
            }
        });
        Gate { socket, open }
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn forward(client: UnixStream, server: UnixStream, mut passage: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_client.read(&mut buffer).await.unwrap_or(0);
            let _ = passage.wait_for(|open| *open).await;
            if length == 0 || to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let answers = tokio::io::copy(&mut from_server, &mut to_client);
    // Whichever side ends, both are cut.
    tokio::select! {
        () = requests => {}
        _ = answers => {}
    }
}
