//! Log-ins as libpq sees them: psql gets the same answer from the proxy as from a Postgres with the same rules and users,
//! whatever it asks of TLS and of channel binding.

use pgweir::cluster::{Cluster, Lifetime, Options, Port, Proxy, Tls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_postgres::NoTls;

/// A log-in, as psql is asked to make it.
struct Case {
    user: &'static str,
    password: &'static str,
    database: &'static str,
    /// the name in the certificate that it shows
    certificate: Option<&'static str>,
    /// with every sslmode and every channel_binding, not only with a few
    fully: bool,
}

const fn case(user: &'static str, password: &'static str) -> Case {
    Case { user, password, database: "app", certificate: None, fully: false }
}

const CASES: &[Case] = &[
    Case { fully: true, ..case("scram", "right") },
    case("scram", "wrong"),
    case("digest", "right"),
    case("md5_scram", "right"),
    Case { fully: true, ..case("clear", "right") },
    Case { fully: true, certificate: Some("cert"), ..case("cert", "") },
    case("scram", ""),
    Case { database: "nowhere", ..case("scram", "right") },
    Case { database: "nowhere", ..case("scram", "wrong") },
    Case { database: "closed", ..case("scram", "right") },
    case("listed", "right"),
    case("listed", "wrong"),
    case("digest", "wrong"),
    case("digest_scram", "right"),
    case("md5_scram", "wrong"),
    case("clear", "wrong"),
    case("clear", ""),
    case("cert", ""),
    Case { certificate: Some("cert"), ..case("impostor", "") },
    Case { certificate: Some("cert"), ..case("mapped", "") },
    Case { certificate: Some("paired"), ..case("mapped", "") },
    Case { certificate: Some("paired"), ..case("paired", "right") },
    Case { certificate: Some("paired"), ..case("paired", "wrong") },
    Case { certificate: Some("cert"), ..case("paired", "right") },
    case("paired", "right"),
    Case { certificate: Some("cert"), ..case("signed", "right") },
    case("signed", "right"),
    case("trusted", ""),
    case("ghost", ""),
    case("rejected", "right"),
    case("nobody", "right"),
    case("barred", "right"),
    case("expired", "right"),
    case("bare", "right"),
];

/// Roles, on the server that is both the shard and the model.
const ROLES: &str = "
    CREATE ROLE scram LOGIN PASSWORD 'right'; CREATE ROLE listed LOGIN PASSWORD 'right';
    CREATE ROLE md5_scram LOGIN PASSWORD 'right'; CREATE ROLE clear LOGIN PASSWORD 'right';
    CREATE ROLE cert LOGIN; CREATE ROLE impostor LOGIN; CREATE ROLE mapped LOGIN;
    CREATE ROLE paired LOGIN PASSWORD 'right'; CREATE ROLE signed LOGIN PASSWORD 'right';
    CREATE ROLE trusted LOGIN; CREATE ROLE rejected LOGIN PASSWORD 'right';
    CREATE ROLE barred NOLOGIN PASSWORD 'right'; CREATE ROLE bare LOGIN;
    CREATE ROLE expired LOGIN PASSWORD 'right' VALID UNTIL '2001-01-01';
    SET password_encryption = 'md5';
    CREATE ROLE digest LOGIN PASSWORD 'right'; CREATE ROLE digest_scram LOGIN PASSWORD 'right';
    REVOKE CONNECT ON DATABASE closed FROM PUBLIC;
";

/// pg_hba.conf; behind it stands `hostssl all all 127.0.0.1/32 scram-sha-256`.
const HBA: &[&str] = &[
    "host all scram,listed,digest_scram,barred,expired,bare 127.0.0.1/32 scram-sha-256",
    "host all digest,md5_scram 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "hostssl all cert,impostor 127.0.0.1/32 cert",
    "hostssl all mapped 127.0.0.1/32 cert map=certs",
    "hostssl all paired 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
    "hostssl all signed 127.0.0.1/32 scram-sha-256 clientcert=verify-ca",
    "host all trusted,ghost 127.0.0.1/32 trust",
    "host all rejected 127.0.0.1/32 reject",
];

/// The same for the proxy. Whom no password opens a link for is somebody else on the server.
const CONFIG: &str = r#"
auth_query = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname = $1"

[database.closed]
map = "closed.toml"
service_user = "pgweir"
service_password = "pgweir"
auth_query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"

[tls]
mode = "allow"
cert = "server.crt"
key = "server.key"
client_ca = "ca.crt"

[auth]
lookup_database = "app"
allow_cleartext = true
failed_logins = 0

[[user]]
name = "listed"
password = "right"

[[user]]
name = "clear"
password = "right"

[[user]]
name = "cert"
server_user = "app"
server_password = "app"

[[user]]
name = "mapped"
server_user = "app"
server_password = "app"

[[user]]
name = "paired"
password = "right"
server_user = "app"
server_password = "app"

[[user]]
name = "signed"
password = "right"
server_user = "app"
server_password = "app"

[[hba]]
connection = "host"
user = ["scram", "listed", "digest_scram", "barred", "expired", "bare"]
address = "127.0.0.1/32"
method = "scram-sha-256"

[[hba]]
connection = "host"
user = ["digest", "md5_scram"]
address = "127.0.0.1/32"
method = "md5"

[[hba]]
connection = "host"
user = "clear"
address = "127.0.0.1/32"
method = "password"

[[hba]]
connection = "hostssl"
user = ["cert", "impostor"]
address = "127.0.0.1/32"
method = "cert"

[[hba]]
connection = "hostssl"
user = "mapped"
address = "127.0.0.1/32"
method = "cert"
map = "certs"

[[hba]]
connection = "hostssl"
user = "paired"
address = "127.0.0.1/32"
method = "scram-sha-256"
clientcert = "verify-full"

[[hba]]
connection = "hostssl"
user = "signed"
address = "127.0.0.1/32"
method = "scram-sha-256"
clientcert = "verify-ca"

[[hba]]
connection = "host"
user = ["trusted", "ghost"]
address = "127.0.0.1/32"
method = "trust"

[[hba]]
connection = "host"
user = "rejected"
address = "127.0.0.1/32"
method = "reject"

[[hba]]
connection = "hostssl"
address = "127.0.0.1/32"
method = "scram-sha-256"

[[ident]]
map = "certs"
name = "cert"
user = "mapped"
"#;

const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];
const BINDINGS: [&str; 3] = ["disable", "prefer", "require"];

/// Certificates of the server and of clients, with their authority, where both servers can read them.
struct Papers(tempfile::TempDir);

impl Papers {
    fn make() -> Papers {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let papers = Papers(folder);
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        papers.write("ca.crt", &ca.self_signed(&ca_key).unwrap().pem(), 0o644);
        let issuer = Issuer::new(ca, ca_key);
        for name in ["server", "cert", "paired"] {
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["localhost".into()]).unwrap();
            leaf.distinguished_name.push(DnType::CommonName, name);
            papers.write(&format!("{name}.crt"), &leaf.signed_by(&key, &issuer).unwrap().pem(), 0o644);
            papers.write(&format!("{name}.key"), &key.serialize_pem(), 0o600);
        }
        papers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// What psql says, without what differs by nature.
fn psql(papers: &Papers, port: u16, case: &Case, mode: &str, binding: &str) -> String {
    let mut conninfo = format!(
        "host=localhost hostaddr=127.0.0.1 port={port} user={} dbname={} sslmode={mode} channel_binding={binding} \
         gssencmode=disable sslrootcert={}",
        case.user,
        case.database,
        papers.path("ca.crt").display()
    );
    if let Some(name) = case.certificate {
        let (cert, key) = (papers.path(&format!("{name}.crt")), papers.path(&format!("{name}.key")));
        conninfo += &format!(" sslcert={} sslkey={}", cert.display(), key.display());
    }
    let mut command = Command::new("psql");
    command.args(["-X", "-w", "-At", "-c", "SELECT 42", &conninfo]).env("HOME", papers.0.path());
    if !case.password.is_empty() {
        command.env("PGPASSWORD", case.password);
    }
    let output = command.output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr).replace(&format!("port {port} "), "port ")
    );
    // beside the server's words the proxy tells which server it was, and what an operator can do
    let lines = said.lines().filter(|l| !l.starts_with("HINT:") && !l.starts_with("CONTEXT:"));
    in_our_words(&lines.collect::<Vec<_>>().join("\n"))
}

/// The rules are in another file here.
fn in_our_words(said: &str) -> String {
    said.replace("no pg_hba.conf entry for", "no [[hba]] rule for")
        .replace("pg_hba.conf rejects connection for", "an [[hba]] rule rejects connection for")
}

/// SQLSTATE and message of a log-in without TLS.
async fn plainly(port: u16, case: &Case) -> String {
    let config = format!(
        "host=127.0.0.1 port={port} user={} password='{}' dbname={}",
        case.user, case.password, case.database
    );
    match tokio_postgres::connect(&config, NoTls).await {
        Ok(_) => "welcome".into(),
        Err(e) => match e.as_db_error() {
            Some(db) => format!("{} {} {}", db.severity(), db.code().code(), in_our_words(db.message())),
            None => format!("{e:?}"),
        },
    }
}

async fn start(papers: &Papers) -> (Cluster, Proxy, tempfile::TempDir) {
    let cluster = Cluster::start(Options {
        hba: HBA.iter().map(|line| (*line).to_owned()).collect(),
        tls: Some(Tls {
            certificate: papers.text("server.crt"),
            key: papers.text("server.key"),
            required: true,
        }),
        databases: vec!["app".into(), "closed".into()],
        settings: vec![("ssl_ca_file".into(), papers.path("ca.crt").display().to_string())],
        ..Options::plain()
    })
    .await
    .unwrap();
    // pg_ident.conf is read with the configuration
    let server = cluster.primary(0);
    let folder = server.ask("postgres", "SHOW data_directory").await.unwrap().unwrap();
    let ident = Path::new(&folder).join("pg_ident.conf");
    let before = std::fs::read_to_string(&ident).unwrap();
    std::fs::write(&ident, format!("{before}\ncerts cert mapped\n")).unwrap();
    server.sql("app", ROLES).await.unwrap();
    server.sql("app", "SELECT pg_reload_conf()").await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    for name in ["server.crt", "server.key", "ca.crt"] {
        std::fs::copy(papers.path(name), dir.path().join(name)).unwrap();
    }
    for database in &cluster.databases {
        std::fs::write(dir.path().join(format!("{database}.toml")), cluster.map_head(database)).unwrap();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_pgweir"));
    let mut proxy = Proxy::new(program, dir.path(), Port::claim(None).unwrap(), Lifetime::Scoped);
    let logins = [&cluster.app];
    proxy.configure(&logins, &cluster.service, &[("app".into(), "app.toml".into())], CONFIG).unwrap();
    proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
    (cluster, proxy, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_sees_what_it_sees_of_a_server_with_the_same_rules() {
    let papers = Papers::make();
    let (cluster, proxy, _dir) = start(&papers).await;
    let model = cluster.primary(0).port;
    let mut asked = Vec::new();
    for case in CASES {
        for mode in MODES {
            for binding in BINDINGS {
                // libpq tries again without TLS where it may
                let few = [("prefer", "prefer"), ("verify-full", "require")];
                if case.fully || few.contains(&(mode, binding)) {
                    asked.push((case, mode, binding));
                }
            }
        }
    }
    let count = asked.len();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let ask = || {
        let mut wrong = Vec::new();
        let mut welcome = 0;
        while let Some((case, mode, binding)) =
            asked.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            let expected = psql(&papers, model, case, mode, binding);
            let seen = psql(&papers, proxy.port, case, mode, binding);
            welcome += usize::from(expected == "42");
            if seen != expected {
                let (user, password, database) = (case.user, case.password, case.database);
                wrong.push(format!(
                    "{user}:{password}@{database} {:?} sslmode={mode} channel_binding={binding}\n  Postgres: {}\n  pgweir:   {}",
                    case.certificate,
                    expected.trim(),
                    seen.trim()
                ));
            }
        }
        (wrong, welcome)
    };
    let (mut wrong, welcome) = std::thread::scope(|threads| {
        let workers: Vec<_> = (0..4).map(|_| threads.spawn(ask)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).fold((vec![], 0), |(mut all, sum), (wrong, n)| {
            all.extend(wrong);
            (all, sum + n)
        })
    });
    assert!(welcome > 25 && welcome < count - 25, "{welcome} of {count} got in: the matrix shows little");
    for case in CASES {
        let (expected, seen) = tokio::join!(plainly(model, case), plainly(proxy.port, case));
        if expected != seen {
            wrong.push(format!("{}:{} Postgres: {expected}, pgweir: {seen}", case.user, case.password));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
