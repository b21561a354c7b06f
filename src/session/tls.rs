//! TLS towards clients: certificates from files, client certificates, channel binding. Names in certificates are read
//! by [`certificate`](crate::session::certificate).

use crate::error::{Error, Result};
use crate::wire::scram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs};

/// The protocol's name in ALPN, as PostgreSQL 17 registered it.
pub const ALPN: &[u8] = b"postgresql";

crate::choice! {
    /// What is asked of clients.
    pub enum Mode {
        /// SSLRequest is answered with N.
        Disable = "disable",
        /// Clients may use TLS.
        Allow = "allow",
        /// Clients over TCP must use TLS.
        Require = "require",
        /// Clients over TCP must use TLS and show a certificate that `client_ca` signed.
        VerifyCa = "verify-ca",
        /// The same, and the certificate's common name must be the user's name.
        VerifyFull = "verify-full",
    }
}

crate::options! {
    /// TLS towards clients. Reread on reload; sessions keep what they have.
    pub struct Options {
        /// what is asked of clients; with `verify-full` the certificate's common name must be the user
        mode: Mode = Mode::Disable,
        /// the certificate chain, in PEM
        cert: PathBuf = PathBuf::new(),
        /// its private key, in PEM
        key: PathBuf = PathBuf::new(),
        /// authorities that sign client certificates, in PEM
        client_ca: PathBuf = PathBuf::new(),
    }
}

/// What start-up needs for TLS: made from files, swapped whole on reload.
#[derive(Clone)]
pub struct Acceptor {
    pub mode: Mode,
    pub acceptor: TlsAcceptor,
    /// hash of our certificate for `tls-server-end-point`; `None` when the certificate's signature has no hash
    /// (Ed25519): then channel binding is not offered
    pub end_point: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Reads certificate and key. `None` when TLS is off.
pub fn load(options: &Options) -> Result<Option<Acceptor>> {
    if options.mode == Mode::Disable {
        return Ok(None);
    }
    let chain = certificates(&options.cert)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|e| unreadable("key", &options.key, e))?;
    let end_point = scram::tls_server_end_point(&chain[0]).map(Arc::from);
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config(format!("tls: {e}")))?;
    let builder = if options.client_ca.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&options.client_ca)? {
            roots.add(ca).map_err(|e| unreadable("client_ca", &options.client_ca, e))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(aws_lc_rs::default_provider()),
        );
        // Without verify-* a client may, but need not, show a certificate.
        let verifier = match options.mode {
            Mode::VerifyCa | Mode::VerifyFull => verifier,
            Mode::Disable | Mode::Allow | Mode::Require => verifier.allow_unauthenticated(),
        };
        builder.with_client_cert_verifier(
            verifier.build().map_err(|e| unreadable("client_ca", &options.client_ca, e))?,
        )
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| {
        Error::config(format!(
            "tls: certificate {} and key {}: {e}",
            options.cert.display(),
            options.key.display()
        ))
        .hint("the key must be the one that the first certificate of the file was made for")
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(Acceptor { mode: options.mode, acceptor: TlsAcceptor::from(Arc::new(config)), end_point }))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|items| items.collect())
        .map_err(|e| unreadable("certificate", path, e))?;
    if found.is_empty() {
        return Err(Error::config(format!("tls: {} holds no certificate", path.display()))
            .hint("it must be PEM: -----BEGIN CERTIFICATE----- ..."));
    }
    Ok(found)
}

fn unreadable(what: &str, path: &Path, e: impl std::fmt::Display) -> Error {
    Error::config(format!("tls: {what} {}: {e}", path.display()))
}
