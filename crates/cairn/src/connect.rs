//! From the flags of [`crate::cli::Connection`] to a server.

use anyhow::{Context, Result};
use cairn_client::{AdminClient, AdminError, ConnectOptions, OpenError, OpenVolumeError, ServerAddress};
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
        AdminError::Unreachable { .. } => Exit::Unreachable,
        AdminError::Refused(_) | AdminError::Failed(_) => Exit::Refused,
        _ => Exit::Failure,
    };
    WithExit(exit, error.to_string()).into()
}

fn open_error(error: OpenError) -> anyhow::Error {
    let exit = match &error {
        OpenError::Unreachable { .. } => Exit::Unreachable,
        OpenError::Refused(_) => Exit::Refused,
        _ => Exit::Failure,
    };
    WithExit(exit, error.to_string()).into()
}

pub(crate) fn open_volume_error(error: OpenVolumeError) -> anyhow::Error {
    match error {
        OpenVolumeError::Session(error) => open_error(error),
        error @ OpenVolumeError::DiskCache(_) => WithExit(Exit::CannotMount, error.to_string()).into(),
    }
}

/// The server answered with something this command did not ask for.
pub(crate) fn unexpected<T>() -> Result<T> {
    Err(WithExit(Exit::Failure, "the server gave an unexpected answer; are client and server the same version?".into())
        .into())
}
