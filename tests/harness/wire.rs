//! A client that speaks the protocol message by message, and writes down what it hears.
//!
//! A script is run against the proxy and against the oracle; the two transcripts must be equal. What differs by
//! nature (OIDs of tables, process numbers, source lines of errors) is not written down.

use bytes::BytesMut;
use pgweir::wire::backend::{self, Authentication};
use pgweir::wire::frame::{self, Limits};
use pgweir::wire::frontend::{self, Target};
use pgweir::wire::scram;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    pub key: Option<(i32, Vec<u8>)>,
    pub parameters: std::collections::BTreeMap<String, String>,
}

/// No test waits longer than this for a reply.
const PATIENCE: Duration = Duration::from_secs(30);

impl Wire {
    /// Logs in with a `postgres://user:password@host:port/database` URL.
    pub fn connect(url: &str, parameters: &[(&str, &str)]) -> Result<Wire, String> {
        let rest = url.strip_prefix("postgres://").unwrap();
        let (login, place) = rest.rsplit_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (address, database) = place.split_once('/').unwrap();
        let stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut w = Wire {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            key: None,
            parameters: Default::default(),
        };
        let mut all = vec![("user", user), ("database", database)];
        all.extend_from_slice(parameters);
        frontend::startup(&mut w.output, 196_608, all.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        w.flush();
        let mut first = None;
        let mut last = None;
        loop {
            let (tag, body) = w.read().map_err(|e| e.to_string())?;
            match tag {
                b'R' => match Authentication::parse(&body).unwrap() {
                    Authentication::Ok => {}
                    Authentication::Sasl { .. } => {
                        let credential = scram::Credential::Password {
                            password: password.as_bytes().to_vec(),
                            cached: None,
                        };
                        let (mechanism, message, state) =
                            scram::AwaitServerFirst::start(credential, &[b"SCRAM-SHA-256"], None).unwrap();
                        frontend::sasl_initial(&mut w.output, mechanism, &message);
                        first = Some(state);
                        w.flush();
                    }
                    Authentication::SaslContinue(data) => {
                        let state: scram::AwaitServerFirst = first.take().unwrap();
                        let (message, state) = state.challenged(data).unwrap();
                        frontend::sasl_response(&mut w.output, &message);
                        last = Some(state);
                        w.flush();
                    }
                    Authentication::SaslFinal(data) => {
                        let state: scram::AwaitServerFinal = last.take().unwrap();
                        state.verify(data).unwrap();
                    }
                    other => panic!("{other:?}"),
                },
                b'S' => {
                    let s = backend::ParameterStatus::parse(&body).unwrap();
                    w.parameters.insert(text(s.name), text(s.value));
                }
                b'K' => {
                    let k = backend::BackendKeyData::parse(&body).unwrap();
                    w.key = Some((k.pid, k.secret.to_vec()));
                }
                b'E' => return Err(describe(tag, &body)),
                b'Z' => return Ok(w),
                _ => {}
            }
        }
    }

    /// The connection itself, for a client that does not keep to the rules.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub fn flush(&mut self) -> &mut Self {
        self.stream.write_all(&self.output).unwrap();
        self.output.clear();
        self
    }
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.output.extend_from_slice(bytes);
        self
    }
    pub fn q(&mut self, sql: &str) -> &mut Self {
        frontend::query(&mut self.output, sql.as_bytes());
        self
    }
    pub fn p(&mut self, name: &str, sql: &str, types: &[u32]) -> &mut Self {
        frontend::parse(&mut self.output, name.as_bytes(), sql.as_bytes(), types);
        self
    }
    /// Values as text.
    pub fn b(&mut self, portal: &str, name: &str, values: &[Option<&str>]) -> &mut Self {
        let values: Vec<_> = values.iter().map(|v| v.map(str::as_bytes)).collect();
        frontend::bind(&mut self.output, portal.as_bytes(), name.as_bytes(), &[], &values, &[]);
        self
    }
    /// Values and results in binary.
    pub fn bb(&mut self, portal: &str, name: &str, values: &[Option<&[u8]>]) -> &mut Self {
        frontend::bind(&mut self.output, portal.as_bytes(), name.as_bytes(), &[1], values, &[1]);
        self
    }
    pub fn ds(&mut self, name: &str) -> &mut Self {
        frontend::describe(&mut self.output, Target::Statement, name.as_bytes());
        self
    }
    pub fn dp(&mut self, name: &str) -> &mut Self {
        frontend::describe(&mut self.output, Target::Portal, name.as_bytes());
        self
    }
    pub fn e(&mut self, portal: &str, rows: i32) -> &mut Self {
        frontend::execute(&mut self.output, portal.as_bytes(), rows);
        self
    }
    pub fn cs(&mut self, name: &str) -> &mut Self {
        frontend::close(&mut self.output, Target::Statement, name.as_bytes());
        self
    }
    pub fn cp(&mut self, name: &str) -> &mut Self {
        frontend::close(&mut self.output, Target::Portal, name.as_bytes());
        self
    }
    pub fn s(&mut self) -> &mut Self {
        frontend::sync(&mut self.output);
        self
    }
    pub fn h(&mut self) -> &mut Self {
        frontend::flush(&mut self.output);
        self
    }
    pub fn copy(&mut self, data: &str) -> &mut Self {
        self.copy_bytes(data.as_bytes())
    }
    pub fn copy_bytes(&mut self, data: &[u8]) -> &mut Self {
        frontend::copy_data(&mut self.output, data);
        self
    }
    pub fn copy_done(&mut self) -> &mut Self {
        frontend::copy_done(&mut self.output);
        self
    }
    pub fn copy_fail(&mut self, why: &str) -> &mut Self {
        frontend::copy_fail(&mut self.output, why);
        self
    }

    fn read(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(h) = frame::header(&self.input, &Limits::SERVER).unwrap()
                && self.input.len() >= h.len
            {
                let frame = self.input.split_to(h.len);
                return Ok((h.tag, frame[frame::HEADER..].to_vec()));
            }
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Sends what was put together and writes down what comes, up to the `readies`th ReadyForQuery.
    pub fn hear(&mut self, readies: usize) -> Vec<String> {
        self.flush();
        let mut heard = Vec::new();
        let mut seen = 0;
        while seen < readies {
            match self.read() {
                Ok((b'S', body)) => {
                    let s = backend::ParameterStatus::parse(&body).unwrap();
                    self.parameters.insert(text(s.name), text(s.value));
                    heard.push(format!("parameter {}={}", text(s.name), text(s.value)));
                }
                Ok((tag, body)) => {
                    seen += usize::from(tag == b'Z');
                    heard.push(describe(tag, &body));
                }
                Err(e) => {
                    heard.push(format!("END {:?}", e.kind()));
                    break;
                }
            }
        }
        heard
    }

    /// Sends what was put together; the messages that come, up to the `readies`th ReadyForQuery. They end early when
    /// the connection does.
    pub fn frames(&mut self, readies: usize) -> Vec<(u8, Vec<u8>)> {
        self.flush();
        let mut frames = Vec::new();
        let mut seen = 0;
        while seen < readies {
            let Ok(frame) = self.read() else { break };
            seen += usize::from(frame.0 == b'Z');
            frames.push(frame);
        }
        frames
    }

    /// Writes down `count` messages.
    pub fn messages(&mut self, count: usize) -> Vec<String> {
        self.flush();
        (0..count)
            .map(|_| match self.read() {
                Ok((tag, body)) => describe(tag, &body),
                Err(e) => format!("END {:?}", e.kind()),
            })
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn describe(tag: u8, body: &[u8]) -> String {
    match tag {
        b'T' => {
            let row = backend::RowDescription::parse(body).unwrap();
            let fields: Vec<_> =
                row.iter().map(|f| format!("{}:{}:{}", text(f.name), f.type_oid, f.format)).collect();
            format!("row description {}", fields.join(" "))
        }
        b't' => {
            let p = backend::ParameterDescription::parse(body).unwrap();
            format!("parameters {:?}", p.types.iter().collect::<Vec<_>>())
        }
        b'D' => {
            let row = backend::DataRow::parse(body).unwrap();
            let cells: Vec<_> =
                row.iter().map(|c| c.map_or("NULL".into(), |c| c.escape_ascii().to_string())).collect();
            format!("row {}", cells.join("|"))
        }
        b'C' => format!("complete {}", text(&body[..body.len() - 1])),
        b'Z' => format!("ready {}", char::from(body[0])),
        b'E' | b'N' => {
            let f = backend::ErrorFields::parse(body).unwrap();
            let what = if tag == b'E' { "error" } else { "notice" };
            format!("{what} {} {} {}", text(f.severity()), f.sqlstate().as_str(), text(f.message()))
        }
        b'd' => format!("copy data {}", body.escape_ascii()),
        b'A' => {
            let n = backend::Notification::parse(body).unwrap();
            format!("notification {} {}", text(n.channel), text(n.payload))
        }
        b'G' | b'H' | b'W' => format!("copy {} {:?}", char::from(tag), body),
        _ => format!("{}", char::from(tag)),
    }
}

/// The last line of a transcript that begins so; empty if there is none.
pub fn last<'a>(heard: &'a [String], start: &str) -> &'a str {
    heard.iter().rev().find(|l| l.starts_with(start)).map_or("", String::as_str)
}

/// A cancel request, and its end: it was dealt with.
pub fn cancel(port: u16, (pid, secret): &(i32, Vec<u8>)) {
    let mut stream = ask_to_cancel(port, *pid, secret);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nobody answers a cancel request");
}

/// A cancel request; the connection ends when it was dealt with.
pub fn ask_to_cancel(port: u16, pid: i32, secret: &[u8]) -> TcpStream {
    let mut out = BytesMut::new();
    frontend::cancel_request(&mut out, pid, secret);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&out).unwrap();
    stream
}
