//! A proxy inside the test's process whose servers are not there, and clients that speak with it in bytes.

#![allow(dead_code, reason = "each test file uses a part")]

use pgweir::config::{self, Address, Surroundings};
use pgweir::metrics::Metrics;
use pgweir::server::Server;
use pgweir::session::registry::Who;
use pgweir::wire::scram;
use pgweir::wire::{backend, frontend};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Nothing here takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const MAP: &str = "database = 'shop'\nepoch = 1\ndefault_shard = 's1'\n\
                   [[shard]]\nname = 's1'\nnodes = [{ host = '127.0.0.1', port = 1 }]\n";

/// A proxy with one database, `shop`, inside this process.
pub struct House {
    pub server: Option<Server>,
    pub folder: tempfile::TempDir,
}

impl House {
    pub async fn open(toml: &str) -> House {
        House::try_open(toml).await.unwrap_or_else(|e| panic!("{e}"))
    }

    pub async fn try_open(toml: &str) -> pgweir::error::Result<House> {
        House::in_folder(tempfile::tempdir().unwrap(), toml).await
    }

    pub async fn in_folder(folder: tempfile::TempDir, toml: &str) -> pgweir::error::Result<House> {
        std::fs::write(folder.path().join("map.toml"), MAP).unwrap();
        let file = folder.path().join("pgweir.toml");
        std::fs::write(&file, with_database(toml)).unwrap();
        let around = Surroundings::default();
        let config = config::load(Some(&file), &around).map_err(|m| config::refusal(&m))?;
        let server = Server::start(config, around, Metrics::detached()).await?;
        Ok(House { server: Some(server), folder })
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it has not been drained")
    }

    pub fn port(&self) -> u16 {
        match &self.server().addresses()[0] {
            Address::Tcp { port, .. } => *port,
            Address::Unix { .. } => panic!("the first address is TCP"),
        }
    }

    pub async fn dial(&self) -> Wire<TcpStream> {
        Wire(TcpStream::connect(("127.0.0.1", self.port())).await.unwrap())
    }

    /// Rewrites the configuration and reloads it.
    pub async fn reconfigure(&self, toml: &str) -> pgweir::error::Result<()> {
        std::fs::write(self.folder.path().join("pgweir.toml"), with_database(toml)).unwrap();
        self.server().reload().await
    }
}

pub fn with_database(toml: &str) -> String {
    let listen = if toml.contains("listen") { "" } else { "server.listen = ['127.0.0.1:0']\n" };
    format!("{listen}{toml}\n[database.shop]\nmap = 'map.toml'\nlogin_timeout = '1s'\n")
}

pub const TRUST: &str = "auth.method = 'trust'";

/// A client that speaks in bytes.
pub struct Wire<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next message; `None` at the end of the stream.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        bounded(async {
            let mut header = [0; 5];
            self.0.read_exact(&mut header).await.ok()?;
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let mut body = vec![0; length - 4];
            self.0.read_exact(&mut body).await.ok()?;
            Some((header[0], body))
        })
        .await
    }

    /// The next message must be an error; its severity, SQLSTATE and message.
    pub async fn error(&mut self) -> (String, String, String) {
        let (mut tag, mut body) = self.message().await.expect("an error was expected, and the stream ended");
        if tag == b'R' && body == [0; 4] {
            // who it is is known; something else is wrong
            (tag, body) = self.message().await.expect("an error was expected, and the stream ended");
        }
        assert_eq!(char::from(tag), 'E', "{body:?}");
        let fields = backend::ErrorFields::parse(&body).unwrap();
        let field = |code| String::from_utf8(fields.field(code).unwrap_or_default().to_vec()).unwrap();
        (field(b'S'), field(b'C'), field(b'M'))
    }

    pub async fn fatal(&mut self, sqlstate: &str) -> String {
        let (severity, code, message) = self.error().await;
        assert_eq!((&*severity, &*code), ("FATAL", sqlstate), "{message}");
        assert!(self.message().await.is_none(), "the connection must be closed");
        message
    }

    pub async fn authentication(&mut self) -> (u32, Vec<u8>) {
        let (tag, body) = self.message().await.expect("the stream ended");
        if tag == b'E' {
            let fields = backend::ErrorFields::parse(&body).unwrap();
            panic!("{}", fields.to_error("proxy"));
        }
        assert_eq!(char::from(tag), 'R');
        (u32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec())
    }

    pub async fn welcomed(&mut self) {
        assert_eq!(self.authentication().await.0, 0, "AuthenticationOk");
    }

    /// Logs in with SCRAM; the caller reads how it ended.
    pub async fn scram(&mut self, mechanism: &str, password: &str, end_point: Option<Vec<u8>>) {
        let (kind, offered) = self.authentication().await;
        assert_eq!(kind, 10, "AuthenticationSASL");
        let offered: Vec<&[u8]> = offered.split(|b| *b == 0).filter(|m| !m.is_empty()).collect();
        assert_eq!(offered.contains(&&b"SCRAM-SHA-256-PLUS"[..]), end_point.is_some());
        assert!(offered.contains(&mechanism.as_bytes()));
        let credential = scram::Credential::Password { password: password.as_bytes().to_vec(), cached: None };
        let (_, first, state) =
            scram::AwaitServerFirst::start(credential, &offered, end_point.as_deref()).unwrap();
        self.post(|out| frontend::sasl_initial(out, mechanism, &first)).await;
        let (kind, challenge) = self.authentication().await;
        assert_eq!(kind, 11, "AuthenticationSASLContinue");
        let (last, _) = state.challenged(&challenge).unwrap();
        self.post(|out| frontend::sasl_response(out, &last)).await;
    }

    pub async fn post(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        let mut out = bytes::BytesMut::new();
        write(&mut out);
        self.send(&out).await;
    }
}

pub async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it hangs")
}

pub fn login(parameters: &[(&str, &str)]) -> Vec<u8> {
    login_with(196_608, parameters)
}

pub fn login_with(protocol: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    frontend::startup(&mut out, protocol, parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
    out.to_vec()
}

pub fn app() -> Vec<u8> {
    login(&[("user", "app"), ("database", "shop")])
}

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

// What strangers send.

pub struct Certificates {
    pub ca: String,
    pub cert: String,
    pub key: String,
    pub client_cert: String,
    pub client_key: String,
}

pub fn certificates(folder: &Path) -> Certificates {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = signed("proxy");
    let (client_cert, client_key) = signed("app");
    let all = Certificates { ca: ca_pem, cert, key, client_cert, client_key };
    for (name, text) in [("ca.pem", &all.ca), ("cert.pem", &all.cert), ("key.pem", &all.key)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    all
}

pub fn tls_client(certificates: &Certificates, own: bool, alpn: &[&[u8]]) -> TlsConnector {
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.ca.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if own {
        let cert = CertificateDer::from_pem_slice(certificates.client_cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(certificates.client_key.as_bytes()).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub type Encrypted = tokio_rustls::client::TlsStream<TcpStream>;

pub async fn shake(connector: &TlsConnector, wire: Wire<TcpStream>) -> std::io::Result<Wire<Encrypted>> {
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Wire(bounded(connector.connect(name, wire.0)).await?))
}

pub async fn ask_for_tls(wire: &mut Wire<TcpStream>) -> u8 {
    wire.send(&SSL_REQUEST).await;
    bounded(wire.0.read_u8()).await.unwrap()
}

pub async fn tls_house(mode: &str, more: &str) -> (House, Certificates) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = certificates(folder.path());
    let toml = format!(
        "tls = {{ mode = '{mode}', cert = 'cert.pem', key = 'key.pem', client_ca = 'ca.pem' }}\n{more}"
    );
    (House::in_folder(folder, &toml).await.unwrap_or_else(|e| panic!("{e}")), certificates)
}

pub fn who() -> Who {
    Who {
        database: "app".into(),
        user: "app".into(),
        application_name: "".into(),
        peer: None,
        local: None,
        tls: false,
        since: std::time::SystemTime::now(),
    }
}

// Rules.

/// What a client is told when it logs in with this password.
pub async fn outcome(
    house: &House,
    user: &str,
    database: &str,
    password: &str,
) -> Result<(), (String, String)> {
    let mut wire = house.dial().await;
    wire.send(&login(&[("user", user), ("database", database)])).await;
    let (tag, body) = wire.message().await.expect("an authentication request");
    assert_eq!(char::from(tag), 'R');
    match body[3] {
        0 => return let_in(&mut wire).await,
        3 => wire.post(|out| frontend::password(out, password.as_bytes())).await,
        5 => {
            let salt: [u8; 4] = body[4..8].try_into().unwrap();
            let stored = pgweir::wire::md5::stored(user.as_bytes(), password.as_bytes());
            let answer = pgweir::wire::md5::answer(&stored, salt);
            wire.post(|out| frontend::password(out, answer.as_bytes())).await;
        }
        10 => {
            let credential =
                scram::Credential::Password { password: password.as_bytes().to_vec(), cached: None };
            let (mechanism, first, state) =
                scram::AwaitServerFirst::start(credential, &[b"SCRAM-SHA-256"], None).unwrap();
            wire.post(|out| frontend::sasl_initial(out, mechanism, &first)).await;
            let (last, state) = state.challenged(&wire.authentication().await.1).unwrap();
            wire.post(|out| frontend::sasl_response(out, &last)).await;
            let (tag, body) = wire.message().await.expect("a verdict");
            if tag == b'E' {
                return Err(told(&body));
            }
            // the proxy knows the password as well
            state.verify(&body[4..]).unwrap();
        }
        other => panic!("authentication request {other}"),
    }
    match wire.message().await.expect("a verdict") {
        (b'R', body) if body == [0; 4] => let_in(&mut wire).await,
        (b'E', body) => Err(told(&body)),
        other => panic!("{other:?}"),
    }
}

/// After AuthenticationOk: the server behind is not there, but for whoever may not come in it never comes to that.
async fn let_in(wire: &mut Wire<TcpStream>) -> Result<(), (String, String)> {
    match wire.message().await.expect("a verdict") {
        (b'E', body) => match told(&body) {
            (code, _) if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => Ok(()),
            refused => Err(refused),
        },
        _ => Ok(()),
    }
}

pub fn told(body: &[u8]) -> (String, String) {
    let fields = backend::ErrorFields::parse(body).unwrap();
    let field = |code| String::from_utf8(fields.field(code).unwrap_or_default().to_vec()).unwrap();
    assert_eq!(field(b'S'), "FATAL");
    (field(b'C'), field(b'M'))
}
