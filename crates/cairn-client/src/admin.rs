//! An operator's connection to a server: volumes, keys, status and checks.
//!
//! One question at a time and no reconnecting: a command that fails is given again by whoever gave it.

use std::time::Duration;

use cairn_wire::admin::{AdminReply, AdminRequest};
use cairn_wire::handshake::WelcomeDetail;
use cairn_wire::message::Answer;
use cairn_wire::{FrameError, FrameKind, Purpose, Request, Response};

use crate::address::ConnectOptions;
use crate::connect::{ConnectError, Connection, connect};
use crate::error::Error;

/// Longest wait for one answer: deleting a large volume takes its time, a dead server must not take for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a command got no result. Each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no connection, or none of use.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The request was understood and failed; the server's own sentence.
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("the connection to the server at {address} was lost before it answered ({reason})")]
    Lost { address: String, reason: String },
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
            return Err(protocol(&address, "it took this for another kind of connection"));
        }
        Ok(AdminClient { connection, address, correlation: 0 })
    }

    /// Asks and waits for the answer, two minutes at most.
    pub async fn request(&mut self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let lost = |address: &str, reason: String| AdminError::Lost { address: address.to_owned(), reason };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await {
            Ok(Ok(Ok(Answer::Admin(reply)))) => Ok(reply),
            Ok(Ok(Ok(_))) => Err(protocol(&self.address, "it answered with something else than was asked for")),
            Ok(Ok(Err(failure))) => Err(AdminError::Failed(failure.into())),
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

fn protocol(address: &str, reason: &str) -> AdminError {
    ConnectError::Protocol { address: address.to_owned(), reason: reason.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_types::Errno;
    use cairn_wire::message::Failure;
    use cairn_wire::{FrameLimits, FrameReader, FrameWriter, Hello, Refusal, Welcome};
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{self, ServerConfig};

    use super::*;

    /// A server that wants the key `open sesame`, lists no volumes and knows nothing else.
    async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), FrameError> {
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FrameReader::new(read, FrameLimits::SESSION), FrameWriter::new(write));
        let hello: Hello = reader.read().await?.expect(FrameKind::Hello)?;
        let reply: cairn_wire::handshake::HelloReply = if hello.key.as_deref() == Some("open sesame") {
            Ok(Welcome {
                version: cairn_wire::PROTOCOL_VERSION,
                software: "fake".into(),
                boot_id: 1,
                detail: WelcomeDetail::Admin,
            })
        } else {
            Err(Refusal { kind: cairn_wire::RefusalKind::NotAllowed, message: "a key is needed".into() })
        };
        writer.write(FrameKind::Welcome, 0, &reply, &[]).await?;
        loop {
            let frame = reader.read().await?;
            let response: Response = match frame.expect(FrameKind::Request)? {
                Request::Admin(AdminRequest::VolumeList) => Ok(Answer::Admin(AdminReply::Volumes(vec![]))),
                _ => Err(Failure { errno: Errno::ENOENT, message: "no such volume".into() }),
            };
            writer.write(FrameKind::Response, frame.correlation, &response, &[]).await?;
        }
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // How a connection ends is seen by the client under test.
                let _ = match &acceptor {
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => serve(stream).await,
                        Err(_) => continue,
                    },
                    None => serve(stream).await,
                };
            }
        });
        port
    }

    fn options(address: &str) -> ConnectOptions {
        let mut options = ConnectOptions::new(address.parse().expect("address"));
        options.key = Some("open sesame".into());
        options
    }

    #[tokio::test]
    async fn requests_are_answered_or_fail_with_the_servers_sentence() {
        let options = options(&format!("127.0.0.1:{}", listen(None).await));
        let mut client = AdminClient::connect(&options).await.expect("connected");
        for _ in 0..2 {
            assert_eq!(client.request(AdminRequest::VolumeList).await.expect("listed"), AdminReply::Volumes(vec![]));
            let error = client.request(AdminRequest::VolumeShow { volume: "x".into() }).await.expect_err("unknown");
            assert_eq!(error.to_string(), "no such volume");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_the_servers_sentence() {
        let mut options = options(&format!("127.0.0.1:{}", listen(None).await));
        options.key = None;
        let error = AdminClient::connect(&options).await.err().expect("refused");
        assert!(matches!(error, AdminError::Connect(ConnectError::Refused(_))));
        assert_eq!(error.to_string(), "a key is needed");
    }

    #[tokio::test]
    async fn tls_trusts_the_given_authority_alone() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("version")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("usable");
        let port = listen(Some(TlsAcceptor::from(Arc::new(config)))).await;
        let directory = tempfile::tempdir().expect("directory");
        let authority = directory.path().join("ca.pem");
        std::fs::write(&authority, made.cert.pem()).expect("written");

        let mut options = options(&format!("tls://localhost:{port}"));
        options.tls_ca = Some(authority.clone());
        let mut client = AdminClient::connect(&options).await.expect("trusted");
        client.request(AdminRequest::VolumeList).await.expect("listed");
        drop(client);

        options.tls_ca = Some(directory.path().join("absent.pem"));
        let error = AdminClient::connect(&options).await.err().expect("no such file").to_string();
        assert!(error.contains("absent.pem"), "{error}");
        let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        std::fs::write(&authority, other.cert.pem()).expect("written");
        options.tls_ca = Some(authority);
        assert!(matches!(AdminClient::connect(&options).await.err(), Some(AdminError::Connect(ConnectError::Tls(_)))));
    }
}
