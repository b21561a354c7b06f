//! What a scraper reads, and what is logged of slow statements.

mod harness;

use harness::console::until;
use harness::{Harness, Setup};
use pgweir::cluster::Port;
use std::io::{Read, Write};

fn scrape(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_measured_by_shard_and_slow_ones_are_logged_without_secrets() {
    let port = Port::claim(None).unwrap();
    let number = port.number;
    let listen = format!("admin.listen=127.0.0.1:{number}");
    let h = Harness::start(Setup {
        settings: &[&listen, "database.app.slow_statement=5ms", "server.log=trace"],
        ..Setup::default()
    })
    .await;
    let client = h.client_as(&h.cluster.superuser, "app").await;
    let (here, _) = h.keys_on_both_shards();
    let shard = h.shard_of(here);
    let labels = format!("{{database=\"app\",shard=\"{shard}\",route=\"single\",role=\"primary\"}}");
    let count = format!("pgweir_request_seconds_count{labels}");
    for _ in 0..3 {
        client.simple_query(&format!("SELECT * FROM accounts WHERE id = {here}")).await.unwrap();
    }
    // the last one is counted a moment after its answer
    until("counted", async || scrape(number).contains(&format!("{count} 3"))).await;
    client.query("SELECT * FROM accounts WHERE id = $1", &[&here]).await.unwrap();
    until("the extended protocol, too", async || value(&scrape(number), &count) >= 4.0).await;
    client.simple_query("SELECT 1 / 0").await.unwrap_err();
    let text = scrape(number);
    assert!(value(&text, "pgweir_errors_total{sqlstate=\"22012\"}") >= 1.0);
    assert!(value(&text, &format!("pgweir_request_seconds_sum{labels}")) > 0.0);
    assert!(value(&text, "pgweir_bytes_total{database=\"app\",direction=\"sent\"}") > 100.0);
    let links = format!("pgweir_links{{database=\"app\",shard=\"{shard}\",state=\"idle\"}}");
    assert!(value(&text, &links) >= 1.0, "{text}");
    client.simple_query("CREATE TEMP TABLE mine (a int)").await.unwrap();
    let pinned = |text: &str| {
        text.lines().filter(|l| l.starts_with("pgweir_pinned_links{") && l.ends_with(" 1")).count()
    };
    assert_eq!(pinned(&scrape(number)), 1, "{text}");

    for secret in [
        "DO $$ BEGIN PERFORM 'geheim-1'; END $$",
        "SELECT /* geheim-2 */ 'geheim-3', $q$geheim-4$q$, E'geheim-5'",
        "ALTER ROLE nobody_here PASSWORD 'geheim-6'",
        "CREATE ROLE nobody_here PASSWORD $$geheim-7$$ -- geheim-8",
        "SET application_name = 'geheim-9'",
        "SELECT 'geheim-10",
    ] {
        // some are refused, which changes nothing
        let _ = client.simple_query(&format!("SELECT pg_sleep(0.01); {secret}")).await;
    }
    // a message of several is told of by its last statement
    client.simple_query("SELECT pg_sleep(0.01)").await.unwrap();
    until("logged", async || h.log().contains("statement=\"select pg_sleep(")).await;
    assert!(h.log().contains("statement=\"select '',"));
    let log = h.log();
    assert!(log.contains("slow statement") && log.contains("shard=\"s"), "{log}");
    assert!(log.contains("statement=\"select pg_sleep("), "{log}");
    let leaked: Vec<&str> = log.lines().filter(|l| l.contains("geheim")).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
}
