//! Who gets in: encryption, certificates, passwords, each over real sockets.
//!
//! The servers behind the map are not there: nothing here needs one.

#[path = "harness/house.rs"]
mod house;

use house::*;
use pgweir::wire::frontend;
use pgweir::wire::scram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

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
