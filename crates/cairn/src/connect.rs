//! From the flags of [`crate::cli::Connection`] to a server.

use anyhow::{Context, Result};
use cairn_client::{AdminClient, AdminError, ConnectError, ConnectOptions, OpenVolumeError, ServerAddress};
use cairn_wire::admin::{AdminReply, AdminRequest};

use crate::cli::Connection;
use crate::exit_code::{Exit, WithExit};
use crate::{paths, runtime};

/// Which server, with which key.
pub(crate) fn options(connection: &Connection) -> Result<ConnectOptions> {
    let address = match &connection.server {
        Some(text) => text.parse::<ServerAddress>().map_err(|error| WithExit(Exit::Usage, error.to_string()))?,
        None => ServerAddress::Unix(paths::socket_in(&paths::data_directory())),
    };
    let key = match (&connection.key, &connection.key_file) {
        (Some(key), _) => Some(key.clone()),
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read key file {}", file.display()))?;
            Some(text.trim().to_owned())
        }
        (None, None) => None,
    };
    let mut options = ConnectOptions::new(address);
    options.key = key;
    options.tls_ca.clone_from(&connection.tls_ca);
    Ok(options)
}

/// Asks the server one thing.
pub(crate) fn ask(connection: &Connection, request: AdminRequest) -> Result<AdminReply> {
    runtime::block_on(async {
        let mut client = admin(connection).await?;
        client.request(request).await.map_err(admin_error)
    })
}

/// A connection for several questions.
pub(crate) async fn admin(connection: &Connection) -> Result<AdminClient> {
    AdminClient::connect(&options(connection)?).await.map_err(admin_error)
}

pub(crate) fn admin_error(error: AdminError) -> anyhow::Error {
    let exit = match &error {
        AdminError::Connect(error) => connect_exit(error),
        AdminError::Failed(_) => Exit::Refused,
        AdminError::Lost { .. } => Exit::Failure,
    };
    WithExit(exit, error.to_string()).into()
}

fn connect_exit(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Unreachable { .. } => Exit::Unreachable,
        ConnectError::Refused(_) => Exit::Refused,
        ConnectError::Tls(_) | ConnectError::Protocol { .. } => Exit::Failure,
    }
}

pub(crate) fn open_volume_error(error: OpenVolumeError) -> anyhow::Error {
    match error {
        OpenVolumeError::Session(error) => WithExit(connect_exit(&error), error.to_string()).into(),
        error @ OpenVolumeError::DiskCache(_) => WithExit(Exit::CannotMount, error.to_string()).into(),
    }
}

/// The server answered with something this command did not ask for.
pub(crate) fn unexpected<T>() -> Result<T> {
    Err(WithExit(Exit::Failure, "the server gave an unexpected answer; are client and server the same version?".into())
        .into())
}

#[cfg(test)]
mod tests {
    use cairn_client::Error;
    use cairn_transfer::TransferError;
    use cairn_types::Errno;
    use cairn_wire::message::Failure;

    use super::*;

    fn said_by_the_server() -> Error {
        Failure { errno: Errno::EDQUOT, message: "the volume \"models\" is full: resize it".into() }.into()
    }

    #[test]
    fn what_the_server_says_is_printed_instead_of_the_text_of_an_error_number() {
        let error = admin_error(AdminError::Failed(said_by_the_server()));
        assert_eq!(format!("{error:#}"), "the volume \"models\" is full: resize it");
        let source = said_by_the_server();
        let error = anyhow::Error::from(TransferError::Volume { action: "write", path: "a/b".into(), source });
        assert_eq!(format!("{error:#}"), "cannot write a/b in the volume: the volume \"models\" is full: resize it");
    }
}
