//! TLS towards clients: certificates from files, client certificates, channel binding.

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

/// The common name of a certificate's subject, the last one when there are several (as Postgres takes it).
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let mut signed = Der(Der(Der(certificate).element(SEQUENCE)?).element(SEQUENCE)?);
    let _ = signed.element(0xa0); // version, absent in v1
    signed.element(INTEGER)?; // serial number
    signed.element(SEQUENCE)?; // algorithm
    signed.element(SEQUENCE)?; // issuer
    signed.element(SEQUENCE)?; // validity
    let mut subject = Der(signed.element(SEQUENCE)?);
    let mut name = None;
    while let Some(set) = subject.element(SET) {
        let mut set = Der(set);
        while let Some(attribute) = set.element(SEQUENCE) {
            let mut attribute = Der(attribute);
            if attribute.element(OBJECT_ID) == Some(COMMON_NAME) {
                // a name with a NUL inside could be cut short by whoever compares it: no name at all
                let text = std::str::from_utf8(attribute.any()?.1).ok()?;
                if text.contains('\0') {
                    return None;
                }
                name = Some(text.to_owned());
            }
        }
    }
    name
}

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03]; // 2.5.4.3
/// Reads DER elements one after the other; just enough of it for the question above.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Contents of the next element if it has this tag; otherwise nothing is consumed.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        match self.any() {
            Some((found, contents)) if found == tag => Some(contents),
            _ => {
                self.0 = before;
                None
            }
        }
    }

    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            rest = after;
            bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b))
        };
        let (contents, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "house");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_found() {
        let der = certificate("alice", &rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(common_name(&der).as_deref(), Some("alice"));
        assert_eq!(common_name(&certificate("a\0b", &rcgen::PKCS_ECDSA_P256_SHA256)), None);
    }

    #[test]
    fn every_cut_of_a_certificate_is_survived() {
        let der = certificate("alice", &rcgen::PKCS_ECDSA_P256_SHA256);
        for cut in 0..der.len() {
            assert_eq!(common_name(&der[..cut]), None);
        }
    }
}
