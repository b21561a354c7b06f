//! The protocol against the two implementations that count: a real server reads what our client side writes, and libpq (psql)
//! reads what our server side writes. Blocking sockets, so that nothing but `wire` is at work.

use bytes::BytesMut;
use pgweir::cluster::{Auth, Cluster, Options};
use pgweir::error::{Error, SqlState};
use pgweir::wire::backend::{self, Authentication, ErrorFields, Field, Tag};
use pgweir::wire::frame::{Frames, Limits};
use pgweir::wire::frontend::{self, Target};
use pgweir::wire::scram::{self, AwaitFirst, AwaitServerFirst, Credential, Verdict, Verifier};
use pgweir::wire::startup::{self, FirstPacket, PROTOCOL_3_0};
use pgweir::wire::{md5, values::oid};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// One end of a connection. Reading gives up after a time that no healthy peer needs.
struct Peer {
    stream: TcpStream,
    input: BytesMut,
    limits: Limits,
}

impl Peer {
    fn new(stream: TcpStream, limits: Limits) -> Peer {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Peer { stream, input: BytesMut::new(), limits }
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// More input; `false` at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let n = self.stream.read(&mut chunk).unwrap();
        self.input.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// The next message; `None` at the end of the stream.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = Frames::new(&self.input, self.limits).next() {
                let (tag, body) = frame.unwrap();
                let end = body.end;
                let body = self.input[body].to_vec();
                let _ = self.input.split_to(end);
                return Some((tag, body));
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Messages up to ReadyForQuery.
    fn until_ready(&mut self) -> Vec<(Tag, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            let (tag, body) = self.next().expect("the server stays");
            let tag = Tag::of(tag).unwrap();
            all.push((tag, body));
            if tag == Tag::ReadyForQuery {
                return all;
            }
        }
    }
}

fn tags(messages: &[(Tag, Vec<u8>)]) -> Vec<Tag> {
    messages.iter().map(|(t, _)| *t).collect()
}

fn body(messages: &[(Tag, Vec<u8>)], tag: Tag) -> &[u8] {
    &messages.iter().find(|(t, _)| *t == tag).unwrap_or_else(|| panic!("{tag:?} in {messages:?}")).1
}

/// Logs in; the messages that came behind AuthenticationOk.
fn log_in(cluster: &Cluster, protocol: u32, more: &[(&str, &str)]) -> (Peer, Vec<(Tag, Vec<u8>)>) {
    let (user, password) = (&cluster.app.user, cluster.app.password.as_bytes());
    let mut peer =
        Peer::new(TcpStream::connect(("127.0.0.1", cluster.primary(0).port)).unwrap(), Limits::SERVER);
    let mut parameters = vec![("user", &user[..]), ("database", cluster.database())];
    parameters.extend(more);
    let pairs = parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    peer.send(|out| frontend::startup(out, protocol, pairs));
    let mut before = Vec::new();
    loop {
        let (tag, message) = peer.next().expect("the server stays");
        if Tag::of(tag) != Some(Tag::Authentication) {
            before.push((Tag::of(tag).unwrap(), message));
            continue;
        }
        match Authentication::parse(&message).unwrap() {
            Authentication::Ok => break,
            Authentication::Cleartext => peer.send(|out| frontend::password(out, password)),
            Authentication::Md5 { salt } => {
                let stored = md5::stored(user.as_bytes(), password);
                peer.send(|out| frontend::password(out, md5::answer(&stored, salt).as_bytes()));
            }
            Authentication::Sasl { mechanisms } => {
                let credential = Credential::Password { password: password.to_vec(), cached: None };
                let (mechanism, first, state) =
                    AwaitServerFirst::start(credential, &mechanisms, None).unwrap();
                peer.send(|out| frontend::sasl_initial(out, mechanism, &first));
                let (_, challenge) = peer.next().unwrap();
                let Ok(Authentication::SaslContinue(challenge)) = Authentication::parse(&challenge) else {
                    panic!("{challenge:?}")
                };
                let (proof, state) = state.challenged(challenge).unwrap();
                peer.send(|out| frontend::sasl_response(out, &proof));
                let (_, signature) = peer.next().unwrap();
                let Ok(Authentication::SaslFinal(signature)) = Authentication::parse(&signature) else {
                    panic!("{signature:?}")
                };
                state.verify(signature).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    before.extend(peer.until_ready());
    (peer, before)
}

async fn cluster(auth: Auth) -> Cluster {
    Cluster::start(Options { auth, ..Options::plain() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_accepts_our_passwords() {
    for auth in [Auth::Scram, Auth::Md5, Auth::Cleartext] {
        let cluster = cluster(auth).await;
        let (_, greeting) = log_in(&cluster, PROTOCOL_3_0, &[]);
        let parameters: Vec<_> = greeting
            .iter()
            .filter(|(t, _)| *t == Tag::ParameterStatus)
            .map(|(_, b)| backend::ParameterStatus::parse(b).unwrap())
            .collect();
        assert!(parameters.iter().any(|p| p.name == b"server_version"));
        assert_eq!(
            backend::BackendKeyData::parse(body(&greeting, Tag::BackendKeyData)).unwrap().secret.len(),
            4
        );
        assert_eq!(backend::parse_ready_for_query(body(&greeting, Tag::ReadyForQuery)), Ok(b'I'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_understands_what_we_write() {
    let cluster = cluster(Auth::Scram).await;
    let (mut peer, greeting) = log_in(&cluster, PROTOCOL_3_0 | 9999, &[("_pq_.unheard_of", "1")]);
    let v = backend::NegotiateProtocolVersion::parse(body(&greeting, Tag::NegotiateProtocolVersion)).unwrap();
    assert!(v.newest == PROTOCOL_3_0 || v.newest == startup::PROTOCOL_3_2, "{v:?}");
    assert_eq!(v.unknown_options, [b"_pq_.unheard_of"]);

    // the extended protocol: text and binary both ways, NULL, a row limit
    peer.send(|out| {
        frontend::parse(
            out,
            b"s",
            b"SELECT g AS n, $2 || 'x' AS t, $3::int4 FROM generate_series(1, $1) g",
            &[oid::INT8, oid::TEXT],
        );
        frontend::describe(out, Target::Statement, b"s");
        frontend::bind(
            out,
            b"p",
            b"s",
            &[1, 0, 1],
            &[Some(&[0, 0, 0, 0, 0, 0, 0, 3]), Some(b"\xc3\xa9"), None],
            &[1, 0, 0],
        );
        frontend::execute(out, b"p", 2);
        frontend::execute(out, b"p", 0);
        frontend::close(out, Target::Portal, b"p");
        frontend::sync(out);
    });
    use Tag::*;
    let m = peer.until_ready();
    let want = [
        ParseComplete,
        Tag::ParameterDescription,
        Tag::RowDescription,
        BindComplete,
        Tag::DataRow,
        Tag::DataRow,
        PortalSuspended,
        Tag::DataRow,
        Tag::CommandComplete,
        CloseComplete,
        ReadyForQuery,
    ];
    assert_eq!(tags(&m), want);
    let types = backend::ParameterDescription::parse(&m[1].1).unwrap().types;
    assert_eq!(types.iter().collect::<Vec<_>>(), [oid::INT8, oid::TEXT, oid::INT4]);
    let fields: Vec<_> =
        backend::RowDescription::parse(&m[2].1).unwrap().iter().map(|f| (f.name, f.type_oid)).collect();
    assert_eq!(fields, [(&b"n"[..], oid::INT8), (b"t", oid::TEXT), (b"int4", oid::INT4)]);
    let row: Vec<_> =
        backend::DataRow::parse(&m[5].1).unwrap().iter().map(|c| c.map(<[u8]>::to_vec)).collect();
    assert_eq!(row, [Some(vec![0, 0, 0, 0, 0, 0, 0, 2]), Some("\u{e9}x".into()), None]);
    assert_eq!(backend::CommandComplete::parse(&m[8].1).unwrap().rows(), Some(1));

    // errors, notices, notifications
    peer.send(|out| {
        frontend::query(
            out,
            b"LISTEN ch; NOTIFY ch, 'hi'; DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'so'; END $$",
        )
    });
    let m = peer.until_ready();
    let n = backend::Notification::parse(body(&m, NotificationResponse)).unwrap();
    assert_eq!((n.channel, n.payload), (&b"ch"[..], &b"hi"[..]));
    let warning = ErrorFields::parse(body(&m, NoticeResponse)).unwrap();
    assert_eq!(
        (warning.severity(), warning.message(), warning.field(b'H')),
        (&b"WARNING"[..], &b"careful"[..], Some(&b"so"[..]))
    );
    peer.send(|out| frontend::query(out, b"SELECT nothing"));
    let m = peer.until_ready();
    let e = ErrorFields::parse(body(&m, ErrorResponse)).unwrap().to_error("s1");
    assert_eq!((e.sqlstate(), e.position_chars()), (SqlState(*b"42703"), Some(8)));

    // COPY both ways, and its refusal
    peer.send(|out| frontend::query(out, b"CREATE TEMP TABLE t (a int, b text); COPY t FROM STDIN"));
    let (_, _) = peer.next().unwrap();
    let (tag, response) = peer.next().unwrap();
    assert_eq!(Tag::of(tag), Some(CopyInResponse));
    assert_eq!(backend::CopyResponse::parse(&response).unwrap().columns.len(), 2);
    peer.send(|out| {
        frontend::copy_data(out, b"1\to");
        frontend::copy_data(out, b"ne\n");
        frontend::copy_done(out);
    });
    assert_eq!(
        backend::CommandComplete::parse(body(&peer.until_ready(), CommandComplete)).unwrap().tag,
        b"COPY 1"
    );
    peer.send(|out| frontend::query(out, b"COPY t TO STDOUT"));
    let m = peer.until_ready();
    assert_eq!(tags(&m), [CopyOutResponse, CopyData, CopyDone, CommandComplete, ReadyForQuery]);
    assert_eq!(m[1].1, b"1\tone\n");
    peer.send(|out| frontend::query(out, b"COPY t FROM STDIN"));
    assert_eq!(Tag::of(peer.next().unwrap().0), Some(CopyInResponse));
    peer.send(|out| frontend::copy_fail(out, "changed my mind"));
    let m = peer.until_ready();
    assert!(ErrorFields::parse(body(&m, ErrorResponse)).unwrap().message().ends_with(b"changed my mind"));

    // a cancel request ends what runs
    let key = body(&greeting, BackendKeyData);
    let key = backend::BackendKeyData::parse(key).unwrap();
    peer.send(|out| frontend::query(out, b"SELECT pg_sleep(60)"));
    // one that comes before the query has begun does nothing, so it is repeated until one hits
    let port = cluster.primary(0).port;
    let (pid, secret) = (key.pid, key.secret.to_vec());
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let canceller = std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(50)).is_err() {
            let mut peer = Peer::new(TcpStream::connect(("127.0.0.1", port)).unwrap(), Limits::SERVER);
            peer.send(|out| frontend::cancel_request(out, pid, &secret));
            assert!(!peer.fill(), "a cancel request is not answered");
        }
    });
    let m = peer.until_ready();
    done.send(()).unwrap();
    canceller.join().unwrap();
    assert_eq!(ErrorFields::parse(body(&m, ErrorResponse)).unwrap().sqlstate(), SqlState::QUERY_CANCELED);
    peer.send(frontend::terminate);
    assert_eq!(peer.next(), None);
}

/// Serves one client as a server would: a log-in, then one row for each query.
fn serve(stream: TcpStream, scram: bool, end_with: Option<Error>) {
    let mut peer = Peer::new(stream, Limits::LOGIN);
    let user = loop {
        match startup::parse(&peer.input).unwrap() {
            None => assert!(peer.fill()),
            Some((FirstPacket::Startup(s), used)) => {
                let user = s.parameter("user").unwrap().to_vec();
                let _ = peer.input.split_to(used);
                break user;
            }
            Some((other, _)) => panic!("{other:?}"),
        }
    };
    let right = if scram {
        peer.send(|out| backend::authentication_sasl(out, scram::mechanisms(None)));
        let verifier = match &user[..] {
            b"alice" => Verifier::from_password("p\u{e9}ncil".as_bytes(), b"some salt", 4096),
            other => Verifier::mock(other, b"of this process", 4096),
        };
        // psql leaves when it has no password
        let Some((b'p', message)) = peer.next() else { return };
        let initial = frontend::SaslInitial::parse(&message).unwrap();
        let state = AwaitFirst::new(verifier, initial.mechanism, None).unwrap();
        let (challenge, state) = state.first(initial.response.unwrap()).unwrap();
        peer.send(|out| backend::authentication_sasl_continue(out, &challenge));
        match state.last(&peer.next().unwrap().1).unwrap() {
            Verdict::Accepted { reply, .. } => {
                peer.send(|out| backend::authentication_sasl_final(out, &reply));
                true
            }
            Verdict::Refused => false,
        }
    } else {
        let salt = [1, 2, 3, 4];
        peer.send(|out| backend::authentication_md5(out, salt));
        let (_, message) = peer.next().unwrap();
        let given = frontend::Password::parse(&message).unwrap().password;
        md5::verify(&md5::stored(b"alice", "p\u{e9}ncil".as_bytes()), salt, given)
    };
    if !right {
        let e = Error::client(SqlState::INVALID_PASSWORD, "password authentication failed").fatal();
        return peer.send(|out| backend::error(out, &e));
    }
    peer.send(|out| {
        backend::authentication_ok(out);
        backend::parameter_status(out, b"server_version", b"15.0");
        backend::parameter_status(out, b"client_encoding", b"UTF8");
        backend::parameter_status(out, b"standard_conforming_strings", b"on");
        backend::backend_key_data(out, 1, &[0; 4]);
        backend::ready_for_query(out, b'I');
    });
    peer.limits = Limits::CLIENT;
    while let Some((b'Q', message)) = peer.next() {
        let text = frontend::Query::parse(&message).unwrap().text.to_vec();
        peer.send(|out| {
            match &end_with {
                Some(e) => backend::error(out, e),
                None => {
                    backend::row_description(
                        out,
                        &[Field::text("you said", oid::TEXT), Field::text("n", oid::INT4)],
                    );
                    backend::data_row(out, &[Some(&text[..]), None]);
                    backend::command_complete(out, "SELECT 1");
                }
            }
            backend::ready_for_query(out, b'I');
        });
    }
}

/// What psql prints (output and errors) when it runs `select 1` against [`serve`].
fn psql(user: &str, password: &str, scram: bool, end_with: Option<Error>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0, scram, end_with));
    let output = Command::new("psql")
        .args(["-XAtw", "-v", "VERBOSITY=verbose", "-c", "select 1"])
        .arg(format!("host=127.0.0.1 port={port} user={user} dbname=d sslmode=disable gssencmode=disable connect_timeout=20"))
        .env("PGPASSWORD", password)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    server.join().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn libpq_logs_in_and_reads_rows() {
    for scram in [true, false] {
        assert_eq!(psql("alice", "p\u{e9}ncil", scram, None), "select 1|\n", "scram: {scram}");
        for (user, password) in [("alice", "pencil"), ("nobody", "p\u{e9}ncil")] {
            let said = psql(user, password, scram, None);
            assert!(said.contains("FATAL:  password authentication failed"), "{said}");
        }
    }
}

#[test]
fn libpq_reads_our_errors() {
    let e = Error::shard(SqlState::FEATURE_NOT_SUPPORTED, "s1", "cannot do that")
        .detail("Because.")
        .hint("Do this.")
        .position(8);
    let said = psql("alice", "p\u{e9}ncil", true, Some(e));
    for part in [
        "ERROR:  0A000: cannot do that",
        "LINE 1: select 1",
        "DETAIL:  Because.",
        "HINT:  Do this.",
        "CONTEXT:  shard s1",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
