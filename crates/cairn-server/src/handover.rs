//! Hands descriptors of packs to a client on this host, which then reads blobs by itself.
//!
//! One connection for each session that wants it, over the Unix socket alone and only to the server's own user or root
//! ([`crate::greeting::Peer::socket`]), who may read these files anyway. Descriptors are for reading. They go along with the
//! answer to `OpenPack`, in its one message, which nothing else is sent between.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use cairn_engine::Volume;
use cairn_types::Errno;
use cairn_wire::message::{Answer, Failure};
use cairn_wire::{FrameKind, FrameWriter, Request, Response};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::link::{LinkReader, ReadError};

/// Why no more descriptors are handed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverEnd {
    #[error(transparent)]
    Read(ReadError),
    #[error("a descriptor could not be sent: {0}")]
    Send(std::io::Error),
}

/// Answers requests until the connection ends.
pub(crate) async fn serve(volume: &Volume, socket: &OwnedFd, reader: &mut LinkReader) -> HandoverEnd {
    loop {
        let asked = reader.read().await.and_then(|frame| {
            let request: Request = frame.expect(FrameKind::Request)?;
            Ok((frame.correlation, request))
        });
        let (correlation, request) = match asked {
            Ok(asked) => asked,
            Err(error) => return HandoverEnd::Read(error),
        };
        let opened = if let Request::OpenPack { pack } = request {
            volume.open_pack(pack)
        } else {
            let message = "this connection is for descriptors of packs only".to_owned();
            Err(Failure { errno: Errno::EINVAL, message })
        };
        let (response, file): (Response, _) = match opened {
            Ok(file) => (Ok(Answer::Done), Some(file)),
            Err(failure) => (Err(failure), None),
        };
        let mut bytes = Vec::new();
        if let Err(error) = FrameWriter::new(&mut bytes).write(FrameKind::Response, correlation, &response, &[]).await {
            return HandoverEnd::Send(std::io::Error::other(error));
        }
        if let Err(error) = send(socket, &bytes, file.as_ref()) {
            return HandoverEnd::Send(error);
        }
    }
}

/// Sends one short message. The peer has taken the answers before it, or it does not get this one: one that lets so many lie
/// that there is no room is not worth waiting for.
fn send(socket: &OwnedFd, bytes: &[u8], file: Option<&std::fs::File>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = file.map(|file| [file.as_fd()]);
    if let Some(descriptors) = &descriptors
        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(std::io::Error::other("there is no room for a descriptor"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    if sent == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}
