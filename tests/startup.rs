//! From accept to AuthenticationOk, with real sockets: what strangers can send, who gets in, reload and drain.
//!
//! The servers behind the map are not there (port 1), on purpose: nothing here needs one. What a whole session
//! answers is tested elsewhere.

use pgweir::config::{self, Address, Surroundings};
use pgweir::metrics::Metrics;
use pgweir::server::Server;
use pgweir::session::registry::Who;
use pgweir::wire::scram;
use pgweir::wire::{backend, frontend};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const MAP: &str = "database = 'shop'\nepoch = 1\ndefault_shard = 's1'\n\
                   [[shard]]\nname = 's1'\nnodes = [{ host = '127.0.0.1', port = 1 }]\n";

/// A proxy with one database, `shop`, inside this process.
struct House {
    server: Option<Server>,
    folder: tempfile::TempDir,
}

impl House {
    async fn open(toml: &str) -> House {
        House::try_open(toml).await.unwrap_or_else(|e| panic!("{e}"))
    }

    async fn try_open(toml: &str) -> pgweir::error::Result<House> {
        House::in_folder(tempfile::tempdir().unwrap(), toml).await
    }

    async fn in_folder(folder: tempfile::TempDir, toml: &str) -> pgweir::error::Result<House> {
        std::fs::write(folder.path().join("map.toml"), MAP).unwrap();
        let file = folder.path().join("pgweir.toml");
        std::fs::write(&file, with_database(toml)).unwrap();
        let around = Surroundings::default();
        let config = config::load(Some(&file), &around).map_err(|m| config::refusal(&m))?;
        let server = Server::start(config, around, Metrics::detached()).await?;
        Ok(House { server: Some(server), folder })
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it has not been drained")
    }

    fn port(&self) -> u16 {
        match &self.server().addresses()[0] {
            Address::Tcp { port, .. } => *port,
            Address::Unix { .. } => panic!("the first address is TCP"),
        }
    }

    async fn dial(&self) -> Wire<TcpStream> {
        Wire(TcpStream::connect(("127.0.0.1", self.port())).await.unwrap())
    }

    /// Rewrites the configuration and reloads it.
    async fn reconfigure(&self, toml: &str) -> pgweir::error::Result<()> {
        std::fs::write(self.folder.path().join("pgweir.toml"), with_database(toml)).unwrap();
        self.server().reload().await
    }
}

fn with_database(toml: &str) -> String {
    let listen = if toml.contains("listen") { "" } else { "server.listen = ['127.0.0.1:0']\n" };
    format!("{listen}{toml}\n[database.shop]\nmap = 'map.toml'\nlogin_timeout = '1s'\n")
}

const TRUST: &str = "auth.method = 'trust'";

/// A client that speaks in bytes.
struct Wire<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next message; `None` at the end of the stream.
    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
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
    async fn error(&mut self) -> (String, String, String) {
        let (tag, body) = self.message().await.expect("an error was expected, and the stream ended");
        assert_eq!(char::from(tag), 'E', "{body:?}");
        let fields = backend::ErrorFields::parse(&body).unwrap();
        let field = |code| String::from_utf8(fields.field(code).unwrap_or_default().to_vec()).unwrap();
        (field(b'S'), field(b'C'), field(b'M'))
    }

    async fn fatal(&mut self, sqlstate: &str) -> String {
        let (severity, code, message) = self.error().await;
        assert_eq!((&*severity, &*code), ("FATAL", sqlstate), "{message}");
        assert!(self.message().await.is_none(), "the connection must be closed");
        message
    }

    async fn authentication(&mut self) -> (u32, Vec<u8>) {
        let (tag, body) = self.message().await.expect("the stream ended");
        if tag == b'E' {
            let fields = backend::ErrorFields::parse(&body).unwrap();
            panic!("{}", fields.to_error("proxy"));
        }
        assert_eq!(char::from(tag), 'R');
        (u32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec())
    }

    async fn welcomed(&mut self) {
        assert_eq!(self.authentication().await.0, 0, "AuthenticationOk");
    }

    /// Logs in with SCRAM; the caller reads how it ended.
    async fn scram(&mut self, mechanism: &str, password: &str, end_point: Option<Vec<u8>>) {
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

    async fn post(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        let mut out = bytes::BytesMut::new();
        write(&mut out);
        self.send(&out).await;
    }
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it hangs")
}

fn login(parameters: &[(&str, &str)]) -> Vec<u8> {
    login_with(196_608, parameters)
}

fn login_with(protocol: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    frontend::startup(&mut out, protocol, parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
    out.to_vec()
}

fn app() -> Vec<u8> {
    login(&[("user", "app"), ("database", "shop")])
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

// What strangers send.

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_may_come_byte_by_byte() {
    let house = House::open(TRUST).await;
    let mut wire = house.dial().await;
    wire.0.set_nodelay(true).unwrap();
    for byte in app() {
        wire.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    wire.welcomed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_lengths_are_refused_at_once() {
    let house = House::open(TRUST).await;
    for length in [0u32, 1, 4, 7, 10_001, 1 << 30, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let mut wire = house.dial().await;
        wire.send(&length.to_be_bytes()).await;
        wire.fatal("08P01").await;
    }
    // and where a password is awaited
    let house = House::open(
        "auth = { method = 'password', allow_cleartext = true }\n[[user]]\nname='app'\npassword='x'",
    )
    .await;
    for length in [0u32, 3, 10_001, 0x7fff_ffff, 0xffff_ffff] {
        let mut wire = house.dial().await;
        wire.send(&app()).await;
        assert_eq!(wire.authentication().await.0, 3);
        wire.send(&[&b"p"[..], &length.to_be_bytes()].concat()).await;
        wire.fatal("08P01").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_postgres_is_refused() {
    let house = House::open(TRUST).await;
    for (bytes, sqlstate) in [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01"),
        (login_with(2 << 16, &[("user", "app")]), "0A000"),
        (login_with(4 << 16, &[("user", "app")]), "0A000"),
        (login(&[("database", "shop")]), "28000"),
        (b"\0\0\0\x10\0\x03\0\0user\0u\0x".to_vec(), "08P01"),
        (login(&[("user", "app"), ("database", "shop"), ("replication", "database")]), "0A000"),
    ] {
        let mut wire = house.dial().await;
        wire.send(&bytes).await;
        wire.fatal(sqlstate).await;
    }
    // a user's name that is not text
    let mut wire = house.dial().await;
    wire.send(b"\0\0\0\x11\0\x03\0\0user\0\xff\xfe\0\0").await;
    wire.fatal("22021").await;
    // something else than a password
    let house = House::open("[[user]]\nname='app'\npassword='x'").await;
    let mut wire = house.dial().await;
    wire.send(&app()).await;
    wire.authentication().await;
    wire.send(b"Q\0\0\0\x0dSELECT 1\0").await;
    wire.fatal("08P01").await;
}

#[test]
fn no_bytes_stop_the_proxy() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let house = runtime.block_on(House::open("server.startup_timeout = '2s'\nauth.method = 'trust'"));
    proptest!(ProptestConfig::with_cases(150), |(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        honest: bool,
        code in 0usize..6,
    )| {
        if honest && bytes.len() >= 8 {
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            let codes: [u32; 6] = [80_877_102, 80_877_103, 80_877_104, 196_608, 196_610, 80_877_105];
            bytes[4..8].copy_from_slice(&codes[code].to_be_bytes());
        }
        runtime.block_on(async {
            let mut wire = house.dial().await;
            // the proxy may have closed already
            let _ = wire.0.write_all(&bytes).await;
            let _ = wire.0.shutdown().await;
            let mut answer = Vec::new();
            let _ = bounded(wire.0.read_to_end(&mut answer)).await;
        });
    });
    runtime.block_on(async {
        let mut wire = house.dial().await;
        wire.send(&app()).await;
        wire.welcomed().await;
        assert!(house.server().registry().len() <= 1, "nobody else got in");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_meet_the_deadline() {
    let house = House::open(
        "server.startup_timeout = '400ms'\nauth = { method = 'password', allow_cleartext = true }\n[[user]]\nname='app'\npassword='x'",
    )
    .await;
    // before the packet is complete nobody is told, as in Postgres
    for part in [&[][..], &app()[..9]] {
        let begun = Instant::now();
        let mut wire = house.dial().await;
        wire.send(part).await;
        assert!(wire.message().await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(400));
    }
    let mut wire = house.dial().await;
    wire.send(&app()).await;
    assert_eq!(wire.authentication().await.0, 3);
    assert_eq!(wire.fatal("57014").await, "canceling authentication due to timeout");
}

// Versions and options.

#[tokio::test(flavor = "multi_thread")]
async fn newer_protocols_are_negotiated() {
    let house = House::open(TRUST).await;
    for (asked, option, answer) in [
        (196_610, None, None),
        (196_611, None, Some((196_610, 0))),
        (196_608 + 9999, None, Some((196_610, 0))),
        (196_608, Some("_pq_.shiny"), Some((196_608, 1))),
    ] {
        let mut parameters = vec![("user", "app"), ("database", "shop")];
        parameters.extend(option.map(|o| (o, "1")));
        let mut wire = house.dial().await;
        wire.send(&login_with(asked, &parameters)).await;
        if let Some((newest, unknown)) = answer {
            let (tag, body) = wire.message().await.unwrap();
            assert_eq!(char::from(tag), 'v');
            assert_eq!(u32::from_be_bytes(body[..4].try_into().unwrap()), newest);
            assert_eq!(u32::from_be_bytes(body[4..8].try_into().unwrap()), unknown);
        }
        wire.welcomed().await;
    }
}

// TLS.

struct Certificates {
    ca: String,
    cert: String,
    key: String,
    client_cert: String,
    client_key: String,
}

fn certificates(folder: &Path) -> Certificates {
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

fn tls_client(certificates: &Certificates, own: bool, alpn: &[&[u8]]) -> TlsConnector {
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

type Encrypted = tokio_rustls::client::TlsStream<TcpStream>;

async fn shake(connector: &TlsConnector, wire: Wire<TcpStream>) -> std::io::Result<Wire<Encrypted>> {
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Wire(bounded(connector.connect(name, wire.0)).await?))
}

async fn ask_for_tls(wire: &mut Wire<TcpStream>) -> u8 {
    wire.send(&SSL_REQUEST).await;
    bounded(wire.0.read_u8()).await.unwrap()
}

async fn tls_house(mode: &str, more: &str) -> (House, Certificates) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = certificates(folder.path());
    let toml = format!(
        "tls = {{ mode = '{mode}', cert = 'cert.pem', key = 'key.pem', client_ca = 'ca.pem' }}\n{more}"
    );
    (House::in_folder(folder, &toml).await.unwrap_or_else(|e| panic!("{e}")), certificates)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_after_a_request_and_at_once() {
    let (house, certificates) = tls_house("allow", TRUST).await;
    let mut plain = house.dial().await;
    plain.send(&app()).await;
    plain.welcomed().await;

    let mut wire = house.dial().await;
    wire.send(&GSS_REQUEST).await;
    assert_eq!(bounded(wire.0.read_u8()).await.unwrap(), b'N');
    assert_eq!(ask_for_tls(&mut wire).await, b'S');
    let mut wire = shake(&tls_client(&certificates, false, &[]), wire).await.unwrap();
    wire.send(&app()).await;
    wire.welcomed().await;

    let direct = tls_client(&certificates, false, &[b"postgresql"]);
    let mut wire = shake(&direct, house.dial().await).await.unwrap();
    wire.send(&app()).await;
    wire.welcomed().await;

    // without ALPN, or for another protocol, a direct handshake is not for us
    let mut wire = shake(&tls_client(&certificates, false, &[]), house.dial().await).await.unwrap();
    let _ = wire.0.write_all(&app()).await;
    assert!(wire.message().await.is_none());
    assert!(shake(&tls_client(&certificates, false, &[b"h2"]), house.dial().await).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_in_front_of_a_handshake_is_never_read() {
    let (house, certificates) = tls_house("allow", TRUST).await;
    for injected in [app(), b"x".to_vec()] {
        let mut wire = house.dial().await;
        wire.send(&[&SSL_REQUEST[..], &injected].concat()).await;
        assert!(bounded(wire.0.read_u8()).await.is_err(), "closed without an answer");
    }
    // whatever arrives later, but before the handshake, is no TLS record
    let mut wire = house.dial().await;
    assert_eq!(ask_for_tls(&mut wire).await, b'S');
    wire.send(&app()).await;
    assert!(shake(&tls_client(&certificates, false, &[]), wire).await.is_err());
    assert_eq!(house.server().registry().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_can_be_asked_for_once() {
    let house = House::open(TRUST).await;
    let mut wire = house.dial().await;
    // no certificate: N, and the client may go on in plain text
    assert_eq!(ask_for_tls(&mut wire).await, b'N');
    wire.send(&app()).await;
    wire.welcomed().await;
    for request in [GSS_REQUEST, SSL_REQUEST] {
        let mut wire = house.dial().await;
        wire.send(&request).await;
        assert_eq!(bounded(wire.0.read_u8()).await.unwrap(), b'N');
        wire.send(&request).await;
        wire.fatal("08P01").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_client_certificates_can_be_required() {
    let (house, certificates) = tls_house("require", TRUST).await;
    let mut plain = house.dial().await;
    plain.send(&app()).await;
    plain.fatal("28000").await;
    let mut wire = house.dial().await;
    ask_for_tls(&mut wire).await;
    let mut wire = shake(&tls_client(&certificates, false, &[]), wire).await.unwrap();
    wire.send(&app()).await;
    wire.welcomed().await;

    let (house, certificates) = tls_house("verify-full", TRUST).await;
    for (own, user, allowed) in [(true, "app", true), (true, "boss", false), (false, "app", false)] {
        let mut wire = house.dial().await;
        ask_for_tls(&mut wire).await;
        // with TLS 1.3 the client learns only afterwards that its certificate was missed
        let mut wire = shake(&tls_client(&certificates, own, &[]), wire).await.unwrap();
        let _ = wire.0.write_all(&login(&[("user", user), ("database", "shop")])).await;
        match (own, allowed) {
            (_, true) => wire.welcomed().await,
            (true, false) => {
                let message = wire.fatal("28000").await;
                assert_eq!(message, "certificate authentication failed for user \"boss\"");
            }
            (false, false) => assert!(wire.message().await.is_none()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_binds_to_the_channel() {
    let (house, certificates) = tls_house("allow", "[[user]]\nname='app'\npassword='sesame'").await;
    let der = CertificateDer::from_pem_slice(certificates.cert.as_bytes()).unwrap();
    let end_point = scram::tls_server_end_point(&der).unwrap();
    for (password, right_channel) in [("sesame", true), ("wrong", true), ("sesame", false)] {
        let mut wire = house.dial().await;
        ask_for_tls(&mut wire).await;
        let mut wire = shake(&tls_client(&certificates, false, &[]), wire).await.unwrap();
        wire.send(&app()).await;
        let seen = if right_channel { end_point.clone() } else { vec![7; 32] };
        wire.scram("SCRAM-SHA-256-PLUS", password, Some(seen)).await;
        match (password, right_channel) {
            ("sesame", true) => {
                assert_eq!(wire.authentication().await.0, 12);
                wire.welcomed().await;
            }
            (_, true) => {
                wire.fatal("28P01").await;
            }
            (_, false) => {
                wire.fatal("28000").await;
            }
        }
    }
}

// Passwords.

/// What a client is told when it logs in with this password.
async fn outcome(house: &House, user: &str, database: &str, password: &str) -> Result<(), (String, String)> {
    let mut wire = house.dial().await;
    wire.send(&login(&[("user", user), ("database", database)])).await;
    let (tag, body) = wire.message().await.expect("an authentication request");
    assert_eq!(char::from(tag), 'R');
    match body[3] {
        0 => return Ok(()),
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
        (b'R', body) if body == [0; 4] => Ok(()),
        (b'E', body) => Err(told(&body)),
        other => panic!("{other:?}"),
    }
}

fn told(body: &[u8]) -> (String, String) {
    let fields = backend::ErrorFields::parse(body).unwrap();
    let field = |code| String::from_utf8(fields.field(code).unwrap_or_default().to_vec()).unwrap();
    assert_eq!(field(b'S'), "FATAL");
    (field(b'C'), field(b'M'))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_with_every_kind_of_stored_password() {
    let verifier = scram::Verifier::from_password(b"sesame", b"0123456789abcdef", 4096).to_string();
    let digest = pgweir::wire::md5::stored(b"app", b"sesame");
    let failed =
        |user: &str| Err(("28P01".to_owned(), format!("password authentication failed for user \"{user}\"")));
    for method in ["scram-sha-256", "md5", "password"] {
        for stored in ["sesame", &verifier, &digest] {
            if method == "scram-sha-256" && stored == digest {
                continue;
            }
            let house =
                House::open(&format!("auth={{ method='{method}', allow_cleartext=true }}\n[[user]]\nname='app'\npassword='{stored}'"))
                    .await;
            let context = format!("{method} with {stored}");
            assert_eq!(outcome(&house, "app", "shop", "sesame").await, Ok(()), "{context}");
            assert_eq!(outcome(&house, "app", "shop", "Sesame").await, failed("app"), "{context}");
            assert_eq!(outcome(&house, "nobody", "shop", "sesame").await, failed("nobody"), "{context}");
            // who cannot log in does not learn which databases there are
            assert_eq!(outcome(&house, "app", "nowhere", "Sesame").await, failed("app"), "{context}");
            assert_eq!(
                outcome(&house, "app", "nowhere", "sesame").await,
                Err(("3D000".into(), "database \"nowhere\" does not exist".into())),
                "{context}"
            );
        }
    }
    let house = House::open(
        "auth = { method = 'password', allow_cleartext = true }\n[[user]]\nname='app'\npassword='sesame'",
    )
    .await;
    let empty = outcome(&house, "app", "shop", "").await;
    assert_eq!(empty, Err(("28P01".into(), "empty password returned by client".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_named_like_the_user_unless_given() {
    let house = House::open(TRUST).await;
    let mut wire = house.dial().await;
    wire.send(&login(&[("user", "shop")])).await;
    wire.welcomed().await;
    let mut wire = house.dial().await;
    wire.send(&login(&[("user", "app"), ("database", "")])).await;
    assert_eq!(wire.fatal("3D000").await, "database \"app\" does not exist");
}

// Limits, cancel requests, reload, drain.

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients_are_told_so() {
    let house = House::open(&format!("server.max_clients = 3\n{TRUST}")).await;
    let refuse = |mut wire: Wire<TcpStream>| async move {
        wire.send(&app()).await;
        assert_eq!(wire.fatal("53300").await, "sorry, too many clients already");
    };
    let permits = house.server().admission();
    let held: Vec<_> = (0..3).map(|_| permits.clone().try_acquire_owned().unwrap()).collect();
    refuse(house.dial().await).await;
    // cancel requests and refused logins need no room
    let mut wire = house.dial().await;
    wire.post(|out| frontend::cancel_request(out, 1, &[0; 4])).await;
    assert!(wire.message().await.is_none());
    drop(held);
    let mut wire = house.dial().await;
    wire.send(&app()).await;
    wire.welcomed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_log_in_at_once() {
    // the clients' key derivations take seconds in a debug build
    let house = House::open(
        "server.startup_timeout = '1min'\nauth.failed_logins = 0\n[[user]]\nname='app'\npassword='sesame'",
    )
    .await;
    let verdicts =
        futures_util::future::join_all(
            (0..100).map(|i| {
                let house = &house;
                async move {
                    outcome(house, "app", "shop", if i % 2 == 0 { "sesame" } else { "wrong" }).await.is_ok()
                }
            }),
        )
        .await;
    assert_eq!(verdicts.iter().filter(|v| **v).count(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_in_the_doorway_are_limited() {
    let house = House::open("server.max_startups = 2\n[[user]]\nname = 'app'\npassword = 'secret'").await;
    let (mut a, mut b) = (house.dial().await, house.dial().await);
    for wire in [&mut a, &mut b] {
        wire.send(&app()).await;
    }
    // who is asked for a password keeps the place
    a.scram("SCRAM-SHA-256", "secret", None).await;
    assert_eq!(a.authentication().await.0, 12);
    a.welcomed().await;
    assert_eq!(b.authentication().await.0, 10);
    // who has logged in is no stranger any more, a moment after the welcome
    let deadline = Instant::now() + PATIENCE;
    let _c = loop {
        let mut c = house.dial().await;
        let _ = c.0.write_all(&app()).await;
        if c.message().await.is_some() {
            break c;
        }
        assert!(Instant::now() < deadline);
    };
    let mut fourth = house.dial().await;
    assert!(fourth.message().await.is_none(), "closed at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_keeps_nobody_out() {
    let house = House::open(&format!("server.max_startups = 5\n{TRUST}")).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(house.dial().await);
    }
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..20 {
        // right after they came there is no room
        loop {
            let mut wire = house.dial().await;
            // it may be closed already
            let _ = wire.0.write_all(&app()).await;
            if wire.message().await.is_some_and(|(tag, _)| tag == b'R') {
                break;
            }
            assert!(Instant::now() < deadline);
        }
    }
    assert!(silent[0].message().await.is_none(), "the first to come goes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_is_never_answered() {
    let house = House::open(TRUST).await;
    let session = house.server().registry().register(4, who());
    let mut wrong = session.entry.secret().to_vec();
    wrong[0] ^= 1;
    for (pid, secret) in [
        (session.entry.pid, session.entry.secret().to_vec()),
        (session.entry.pid, wrong),
        (session.entry.pid, vec![0; 256]),
        (session.entry.pid + 1, session.entry.secret().to_vec()),
    ] {
        let mut wire = house.dial().await;
        wire.post(|out| frontend::cancel_request(out, pid, &secret)).await;
        assert!(wire.message().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_everything_or_nothing() {
    let house = House::open("[[user]]\nname='app'\npassword='one'").await;
    assert_eq!(outcome(&house, "app", "shop", "one").await, Ok(()));
    house.reconfigure("[[user]]\nname='app'\npassword='two'").await.unwrap();
    assert!(outcome(&house, "app", "shop", "one").await.is_err());
    assert_eq!(outcome(&house, "app", "shop", "two").await, Ok(()));

    // a mistake in the configuration
    let refused = house.reconfigure("[[user]]\nname='app'\npasswort='three'").await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("pgweir.toml:4: unknown key \"passwort\" in [user]; did you mean password?"),
        "{refused}"
    );
    assert_eq!(outcome(&house, "app", "shop", "two").await, Ok(()));

    // a mistake in the map keeps a good configuration out as well
    let map = house.folder.path().join("map.toml");
    std::fs::write(&map, MAP.replace("[[shard]]", "[[shart]]")).unwrap();
    let refused = house.reconfigure("[[user]]\nname='app'\npassword='four'").await.unwrap_err();
    assert!(refused.message().contains("map.toml:"), "{refused}");
    assert_eq!(outcome(&house, "app", "shop", "two").await, Ok(()));

    // an older map
    std::fs::write(&map, MAP.replace("epoch = 1", "epoch = 5")).unwrap();
    house.server().reload().await.unwrap();
    std::fs::write(&map, MAP).unwrap();
    let refused = house.server().reload().await.unwrap_err();
    assert!(refused.message().contains("epoch 1 is lower than 5"), "{refused}");

    // shards that change places under sessions that know them by number
    std::fs::write(&map, MAP.replace("epoch = 1", "epoch = 6").replace("'s1'", "'s0'")).unwrap();
    assert!(house.server().reload().await.is_err());
    assert_eq!(house.server().database("shop").unwrap().snapshot.load().map.epoch.0, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_changed_is_taken_over() {
    let house = House::open(TRUST).await;
    let database = house.server().database("shop").unwrap();
    let map = house.folder.path().join("map.toml");
    let epoch = async |wanted: u64| {
        bounded(async {
            while database.snapshot.load().map.epoch.0 != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    // the watch begins some time after the start: write until it is seen
    bounded(async {
        while database.snapshot.load().map.epoch.0 == 1 {
            std::fs::write(&map, MAP.replace("epoch = 1", "epoch = 2")).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    // as editors do it: another file takes the name
    let other = house.folder.path().join("map.new");
    std::fs::write(&other, MAP.replace("epoch = 1", "epoch = 3")).unwrap();
    std::fs::rename(&other, &map).unwrap();
    epoch(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_map_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    std::fs::write(folder.path().join("map.toml"), "database = 'other'\n").unwrap();
    std::fs::write(&file, with_database(TRUST)).unwrap();
    let config = config::load(Some(&file), &Surroundings::default()).unwrap();
    let refused =
        Server::start(config, Surroundings::default(), Metrics::detached()).await.map(|_| ()).unwrap_err();
    assert!(refused.message().contains("map.toml:"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().display().to_string();
    let toml = format!("server = {{ listen = ['127.0.0.1:0', '{run}'], port = 6543 }}\n{TRUST}");
    let path = folder.path().join(".s.PGSQL.6543");
    // left by a process that died
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let house = House::open(&toml).await;
    let mut wire = Wire(UnixStream::connect(&path).await.unwrap());
    wire.send(&SSL_REQUEST).await;
    assert_eq!(bounded(wire.0.read_u8()).await.unwrap(), b'N');
    wire.send(&app()).await;
    wire.welcomed().await;
    // one that is alive keeps its address
    let refused = House::try_open(&toml).await.map(|_| ()).unwrap_err();
    assert!(refused.message().contains("cannot listen"), "{refused}");
    assert!(path.exists());
    drop(house);
    assert!(!path.exists(), "the file goes with the proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_and_refuses_newcomers() {
    let mut house = House::open(&format!("server.drain_timeout = '1s'\n{TRUST}")).await;
    let port = house.port();
    let mut session = house.dial().await;
    session.send(&app()).await;
    session.welcomed().await;
    // one that has been accepted: those in the kernel's queue are reset with it
    let mut half = house.dial().await;
    assert_eq!(ask_for_tls(&mut half).await, b'N');
    half.send(&app()[..9]).await;
    let begun = Instant::now();
    let server = house.server.take().unwrap();
    bounded(server.drain(std::future::pending())).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    half.send(&app()[9..]).await;
    assert_eq!(half.fatal("57P03").await, "the database system is shutting down");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
    let house = House::open(&format!("admin.listen = '127.0.0.1:0'\n{TRUST}")).await;
    let admin = house.server().admin_address().unwrap();
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        bounded(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    assert!(ask("GET /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let ready = ask("GET /readyz HTTP/1.1\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "no shard can be reached: {ready}");
    assert!(ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.contains("200 OK"));
    assert!(ask("DELETE /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
    assert!(ask(&"x".repeat(9000)).await.starts_with("HTTP/1.1 400 "));
}

/// A `pgweir serve` process and what it logs.
struct Process {
    child: std::process::Child,
    log: std::path::PathBuf,
}

impl Process {
    async fn start(folder: &Path) -> Process {
        let log = folder.join("pgweir.log");
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(["serve", "--config"])
            .arg(folder.join("pgweir.toml"))
            .stderr(std::fs::File::create(&log).unwrap())
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// What stands behind `text` on the first line that has it.
    async fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap();
            if let Some((_, rest)) = log.split_once(text).filter(|(_, rest)| rest.contains('\n')) {
                return rest.lines().next().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < deadline, "{text:?} is not in the log:\n{log}");
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        bounded(async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reload_and_stop_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    std::fs::write(folder.path().join("map.toml"), MAP).unwrap();
    std::fs::write(&file, with_database(TRUST)).unwrap();
    let mut process = Process::start(folder.path()).await;
    let address = process.says("listening on ").await;
    let dial = async || Wire(TcpStream::connect(&address).await.unwrap());
    let mut wire = dial().await;
    wire.send(&app()).await;
    wire.welcomed().await;

    std::fs::write(&file, with_database("auth.method = 'trusting'")).unwrap();
    process.signal("HUP");
    process.says("reload refused, nothing has changed").await;
    process.says("pgweir.toml:2: method = \"trusting\"").await;
    let mut wire = dial().await;
    wire.send(&app()).await;
    wire.welcomed().await;

    std::fs::write(&file, with_database("[[user]]\nname = 'app'\npassword = 'x'")).unwrap();
    process.signal("HUP");
    process.says("configuration and shard maps reloaded").await;
    let mut wire = dial().await;
    wire.send(&app()).await;
    assert_eq!(wire.authentication().await.0, 10, "a password is asked for now");
    drop(wire);

    process.signal("TERM");
    assert!(process.ended().await.success());
    assert!(TcpStream::connect(&address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_does_not_start_and_all_of_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    std::fs::write(&file, with_database("auth.method = 'trusting'\nserver.prot = 1")).unwrap();
    let mut process = Process::start(folder.path()).await;
    assert_eq!(process.ended().await.code(), Some(1));
    let log = std::fs::read_to_string(&process.log).unwrap();
    assert!(log.contains("2 mistakes"), "{log}");
    assert!(log.contains("pgweir.toml:2: method") && log.contains("did you mean port?"), "{log}");
}

fn who() -> Who {
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

#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_a_client_is() {
    let rules = "[[hba]]\nconnection = 'hostssl'\nuser = 'batch'\nmethod = 'cert'\nmap = 'certs'\n\
                 [[hba]]\nconnection = 'hostssl'\nuser = 'dn'\nmethod = 'cert'\nclientname = 'DN'\nmap = 'certs'\n\
                 [[hba]]\nconnection = 'hostssl'\nuser = 'other'\nmethod = 'trust'\nclientcert = 'verify-ca'\n\
                 [[hba]]\nconnection = 'hostssl'\nmethod = 'cert'\n\
                 [[ident]]\nmap = 'certs'\nname = 'app'\nuser = 'batch'\n\
                 [[ident]]\nmap = 'certs'\nname = '/CN=(app)(,|$)'\nuser = 'dn'\n";
    let (house, certificates) = tls_house("allow", rules).await;
    let greeted = async |user: &str, own: bool| {
        let mut wire = house.dial().await;
        assert_eq!(ask_for_tls(&mut wire).await, b'S');
        let mut wire = shake(&tls_client(&certificates, own, &[]), wire).await.unwrap();
        wire.send(&login(&[("user", user), ("database", "shop")])).await;
        wire
    };
    for user in ["app", "batch", "dn", "other"] {
        greeted(user, true).await.welcomed().await;
        let told = greeted(user, false).await.fatal("28000").await;
        assert_eq!(told, "connection requires a valid client certificate");
    }
    let told = greeted("root", true).await.fatal("28000").await;
    assert_eq!(told, "certificate authentication failed for user \"root\"");
    let mut plain = house.dial().await;
    plain.send(&app()).await;
    assert!(plain.fatal("28000").await.starts_with("no [[hba]] rule for host \"127.0.0.1\", user \"app\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operating_system_says_who_is_behind_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().display().to_string();
    let own = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let own = String::from_utf8(own).unwrap().trim().to_owned();
    let toml = format!(
        "server = {{ listen = ['127.0.0.1:0', '{run}'], port = 6544 }}\n\
         [[hba]]\nconnection = 'local'\nuser = 'app'\nmethod = 'peer'\nmap = 'system'\n\
         [[hba]]\nconnection = 'local'\nmethod = 'peer'\n\
         [[ident]]\nmap = 'system'\nname = '{own}'\nuser = 'app'\n"
    );
    let _house = House::open(&toml).await;
    let greeted = async |user: &str| {
        let mut wire = Wire(UnixStream::connect(folder.path().join(".s.PGSQL.6544")).await.unwrap());
        wire.send(&login(&[("user", user), ("database", "shop")])).await;
        wire
    };
    greeted("app").await.welcomed().await;
    greeted(&own).await.welcomed().await;
    let told = greeted("somebody").await.fatal("28000").await;
    assert_eq!(told, "Peer authentication failed for user \"somebody\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_clear_text_need_a_channel_that_nobody_hears() {
    let (house, certificates) =
        tls_house("allow", "auth.method = 'password'\n[[user]]\nname = 'app'\npassword = 'sesame'\n").await;
    let mut plain = house.dial().await;
    plain.send(&app()).await;
    assert_eq!(plain.fatal("28000").await, "passwords in clear text are accepted only over TLS");
    let mut wire = house.dial().await;
    assert_eq!(ask_for_tls(&mut wire).await, b'S');
    let mut wire = shake(&tls_client(&certificates, false, &[]), wire).await.unwrap();
    wire.send(&app()).await;
    assert_eq!(wire.authentication().await.0, 3);
    wire.post(|out| frontend::password(out, b"sesame")).await;
    wire.welcomed().await;
}
