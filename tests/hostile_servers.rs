//! Servers that are not what they should be: each script plays the server's side of a connection.

use pgweir::backend::Options;
use pgweir::backend::credentials::Credentials;
use pgweir::backend::options::TlsMode;
use pgweir::backend::pool::{Backends, Pool, PoolKey};
use pgweir::error::{Error, SqlState};
use pgweir::options::Secret;
use pgweir::shards::ShardId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn options() -> Options {
    Options { tls: TlsMode::Disable, ..Options::default() }
}

fn pool(port: u16, options: Options) -> (Arc<Backends>, Arc<Pool>) {
    let file = format!(
        "database = \"app\"\nepoch = 1\ndefault_shard = \"a\"\n[[shard]]\nname = \"a\"\n\
         nodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n"
    );
    let map = pgweir::shards::file::parse(&file, std::path::Path::new("test.toml")).unwrap();
    let credentials = Credentials::default().password("app", Secret::new("app"));
    let backends = Backends::new(&map, options, credentials).unwrap();
    let pool = backends.pool(&PoolKey { shard: ShardId(0), user: "app".into() }).unwrap();
    (backends, pool)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A packet without a tag: SSLRequest, StartupMessage.
async fn packet(socket: &mut TcpStream) -> Vec<u8> {
    let length = socket.read_u32().await.unwrap() as usize;
    let mut body = vec![0; length - 4];
    socket.read_exact(&mut body).await.unwrap();
    body
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

/// AuthenticationOk, a parameter, a cancel key, ReadyForQuery.
fn welcome() -> Vec<u8> {
    let mut out = message(b'R', &[0, 0, 0, 0]);
    out.extend(message(b'S', b"TimeZone\0UTC\0"));
    out.extend(message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
    out.extend(message(b'Z', b"I"));
    out
}

/// What becomes of a login to a server that answers the start-up packet with these bytes and then closes.
async fn answered(bytes: Vec<u8>) -> Error {
    let (listener, port) = listener().await;
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = packet(&mut socket).await;
        socket.write_all(&bytes).await.unwrap();
        // What the client has to say is read, so that closing does not reset what it has not read.
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    });
    let (_backends, pool) = pool(port, options());
    let e = pool.acquire(soon()).await.map(drop).unwrap_err();
    assert_eq!(e.shard_name(), Some("a"), "the shard is named: {e}");
    assert!(!e.is_fatal());
    assert_eq!(pool.stats().used, 0);
    server.await.unwrap();
    e
}

#[tokio::test]
async fn nonsense_during_the_login_is_an_error_and_no_more() {
    let breaks_protocol = [
        ("garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a length below 4", vec![b'R', 0, 0, 0, 3]),
        ("a negative length", vec![b'R', 0xff, 0xff, 0xff, 0xff]),
        ("a gigabyte", vec![b'R', 0x40, 0, 0, 0]),
        ("a request that is cut off", message(b'R', &[0, 0])),
        ("an md5 salt that is cut off", message(b'R', &[0, 0, 0, 5, 1, 2])),
        ("SASL out of turn", message(b'R', &[0, 0, 0, 11, b'x'])),
        ("rows", message(b'D', &[0, 0])),
        ("a parameter without its end", message(b'S', b"TimeZone")),
        ("an error without its end", message(b'E', b"Mboom")),
        ("a mechanism that nobody knows", message(b'R', b"\0\0\0\x0aOTHER\0\0")),
        ("a busy start", [message(b'R', &[0, 0, 0, 0]), message(b'Z', b"T")].concat()),
        ("a short cancel key", [message(b'R', &[0, 0, 0, 0]), message(b'K', &[0, 0, 0])].concat()),
        ("notices without end", message(b'N', b"Mhello\0\0").repeat(1000)),
    ];
    for (what, bytes) in breaks_protocol {
        let e = answered(bytes).await;
        assert_eq!(e.sqlstate(), SqlState::PROTOCOL_VIOLATION, "{what}: {e}");
    }
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("half a header", vec![b'R', 0]),
        ("half a message", vec![b'R', 0, 0, 0, 8, 0, 0]),
        ("an end after Ok", message(b'R', &[0, 0, 0, 0])),
    ] {
        let e = answered(bytes).await;
        assert_eq!(e.sqlstate(), SqlState::CONNECTION_FAILURE, "{what}: {e}");
        assert!(e.message().contains("closed"), "{e}");
    }
    let e = answered(message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0")).await;
    assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT_NOW);
    let e = answered(message(b'R', &[0, 0, 0, 7])).await;
    assert_eq!(e.sqlstate(), SqlState::INVALID_AUTHORIZATION, "GSSAPI: {e}");
}

/// Whoever does not know the password cannot pass for the server: Ok before the proof is refused.
#[tokio::test]
async fn a_server_must_prove_that_it_knows_the_password() {
    let (listener, port) = listener().await;
    let server = tokio::spawn(async move {
        for last in [
            message(b'R', &[0, 0, 0, 0]),
            message(b'R', b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ] {
            let (mut socket, _) = listener.accept().await.unwrap();
            packet(&mut socket).await;
            socket.write_all(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")).await.unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'p');
            let first = packet(&mut socket).await;
            let text = String::from_utf8_lossy(&first).into_owned();
            let nonce = text.rsplit("r=").next().unwrap();
            let challenge = format!("\0\0\0\x0br={nonce}xyz,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096");
            socket.write_all(&message(b'R', challenge.as_bytes())).await.unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'p');
            packet(&mut socket).await;
            socket.write_all(&[last, welcome()].concat()).await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
        }
    });
    let (_backends, pool) = pool(port, options());
    for _ in 0..2 {
        let e = pool.acquire(soon()).await.map(drop).unwrap_err();
        assert_eq!(e.sqlstate(), SqlState::PROTOCOL_VIOLATION, "{e}");
    }
    server.await.unwrap();
}

#[tokio::test]
async fn bytes_in_the_clear_before_tls_end_the_attempt() {
    for (answer, said) in [
        (&b"SR\0\0\0\x08\0\0\0\0"[..], "in the clear"),
        (b"E\0\0\0\x05", "refused"),
        (b"?", "something else"),
        (b"N", "does not offer TLS"),
        (b"NR\0\0\0\x08\0\0\0\0", "something else"),
    ] {
        let (listener, port) = listener().await;
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert_eq!(packet(&mut socket).await, [0x04, 0xd2, 0x16, 0x2f]);
            socket.write_all(answer).await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "nothing was said to such a server: {rest:?}");
        });
        let (_backends, pool) = pool(port, Options { tls: TlsMode::Require, ..Options::default() });
        let e = pool.acquire(soon()).await.map(drop).unwrap_err();
        assert!(e.message().contains(said), "{e}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_login_timeout() {
    let (_listener, port) = listener().await;
    let options = Options { login_timeout: Duration::from_millis(50), ..options() };
    let (_backends, pool) = pool(port, options);
    let e = pool.acquire(soon()).await.map(drop).unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT);
    assert!(e.message().contains("no end of the login within 50 ms"), "{e}");

    // A session with less patience is told what it waited for.
    let e = pool.acquire(Instant::now() + Duration::from_millis(1)).await.map(drop).unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT);
    assert!(e.message().contains("in time") && e.hint_text().unwrap().contains("0 of at most 20"), "{e}");
}

#[tokio::test]
async fn what_a_server_says_to_an_idle_link_is_heard() {
    let (listener, port) = listener().await;
    let (say, mut said) = tokio::sync::mpsc::channel::<(Vec<u8>, tokio::sync::oneshot::Sender<()>)>(1);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            packet(&mut socket).await;
            socket.write_all(&welcome()).await.unwrap();
            let Some((bytes, done)) = said.recv().await else { return };
            socket.write_all(&bytes).await.unwrap();
            let _ = done.send(());
            // The socket stays open until the other side ends it.
            tokio::spawn(async move {
                let mut rest = Vec::new();
                let _ = socket.read_to_end(&mut rest).await;
            });
        }
    });
    let (_backends, pool) = pool(port, options());
    for (what, bytes, lives) in [
        ("a parameter", message(b'S', b"TimeZone\0Mars\0"), true),
        ("a notice", message(b'N', b"SNOTICE\0Mhello\0\0"), true),
        ("its end", message(b'E', b"SFATAL\0C57P01\0Mterminating\0\0"), false),
        ("a notification", message(b'A', b"\0\0\0\x01c\0p\0"), false),
        ("an answer to nothing", message(b'Z', b"I"), false),
        ("half a message", vec![b'S', 0, 0], false),
        ("a hostile length", vec![b'S', 0x7f, 0, 0, 0], false),
    ] {
        // `born` tells links apart.
        let link = pool.acquire(soon()).await.unwrap();
        let born = link.born;
        drop(link);
        let (done, sent) = tokio::sync::oneshot::channel();
        say.send((bytes, done)).await.unwrap();
        sent.await.unwrap();
        // The bytes are in this process's socket; they are seen once the reactor has looked.
        let start = Instant::now();
        loop {
            tokio::task::yield_now().await;
            let link = pool.acquire(soon()).await.unwrap();
            let heard = if lives {
                what != "a parameter" || link.parameters["TimeZone"] == "Mars"
            } else {
                link.born != born
            };
            if heard {
                assert_eq!(link.born == born, lives, "{what}");
                assert!(link.is_clean());
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{what} was not heard");
        }
        // The next round begins with a link of its own.
        let mut link = pool.acquire(soon()).await.unwrap();
        link.broken = true;
        drop(link);
        if !lives {
            // The server's side of the replacement waits for something to say.
            let (done, sent) = tokio::sync::oneshot::channel();
            say.send((Vec::new(), done)).await.unwrap();
            sent.await.unwrap();
        }
    }
}
