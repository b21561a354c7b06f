//! From accept to AuthenticationOk, with real sockets: what strangers can send, who gets in, reload and drain.
//!
//! The servers behind the map are not there (port 1), on purpose: nothing here needs one. What a whole session
//! answers is tested elsewhere.

#[path = "harness/house.rs"]
mod house;

use house::*;
use pgweir::config::{self, Surroundings};
use pgweir::metrics::Metrics;
use pgweir::server::Server;
use pgweir::wire::frontend;
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

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
        Process::start_behind("exec \"$0\" \"$@\"", folder).await
    }

    /// `words`: of a shell, which ends by becoming what it was given.
    async fn start_behind(words: &str, folder: &Path) -> Process {
        let log = folder.join("pgweir.log");
        let child = std::process::Command::new("sh")
            .args(["-c", words, env!("CARGO_BIN_EXE_pgweir"), "serve", "--config"])
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
async fn open_files_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("map.toml"), MAP).unwrap();
    std::fs::write(folder.path().join("pgweir.toml"), with_database(TRUST)).unwrap();
    let few = "ulimit -Sn 100; ulimit -Hn 300; exec \"$0\" \"$@\"";
    let mut process = Process::start_behind(few, folder.path()).await;
    let warning = process.says("300 files may be open, and 10000 clients with their links need ").await;
    assert!(warning.contains("ulimit -Hn"), "{warning}");
    process.says("listening on ").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.child.id())).unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["300", "300"], "{limits}");
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
