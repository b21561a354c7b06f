//! TLS towards servers: what is verified in which mode, and the certificate's hash for channel binding.

use crate::backend::options::{Options, TlsMode};
use crate::error::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// What to ask of servers, made once from the options.
#[derive(Debug, Clone)]
pub struct Tls {
    pub mode: TlsMode,
    pub(crate) config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the certificate files. Errors: F0000, naming the option and the file.
    pub fn new(options: &Options) -> Result<Tls> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal(format!("TLS versions: {e}")))?;
        let verify = match options.tls {
            TlsMode::Disable => Verify::Nothing,
            TlsMode::Prefer | TlsMode::Require if options.tls_ca.is_none() => Verify::Nothing,
            TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa => Verify::Authority,
            TlsMode::VerifyFull => Verify::AuthorityAndName,
        };
        let authority = match verify {
            Verify::Nothing => None,
            _ => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(options)?), provider.clone())
                    .build()
                    .map_err(|e| Error::config(format!("tls_ca: {e}")))?,
            ),
        };
        let verifier = Verifier { verify, authority, provider };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (&options.tls_cert, &options.tls_key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "tls_cert")?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| Error::config(format!("tls_key: {}: {e}", key.display())))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| Error::config(format!("tls_cert and tls_key: {e}")))?
            }
            _ => return Err(Error::config("tls_cert and tls_key belong together; one of them is missing")),
        };
        Ok(Tls { mode: options.tls, config: Arc::new(config) })
    }
}

fn certificates(path: &std::path::Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let mistake = |e: &dyn std::fmt::Display| Error::config(format!("{option}: {}: {e}", path.display()));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<_, _>>())
        .map_err(|e| mistake(&e))?;
    if found.is_empty() {
        return Err(mistake(&"holds no certificate in PEM form"));
    }
    Ok(found)
}

fn roots(options: &Options) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match &options.tls_ca {
        Some(path) => {
            for certificate in certificates(path, "tls_ca")? {
                store
                    .add(certificate)
                    .map_err(|e| Error::config(format!("tls_ca: {}: {e}", path.display())))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(system.certs);
            if store.is_empty() {
                return Err(Error::config("no certificate authority was found on this system").hint(
                    "Set tls_ca to the PEM file of the authority that signs the servers' certificates.",
                ));
            }
        }
    }
    Ok(store)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// Signatures of the handshake are checked in every mode: channel binding means nothing when the peer does
/// not own the key of the certificate that it shows.
#[derive(Debug)]
struct Verifier {
    verify: Verify,
    /// `Some` unless nothing is verified
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last: everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Authority => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
