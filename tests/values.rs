//! Key values against the oracle: what `wire::values` makes of text and bytes is what a server makes of them.
//!
//! Ours may say "ask the server" where it likes, but never another value than the server's, never a value where the
//! server refuses, and never a refusal of its own. Failing inputs are shrunk and printed.

use pgweir::cluster::{Cluster, Options};
use pgweir::wire::array::TextElements;
use pgweir::wire::values::{Converted, KeyType, KeyValue, ValueError};
use pgweir::wire::{md5, scram};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::cmp::Ordering;
use tokio_postgres::Client;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

const KINDS: [KeyType; 10] = [
    KeyType::Int2,
    KeyType::Int4,
    KeyType::Int8,
    KeyType::Numeric,
    KeyType::Text,
    KeyType::Uuid,
    KeyType::Date,
    KeyType::Timestamp,
    KeyType::TimestampTz,
    KeyType::Bytea,
];

/// The type's name in SQL and its send function.
fn sql(kind: KeyType) -> (&'static str, &'static str) {
    match kind {
        KeyType::Int2 => ("int2", "int2send"),
        KeyType::Int4 => ("int4", "int4send"),
        KeyType::Int8 => ("int8", "int8send"),
        KeyType::Numeric => ("numeric", "numeric_send"),
        KeyType::Text => ("text", "textsend"),
        KeyType::Uuid => ("uuid", "uuid_send"),
        KeyType::Date => ("date", "date_send"),
        KeyType::Timestamp => ("timestamp", "timestamp_send"),
        KeyType::TimestampTz => ("timestamptz", "timestamptz_send"),
        KeyType::Bytea => ("bytea", "byteasend"),
    }
}

/// What the server made of a value: its bytes, or SQLSTATE and message.
type Answer = Result<Vec<u8>, (String, String)>;

struct Oracle {
    runtime: tokio::runtime::Runtime,
    client: Client,
    _cluster: Cluster,
}

impl Oracle {
    fn start() -> Oracle {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (cluster, client) = runtime.block_on(async {
            let cluster = Cluster::start(Options::plain()).await.unwrap();
            // dates that only look unambiguous would show, and so would a TimeZone that is used
            let dmy = "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'";
            let client = cluster.primary(0).connect(&cluster.superuser.user, cluster.database()).await.unwrap();
            client
                .batch_execute(&format!(
                    "{dmy};
                     CREATE FUNCTION made_of(type text, send text, value text, OUT bytes bytea, OUT state text, OUT message text)
                     LANGUAGE plpgsql AS $$
                     BEGIN
                         EXECUTE format('SELECT %s($1::%s)', send, type) INTO bytes USING value;
                     EXCEPTION WHEN OTHERS THEN
                         GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
                     END $$"
                ))
                .await
                .unwrap();
            (cluster, client)
        });
        Oracle { runtime, client, _cluster: cluster }
    }

    fn read(&self, kind: KeyType, texts: &[String]) -> Vec<Answer> {
        let (name, send) = sql(kind);
        let query = "SELECT r.* FROM unnest($1::text[]) WITH ORDINALITY AS v(t, n), made_of($2, $3, t) AS r ORDER BY n";
        let rows = self.runtime.block_on(self.client.query(query, &[&texts, &name, &send])).unwrap();
        assert_eq!(rows.len(), texts.len());
        rows.iter()
            .map(|r| match r.get::<_, Option<Vec<u8>>>(0) {
                Some(bytes) => Ok(bytes),
                None => Err((r.get(1), r.get(2))),
            })
            .collect()
    }

    /// The same for a value in binary form.
    fn receive(&self, kind: KeyType, bytes: &[u8]) -> Answer {
        let (name, send) = sql(kind);
        let query = format!("SELECT {send}($1::{name})");
        match self.runtime.block_on(self.client.query_one(&query, &[&Raw(bytes)])) {
            Ok(row) => Ok(row.get(0)),
            Err(e) => {
                let e = e.as_db_error().expect("the server's own error");
                Err((e.code().code().to_owned(), e.message().to_owned()))
            }
        }
    }

    /// How the server orders pairs of texts.
    fn compare(&self, kind: KeyType, pairs: &[(String, String)]) -> Vec<Ordering> {
        let (name, _) = sql(kind);
        let collate = if kind == KeyType::Text { "COLLATE \"C\"" } else { "" };
        let query = format!(
            "SELECT (a::{name} {collate} > b::{name})::int - (a::{name} {collate} < b::{name})::int
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS v(a, b, n) ORDER BY n"
        );
        let (a, b): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(a, b)| (&a[..], &b[..])).unzip();
        let rows = self.runtime.block_on(self.client.query(&query, &[&a, &b])).unwrap();
        rows.iter().map(|r| r.get::<_, i32>(0).cmp(&0)).collect()
    }

    /// Whether `left = right` of two types, for texts of both.
    fn equal(&self, left: &str, right: &str, pairs: &[(String, String)]) -> Vec<bool> {
        let query = format!(
            "SELECT a::{left} = b::{right}
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS v(a, b, n) ORDER BY n"
        );
        let (a, b): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(a, b)| (&a[..], &b[..])).unzip();
        let rows = self.runtime.block_on(self.client.query(&query, &[&a, &b])).unwrap();
        rows.iter().map(|r| r.get(0)).collect()
    }
}

#[derive(Debug)]
struct Raw<'a>(&'a [u8]);

impl ToSql for Raw<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }
    tokio_postgres::types::to_sql_checked!();
}

/// Ours beside the server's; `true` when ours knew.
fn agree(
    kind: KeyType,
    input: &str,
    ours: &Result<KeyValue<'_>, ValueError>,
    server: &Answer,
) -> Result<bool, TestCaseError> {
    match (ours, server) {
        (Err(ValueError::NeedsServer), _) => return Ok(false),
        (Ok(v), Ok(bytes)) => {
            prop_assert_eq!(&KeyValue::from_binary(kind, bytes), &Ok(v.clone()), "{:?} {:?}", kind, input);
        }
        (Err(ValueError::Invalid(e)), Err((state, message))) => {
            // only Bind knows the number of the parameter
            let message = message.trim_end_matches(" 1");
            let sqlstate = e.sqlstate();
            prop_assert_eq!(
                (sqlstate.as_str(), e.message()),
                (&state[..], message),
                "{:?} {:?}",
                kind,
                input
            );
        }
        (ours, server) => prop_assert!(false, "{kind:?} {input:?}: ours {ours:?}, the server {server:?}"),
    }
    Ok(true)
}

fn run<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    match TestRunner::new(config).run(&strategy, test) {
        Ok(()) => {}
        // the reason names the one input that matters; the case is a batch of hundreds
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(e) => panic!("{e}"),
    }
}

fn many<S: Strategy<Value = String>>(one: S) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(one, 200)
}

/// Texts that are nearly, mostly, or not at all of a type.
fn texts(kind: KeyType) -> BoxedStrategy<String> {
    match kind {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => prop_oneof![
            any::<i64>().prop_map(|v| v.to_string()),
            any::<i32>().prop_map(|v| v.to_string()),
            any::<i16>().prop_map(|v| v.to_string()),
            (any::<bool>(), -3i128..4, prop_oneof![Just(15), Just(31), Just(63)]).prop_map(|(n, d, p)| {
                let edge = (1i128 << p) + d;
                (if n { -edge } else { edge }).to_string()
            }),
            "[ \t\n\u{b}\u{c}\r]{0,2}[-+]{0,2}[0-9]{0,6}[ x_.]{0,2}",
            "[-+0-9 ]{0,22}",
            "0[xob][0-9a-f_]{0,4}",
        ]
        .boxed(),
        KeyType::Numeric => prop_oneof![
            any::<i64>().prop_map(|v| v.to_string()),
            "-?[0-9]{0,30}\\.?[0-9]{0,30}",
            "[-+]?0{0,6}[0-9]{0,5}(\\.0{0,9}[0-9]{0,5})?0{0,5}([eE][-+]?[0-9]{1,3})?",
            "-?[1-9]\\.?[0-9]{0,4}e-?(1638[0-9]|13107[0-9]|32767|1000000000|1073741823|99999999999999999999)",
            "0\\.?0{0,4}e-?(1638[0-9]|13107[0-9])",
            " ?[-+]?(nan|NaN|inf|Infinity|INF|infinit) ?",
            "[-+0-9.eE _xn]{0,12}",
        ]
        .boxed(),
        KeyType::Text => prop_oneof!["[^\0]{0,20}", "[a-c ]{0,3}"].boxed(),
        KeyType::Uuid => prop_oneof![
            "[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "\\{?([0-9a-fA-F]{4}-?){8}\\}?",
            "\\{?([0-9a-f]{2}-?){15,17}\\}?",
            "[ {}0-9a-g-]{30,40}",
        ]
        .boxed(),
        KeyType::Bytea => prop_oneof![
            "\\\\x([0-9a-fA-F]{2} ?){0,10}",
            "\\\\[xX][0-9a-fg \t\n]{0,8}",
            "([a-z']|\\\\\\\\|\\\\[0-4][0-8][0-7]|\\\\[0-9a]){0,8}",
        ]
        .boxed(),
        KeyType::Date => prop_oneof![date(), date().prop_map(|d| format!(" {d} ")), odd_dates()].boxed(),
        KeyType::Timestamp | KeyType::TimestampTz => {
            let zone = "(Z|( ?[-+][01][0-9](:?[0-6][0-9](:[0-6][0-9])?)?))?";
            let time = "([01][0-9]|2[0-5]):[0-6][0-9](:[0-6][0-9](\\.[0-9]{1,12})?)?";
            let half = "[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\\.[0-9]{6}(5|4999999999|5000000001|49|51)";
            prop_oneof![
                (date(), "[ T]", time, zone, "( BC)?")
                    .prop_map(|(d, s, t, z, bc)| { format!("{}{s}{t}{z}{bc}", d.trim_end_matches(" BC")) }),
                (date(), half).prop_map(|(d, t)| format!("{} {t}Z", d.trim_end_matches(" BC"))),
                date(),
                odd_dates(),
            ]
            .boxed()
        }
    }
}

fn date() -> BoxedStrategy<String> {
    prop_oneof![
        "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( BC)?",
        "(0[0-9]{3}|[0-9]{4,7})-[01][0-9]-[0-3][0-9]( BC)?",
        "(471[2-5]-1[0-2]-[0-3][0-9] BC)|(29427[5-8]-(01|12)-[03][01])|(587489[6-8]-(01|05|06|12)-[03][01])",
        "(1900|2000|2100|2004)-02-(28|29|30)",
    ]
    .boxed()
}

fn odd_dates() -> BoxedStrategy<String> {
    prop_oneof![
        "-?(infinity|Infinity|INFINITY)",
        "(epoch|today|now|yesterday|allballs|2020-01-02 EST|J2451187|20200102|2020\\.002)",
        "[0-9]{1,4}[-/. ][0-9]{1,2}[-/. ][0-9]{1,4}",
        "[0-9]{4,5}-[0-9]{1,2}-[0-9]{1,3}( BC)?",
        "[0-9]{4}[01][0-9][0-3][0-9]( BC)?",
        "[0-9]{6,9}",
        "[-+0-9:TZ. ]{0,24}",
    ]
    .boxed()
}

#[test]
fn text_is_read_as_the_server_reads_it() {
    let oracle = Oracle::start();
    for kind in KINDS {
        let known = std::cell::Cell::new(0);
        run(12, many(texts(kind)), |inputs| {
            let answers = oracle.read(kind, &inputs);
            for (text, server) in inputs.iter().zip(&answers) {
                let ours = KeyValue::from_text(kind, text.as_bytes());
                let knew = agree(kind, text, &ours, server)?;
                known.set(known.get() + u32::from(knew));
            }
            // the canonical text is the same value to the server
            let (values, canonical): (Vec<_>, Vec<_>) = inputs
                .iter()
                .filter_map(|t| KeyValue::from_text(kind, t.as_bytes()).ok())
                .map(|v| (v.clone(), v.to_text().into_owned()))
                .unzip();
            for ((value, text), server) in values.iter().zip(&canonical).zip(oracle.read(kind, &canonical)) {
                prop_assert!(agree(kind, text, &Ok(value.clone()), &server)?);
                prop_assert_eq!(KeyValue::from_text(kind, text.as_bytes()), Ok(value.clone()));
            }
            Ok(())
        });
        assert!(known.get() > 400, "{kind:?}: only {} of 2400 texts were read here", known.get());
    }
}

#[test]
fn numerics_are_received_as_the_server_receives_them() {
    let oracle = Oracle::start();
    let digits =
        proptest::collection::vec(prop_oneof![Just(0i16), Just(9999), 0i16..10_000, -2i16..10_002], 0..6);
    let weight = prop_oneof![-6i16..6, any::<i16>()];
    let sign = prop_oneof![Just(0u16), Just(0x4000), Just(0xc000), Just(0xd000), Just(0xf000), any::<u16>()];
    let scale = prop_oneof![0u16..20, any::<u16>()];
    run(400, (digits, weight, sign, scale, -1i8..2), |(digits, weight, sign, scale, lie)| {
        let mut bytes = Vec::new();
        bytes.extend(((digits.len() as i16) + i16::from(lie)).max(0).to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(scale.to_be_bytes());
        digits.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
        let ours = KeyValue::from_binary(KeyType::Numeric, &bytes);
        let knew =
            agree(KeyType::Numeric, &format!("{bytes:?}"), &ours, &oracle.receive(KeyType::Numeric, &bytes))?;
        prop_assert!(knew);
        if let Ok(v) = ours {
            let again = v.to_binary(KeyType::Numeric).unwrap();
            prop_assert_eq!(KeyValue::from_binary(KeyType::Numeric, &again), Ok(v.clone()));
            prop_assert!(agree(
                KeyType::Numeric,
                "sent again",
                &Ok(v),
                &oracle.receive(KeyType::Numeric, &again)
            )?);
        }
        Ok(())
    });
}

#[test]
fn binary_is_read_as_the_server_reads_it() {
    let oracle = Oracle::start();
    for kind in KINDS {
        let exact = match kind {
            KeyType::Int2 => 2,
            KeyType::Int4 | KeyType::Date => 4,
            KeyType::Uuid => 16,
            _ => 8,
        };
        run(60, (proptest::collection::vec(any::<u8>(), 0..20), any::<bool>()), |(mut bytes, whole)| {
            if whole {
                bytes.resize(exact, 0x7f);
            }
            let ours = KeyValue::from_binary(kind, &bytes);
            agree(kind, &format!("{bytes:?}"), &ours, &oracle.receive(kind, &bytes))?;
            if let Ok(v) = ours.filter_numeric() {
                prop_assert_eq!(v.to_binary(kind), Some(bytes));
            }
            Ok(())
        });
    }
    for (kind, edges) in [
        (KeyType::Date, [-2_451_545i64, 2_145_031_948, i64::from(i32::MIN), i64::from(i32::MAX)]),
        (KeyType::Timestamp, [-211_813_488_000_000_000, 9_223_371_331_199_999_999, i64::MIN, i64::MAX]),
        (KeyType::TimestampTz, [-211_813_488_000_000_000, 9_223_371_331_199_999_999, i64::MIN, i64::MAX]),
    ] {
        for edge in edges {
            for near in [edge.wrapping_sub(1), edge, edge.wrapping_add(1)] {
                let bytes = match kind {
                    KeyType::Date => (near as i32).to_be_bytes().to_vec(),
                    _ => near.to_be_bytes().to_vec(),
                };
                let ours = KeyValue::from_binary(kind, &bytes);
                assert!(agree(kind, &near.to_string(), &ours, &oracle.receive(kind, &bytes)).unwrap());
            }
        }
    }
}

trait FilterNumeric<'a> {
    fn filter_numeric(self) -> Result<KeyValue<'a>, ()>;
}

impl<'a> FilterNumeric<'a> for Result<KeyValue<'a>, ValueError> {
    /// numeric has many binary forms of one value
    fn filter_numeric(self) -> Result<KeyValue<'a>, ()> {
        self.map_err(drop).and_then(|v| if matches!(v, KeyValue::Numeric(_)) { Err(()) } else { Ok(v) })
    }
}

/// Pairs that both sides read.
fn pairs(a: KeyType, b: KeyType) -> impl Strategy<Value = Vec<(String, String)>> {
    let read = |kind| move |t: &String| KeyValue::from_text(kind, t.as_bytes()).is_ok();
    let near = if a == KeyType::Numeric { "-?[0-9]{1,5}(\\.[0-9]{0,5})?".boxed() } else { texts(a) };
    let one = prop_oneof![texts(a), near].prop_filter("read", read(a));
    let two = texts(b).prop_filter("read", read(b));
    proptest::collection::vec((one, two), 60)
}

#[test]
fn values_are_ordered_as_the_server_orders_them() {
    let oracle = Oracle::start();
    for kind in KINDS {
        run(5, pairs(kind, kind), |mut pairs| {
            pairs.extend(pairs.clone().into_iter().map(|(a, _)| (a.clone(), a)));
            for ((a, b), server) in pairs.iter().zip(oracle.compare(kind, &pairs)) {
                let (x, y) = (
                    KeyValue::from_text(kind, a.as_bytes()).unwrap(),
                    KeyValue::from_text(kind, b.as_bytes()).unwrap(),
                );
                prop_assert_eq!(x.cmp(&y), server, "{:?} {:?} {:?}", kind, a, b);
                prop_assert_eq!(x == y, server == Ordering::Equal);
            }
            Ok(())
        });
    }
}

/// `column = constant` across types: our conversion is the value that is equal, or there is none.
#[test]
fn values_of_two_types_are_equal_where_the_server_says_so() {
    let oracle = Oracle::start();
    use KeyType::{Date, Int2, Int4, Int8, Numeric, Timestamp};
    for (column, constant) in [
        (Int2, Int8),
        (Int4, Int8),
        (Int8, Int2),
        (Int2, Numeric),
        (Int4, Numeric),
        (Int8, Numeric),
        (Numeric, Int8),
        (Date, Timestamp),
        (Timestamp, Date),
    ] {
        run(4, pairs(column, constant), |mut pairs| {
            // make the constant equal to the column now and then, in another spelling
            for (i, (a, b)) in pairs.iter_mut().enumerate() {
                let spelled = match (constant, i % 4) {
                    (Numeric, 0) => format!("{}.000", a.trim()),
                    (Numeric, 1) => format!("{}.5", a.trim()),
                    (_, 0 | 1) => a.clone(),
                    _ => continue,
                };
                if KeyValue::from_text(constant, spelled.as_bytes()).is_ok() {
                    *b = spelled;
                }
            }
            let equal = oracle.equal(sql(column).0, sql(constant).0, &pairs);
            for ((a, b), equal) in pairs.iter().zip(equal) {
                let value = KeyValue::from_text(column, a.as_bytes()).unwrap();
                let converted = KeyValue::from_text(constant, b.as_bytes()).unwrap().convert_to(column);
                prop_assert_ne!(&converted, &Converted::NeedsServer);
                prop_assert_eq!(converted == Converted::Value(value), equal, "{:?} {:?} {:?}", column, a, b);
            }
            Ok(())
        });
    }
}

#[test]
fn arrays_have_the_elements_that_the_server_finds() {
    let oracle = Oracle::start();
    let text = prop_oneof![
        "\\{([a-z0-9 ]{1,3}|NULL|\"([a-z,{} ]|\\\\[\"\\\\a]){0,4}\")(, ?([a-z0-9 ]{1,3}|null|\"[a-z,{} ]{0,4}\")){0,4}\\}",
        "\\{[a\" ,\\\\{}N]{0,8}\\}",
        "(\\[0:1\\]=)?\\{[0-9,{}]{0,8}\\} ?",
    ];
    let known = std::cell::Cell::new(0);
    run(10, many(text), |inputs| {
        let query = "SELECT r.bytes IS NOT NULL, CASE WHEN r.bytes IS NOT NULL THEN to_json(t::text[])::text END
                     FROM unnest($1::text[]) WITH ORDINALITY AS v(t, n), made_of('text[]', 'array_send', t) AS r ORDER BY n";
        let rows = oracle.runtime.block_on(oracle.client.query(query, &[&inputs])).unwrap();
        for (text, row) in inputs.iter().zip(rows) {
            let ours: Result<Vec<_>, _> = TextElements::new(text.as_bytes()).and_then(Iterator::collect);
            let Ok(ours) = ours else { continue };
            known.set(known.get() + 1);
            prop_assert!(row.get::<_, bool>(0), "{:?}: the server refuses", text);
            let ours: Vec<Option<String>> =
                ours.into_iter().map(|e| e.map(|e| String::from_utf8(e.into_owned()).unwrap())).collect();
            let server: serde_json::Value = serde_json::from_str(row.get(1)).unwrap();
            prop_assert_eq!(serde_json::to_value(ours).unwrap(), server, "{:?}", text);
        }
        Ok(())
    });
    assert!(known.get() > 400, "only {} of 2000 arrays were read here", known.get());
}

/// Verifiers that we compute are those that the server computes, SASLprep's oddities included.
#[test]
fn stored_passwords_are_those_that_the_server_stores() {
    let oracle = Oracle::start();
    let stored = |method: &str, password: &str| -> String {
        let literal = password.replace('\'', "''");
        let statements = format!(
            "SET password_encryption = '{method}'; DROP ROLE IF EXISTS somebody; CREATE ROLE somebody PASSWORD '{literal}'"
        );
        oracle.runtime.block_on(async {
            oracle.client.batch_execute(&statements).await.unwrap();
            let query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'somebody'";
            oracle.client.query_one(query, &[]).await.unwrap().get(0)
        })
    };
    for password in [
        "secret",
        " with space ",
        "pass'word",
        "I\u{ad}X",
        "\u{2168}",
        "\u{aa}",
        "a\u{7}b",
        "\u{fb01}",
        "p\u{e9}ter",
        "pe\u{301}ter",
        "\u{627}1",
        "\u{627}1\u{628}",
        "a\u{627}",
        "\u{1680}x",
        "\u{a0}",
        "\u{221}",
        "\u{1f600}",
        "\u{ad}",
        "\u{200b}x",
        "\u{e0001}",
        "\u{fffd}",
        "\u{212b}",
        "\u{ac00}\u{11a8}",
    ] {
        let verifier = scram::Verifier::parse(&stored("scram-sha-256", password)).unwrap();
        let ours = scram::Verifier::from_password(password.as_bytes(), &verifier.salt, verifier.iterations);
        assert_eq!(ours.to_string(), verifier.to_string(), "{password:?}");
        assert!(verifier.accepts(password.as_bytes()), "{password:?}");
        assert_eq!(md5::stored(b"somebody", password.as_bytes()), stored("md5", password), "{password:?}");
    }
}
