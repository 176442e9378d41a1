//! The first frame of a connection: is it one of ours, which version do both speak, who is it, what does it want.
//!
//! Nothing is believed here before it is checked, and nothing large is read. A peer that is not let in gets one sentence that
//! says why and what to do.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cairn_engine::{AttachmentId, PushReceiver, Volume, push_channel};
use cairn_types::SessionId;
use cairn_wire::handshake::{HelloReply, SessionSecret, WelcomeDetail};
use cairn_wire::{
    FrameError, FrameKind, Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, Purpose, Refusal, RefusalKind, Welcome,
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::SOFTWARE;
use crate::catalogue::CatalogueError;
use crate::connections::Registration;
use crate::keys::{Access, Keys};
use crate::link::{LinkReader, LinkWriter, ReadError};
use crate::server::ServerState;

/// Who is at the other end, as far as the operating system says.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// For logs and `cairn status`.
    pub(crate) name: String,
    pub(crate) trust: Trust,
    /// The connection itself, if descriptors may be sent over it: a Unix socket to somebody who may read the server's
    /// files anyway.
    pub(crate) socket: Option<Arc<OwnedFd>>,
}

/// What a peer may do without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// On the Unix socket, of the server's own user or root: everything.
    Owner,
    /// On the Unix socket, of somebody else: nothing, not even with a key.
    OtherUser,
    /// On TCP: nothing without a key.
    Network,
}

/// A session's control connection, for as long as it is attached: dropping it tells the volume.
pub(crate) struct Attachment {
    pub(crate) volume: Arc<Volume>,
    pub(crate) session: SessionId,
    id: AttachmentId,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.volume.detach(self.session, self.id);
    }
}

/// What a connection is for, once it was let in.
pub(crate) enum Role {
    Control {
        attachment: Attachment,
        pushes: PushReceiver,
    },
    Data {
        volume: Arc<Volume>,
        session: SessionId,
    },
    /// Descriptors of the volume's packs go over `socket`.
    Packs {
        volume: Arc<Volume>,
        socket: Arc<OwnedFd>,
    },
    Admin(Access),
}

/// Why a connection ended before it was let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("no greeting came in time")]
    TooSlow,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the answer to the greeting could not be sent: {0}")]
    Send(FrameError),
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// Reads the greeting, answers it, and tells what the connection is for.
pub(crate) async fn greet(
    shared: &Arc<ServerState>,
    reader: &mut LinkReader,
    writer: &LinkWriter,
    registration: &mut Registration,
    peer: &Peer,
    deadline: Instant,
) -> Result<Role, GreetingError> {
    let frame = timeout_at(deadline, reader.read()).await.map_err(|_| GreetingError::TooSlow)??;
    let decided = match frame.expect::<Hello>(FrameKind::Hello) {
        Ok(hello) => {
            let software = hello.software.clone();
            let decided = decide(shared, hello, registration, peer).await;
            if decided.is_ok() {
                tracing::debug!(peer = peer.name, software, "connection let in");
            }
            decided
        }
        // Its checksum was right, so it is a greeting of a client that writes it in another way.
        Err(FrameError::Codec(_)) => Err(Refusal {
            kind: RefusalKind::VersionMismatch,
            message: "the server cannot read this client's greeting: use the same version of cairn on both sides"
                .to_owned(),
        }),
        Err(error) => return Err(ReadError::from(error).into()),
    };
    match decided {
        Ok((welcome, role)) => {
            let reply: HelloReply = Ok(welcome);
            writer.send(FrameKind::Welcome, 0, &reply, &[]).await.map_err(GreetingError::Send)?;
            reader.let_in();
            registration.greeted();
            Ok(role)
        }
        Err(refusal) => {
            let reply: HelloReply = Err(refusal.clone());
            writer.send(FrameKind::Welcome, 0, &reply, &[]).await.map_err(GreetingError::Send)?;
            Err(GreetingError::Refused(refusal))
        }
    }
}

async fn decide(
    shared: &Arc<ServerState>,
    hello: Hello,
    registration: &Registration,
    peer: &Peer,
) -> Result<(Welcome, Role), Refusal> {
    let version = common_version(hello.versions)?;
    let access = identify(&shared.keys, hello.key.as_deref(), registration, peer)?;
    let (detail, role) = match hello.purpose {
        Purpose::Admin => (WelcomeDetail::Admin, Role::Admin(access)),
        Purpose::Data { session, secret } => {
            let volume = find_session(shared, &access, session, secret)?;
            (WelcomeDetail::Data, Role::Data { volume, session })
        }
        Purpose::Packs { session, secret } => {
            let socket = peer
                .socket
                .clone()
                .ok_or_else(|| not_allowed("files of the server are handed over its Unix socket alone".to_owned()))?;
            let volume = find_session(shared, &access, session, secret)?;
            (WelcomeDetail::Packs, Role::Packs { volume, socket })
        }
        Purpose::Session { volume: wanted, info, resume } => {
            let id = shared.catalogue.resolve(&wanted, |id| access.opens(id)).map_err(|error| match error {
                CatalogueError::UnknownVolume(_) if !access.is_admin() => {
                    not_allowed(format!("there is no volume {wanted:?} that this key opens"))
                }
                error => error.into(),
            })?;
            // A volume that takes long to open goes on opening meanwhile: the client comes again.
            let limit = shared.config.limits.handshake;
            let volume = match timeout(limit, shared.catalogue.open_volume(&id)).await {
                Ok(opened) => opened?,
                Err(_) => return Err(CatalogueError::Opening(id).into()),
            };
            let (sender, pushes) = push_channel();
            let attached = timeout(limit, volume.attach(info, peer.name.clone(), resume, sender)).await;
            let (welcome, attachment) = attached.map_err(|_| CatalogueError::Busy(id))??;
            let attachment = Attachment { volume: volume.shared(), session: welcome.session, id: attachment };
            (WelcomeDetail::Session(Box::new(welcome)), Role::Control { attachment, pushes })
        }
    };
    Ok((Welcome { version, software: SOFTWARE.to_owned(), boot_id: shared.boot_id, detail }, role))
}

/// The newest version that both sides speak.
fn common_version((oldest, newest): (u32, u32)) -> Result<u32, Refusal> {
    let version = newest.min(PROTOCOL_VERSION);
    if oldest <= newest && version >= oldest.max(PROTOCOL_VERSION_OLDEST) {
        return Ok(version);
    }
    let remedy = if oldest > PROTOCOL_VERSION { "upgrade the server" } else { "upgrade the client" };
    Err(Refusal {
        kind: RefusalKind::VersionMismatch,
        message: format!(
            "the server speaks protocol versions {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}, the client {oldest} to \
             {newest}: {remedy}"
        ),
    })
}

fn identify(keys: &Keys, key: Option<&str>, registration: &Registration, peer: &Peer) -> Result<Access, Refusal> {
    match peer.trust {
        Trust::Owner => return Ok(Access::everything()),
        Trust::OtherUser => {
            let message = "the Unix socket serves the user who runs the server, and root: connect by TCP with a key";
            return Err(not_allowed(message.to_owned()));
        }
        Trust::Network => {}
    }
    let Some(key) = key else {
        let message = "the server asks for a key on TCP: `cairn key create`, run where the server is, makes one";
        return Err(not_allowed(message.to_owned()));
    };
    if let Some(id) = Keys::id_of(key) {
        registration.claim_key(id);
    }
    keys.check(key).ok_or_else(|| not_allowed("the key is unknown or was revoked".to_owned()))
}

/// The volume whose session this is. Numbers of sessions are each volume's own: the secret tells which is meant.
fn find_session(
    shared: &ServerState,
    access: &Access,
    session: SessionId,
    secret: SessionSecret,
) -> Result<Arc<Volume>, Refusal> {
    // "Gone" makes the client give up what it holds: it must not be said before every volume was asked.
    let mut refusal = if shared.catalogue.all_open(|id| access.opens(id)) {
        let message = "the server knows no such session: open the control connection first".to_owned();
        Refusal { kind: RefusalKind::SessionGone, message }
    } else {
        let message = "the volume of this session is not open yet: try again later".to_owned();
        Refusal { kind: RefusalKind::Busy, message }
    };
    for volume in shared.catalogue.open_volumes() {
        if !access.opens(&volume.info().id) {
            continue;
        }
        match volume.check_data_connection(session, secret) {
            Ok(()) => return Ok(volume),
            Err(reason) if refusal.kind == RefusalKind::SessionGone => refusal = reason,
            Err(_) => {}
        }
    }
    Err(refusal)
}

fn not_allowed(message: String) -> Refusal {
    Refusal { kind: RefusalKind::NotAllowed, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let oldest = PROTOCOL_VERSION_OLDEST;
        assert_eq!(common_version((oldest, oldest)).ok(), Some(oldest));
        assert_eq!(common_version((0, 7)).ok(), Some(PROTOCOL_VERSION));
        let too_new = common_version((PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2)).expect_err("mismatch");
        assert!(too_new.message.contains("upgrade the server"), "{too_new}");
        let too_old = common_version((0, 0)).expect_err("mismatch");
        assert!(too_old.message.contains("upgrade the client"), "{too_old}");
        assert!(common_version((1, 0)).is_err(), "an empty range");
    }
}
