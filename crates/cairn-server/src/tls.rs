//! TLS for the TCP addresses: reads the certificate chain and the key, and makes what accepts connections.
//!
//! TLS 1.3 alone, since both ends are this program. The server shows a certificate and asks for none: clients identify themselves with
//! keys ([`crate::keys`]).

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;

use crate::config::TlsFiles;
use crate::error::ServerError;

/// Reads the files. The error names the one that is at fault.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let failed = |path: &Path, reason: String| ServerError::Tls { path: path.to_path_buf(), reason };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect)
        .map_err(|error| failed(&files.certificates, error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed(&files.certificates, "it holds no certificate in PEM form".to_owned()));
    }
    let private_key = PrivateKeyDer::from_pem_file(&files.private_key)
        .map_err(|error| failed(&files.private_key, error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private_key))
        .map_err(|error| failed(&files.private_key, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
