//! TLS towards a server: whose certificates are trusted, and the handshake.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Wraps `stream`, checking that the server's certificate is valid for `host` and descends from `authority` (a PEM
/// file) or, without one, from a certificate that the system trusts.
///
/// # Errors
/// A sentence that says what is wrong: the file, the name or the server's certificate.
pub(crate) async fn wrap(
    stream: TcpStream,
    host: &str,
    authority: Option<&Path>,
) -> Result<TlsStream<TcpStream>, String> {
    let roots = match authority {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name a certificate can have"))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS handshake with {host} failed: {error}"))
}

fn from_file(path: &Path) -> Result<RootCertStore, String> {
    let unusable = |reason: String| format!("certificate file {} cannot be used: {reason}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("it holds no certificate".into())) } else { Ok(roots) }
}

fn from_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Certificates of the system that cannot be read or parsed do not stand in the way of those that can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this system has no trusted certificates: name the server's with --tls-ca".into());
    }
    Ok(roots)
}
