//! An operator's connection to a server: volumes, keys, status and checks.
//!
//! One question at a time and no reconnecting: a command that fails is given again by whoever gave it.

use std::time::Duration;

use cairn_wire::admin::{AdminReply, AdminRequest};
use cairn_wire::handshake::WelcomeDetail;
use cairn_wire::message::{Answer, Failure};
use cairn_wire::{FrameError, FrameKind, Purpose, Refusal, Request, Response};

use crate::address::ConnectOptions;
use crate::connect::{Connection, OpenError, connect};

/// Longest wait for one answer: deleting a large volume takes its time, a dead server must not take for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a command got no result. Each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "no server answers at {address} ({reason}): start one with `cairn serve`, or name the right one with --server"
    )]
    Unreachable { address: String, reason: String },
    /// The server does not want this client; its own sentence.
    #[error(transparent)]
    Refused(Refusal),
    #[error("{0}")]
    Tls(String),
    #[error("the server at {address} does not behave as a Cairn server of this version ({reason})")]
    Protocol { address: String, reason: String },
    /// The request was understood and failed; the server's own sentence.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("the connection to the server at {address} was lost before it answered ({reason})")]
    Lost { address: String, reason: String },
}

impl From<OpenError> for AdminError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unreachable { address, reason } => AdminError::Unreachable { address, reason },
            OpenError::Refused(refusal) => AdminError::Refused(refusal),
            OpenError::Tls(reason) => AdminError::Tls(reason),
            OpenError::Protocol { address, reason } => AdminError::Protocol { address, reason },
        }
    }
}

/// A connection for an operator's requests. Of no more use after an error other than [`AdminError::Failed`].
pub struct AdminClient {
    connection: Connection,
    address: String,
    correlation: u64,
}

impl AdminClient {
    pub async fn connect(options: &ConnectOptions) -> Result<Self, AdminError> {
        let address = options.address.to_string();
        let connection = connect(options, Purpose::Admin).await?;
        if !matches!(connection.welcome.detail, WelcomeDetail::Admin) {
            return Err(AdminError::Protocol { address, reason: "it took this for another kind of connection".into() });
        }
        Ok(AdminClient { connection, address, correlation: 0 })
    }

    /// Asks and waits for the answer, two minutes at most.
    pub async fn request(&mut self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let lost = |address: &str, reason: String| AdminError::Lost { address: address.to_owned(), reason };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await {
            Ok(Ok(Ok(Answer::Admin(reply)))) => Ok(reply),
            Ok(Ok(Ok(_))) => Err(AdminError::Protocol {
                address: self.address.clone(),
                reason: "its answer does not fit the question".into(),
            }),
            Ok(Ok(Err(failure))) => Err(AdminError::Failed(failure)),
            Ok(Err(error)) => Err(lost(&self.address, error.to_string())),
            Err(_) => Err(lost(&self.address, format!("nothing came within {ANSWER_TIMEOUT:?}"))),
        }
    }

    async fn exchange(&mut self, request: AdminRequest) -> Result<Response, FrameError> {
        self.correlation += 1;
        let Connection { reader, writer, .. } = &mut self.connection;
        writer.write(FrameKind::Request, self.correlation, &Request::Admin(request), &[]).await?;
        loop {
            let frame = reader.read().await?;
            match frame.kind {
                FrameKind::Response if frame.correlation == self.correlation => return frame.decode(),
                FrameKind::Push | FrameKind::Response => {}
                _ => return Err(FrameError::UnexpectedKind),
            }
        }
    }
}
