//! The HTTP endpoint: GET /healthz, /readyz, /metrics.

use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A request's head is at most this long, in bytes.
const HEAD_LIMIT: usize = 8 * 1024;
/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Requests at once; further ones wait in the backlog.
const CONCURRENT: usize = 16;

/// Whether clients should be sent here: `Err` says why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Brings figures up to date that are looked at only when somebody asks.
pub type Look = Arc<dyn Fn() + Send + Sync>;

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, readiness: Readiness, look: Look) {
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, readiness, look) = (metrics.clone(), readiness.clone(), look.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    // A probe that goes away in the middle is its own affair.
                    let _ = timeout(DEADLINE, answer(stream, &metrics, &readiness, &look)).await;
                });
            }
            Err(e) => {
                tracing::warn!("admin: accept failed: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    metrics: &Metrics,
    readiness: &Readiness,
    look: &Look,
) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let complete = loop {
        if head.windows(4).any(|w| w == b"\r\n\r\n") {
            break true;
        }
        if head.len() > HEAD_LIMIT || stream.read_buf(&mut head).await? == 0 {
            break false;
        }
    };
    let (status, kind, body) = if complete {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        respond(&String::from_utf8_lossy(line), metrics, readiness, look)
    } else {
        ("400 Bad Request", TEXT, "a complete request of at most 8 KiB was expected\n".to_owned())
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

const TEXT: &str = "text/plain; charset=utf-8";

fn respond(
    request_line: &str,
    metrics: &Metrics,
    readiness: &Readiness,
    look: &Look,
) -> (&'static str, &'static str, String) {
    let mut words = request_line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" {
        return ("405 Method Not Allowed", TEXT, "only GET is answered\n".into());
    }
    match target.split('?').next().unwrap_or_default() {
        "/healthz" => ("200 OK", TEXT, "ok\n".into()),
        "/readyz" => match readiness() {
            Ok(()) => ("200 OK", TEXT, "ready\n".into()),
            Err(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        "/metrics" => {
            look();
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics.render())
        }
        _ => ("404 Not Found", TEXT, "there are /healthz, /readyz and /metrics\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str, ready: Result<(), String>) -> (&'static str, String) {
        let readiness: Readiness = Arc::new(move || ready.clone());
        let (status, _, body) = respond(line, &Metrics::detached(), &readiness, &(Arc::new(|| {}) as Look));
        (status, body)
    }

    #[test]
    fn probes_are_answered() {
        assert_eq!(ask("GET /healthz HTTP/1.1", Ok(())), ("200 OK", "ok\n".into()));
        assert_eq!(ask("GET /readyz?full HTTP/1.1", Ok(())).0, "200 OK");
        let (status, body) = ask("GET /readyz HTTP/1.1", Err("draining".into()));
        assert_eq!((status, &*body), ("503 Service Unavailable", "draining\n"));
        assert_eq!(ask("POST /metrics HTTP/1.1", Ok(())).0, "405 Method Not Allowed");
        assert_eq!(ask("", Ok(())).0, "405 Method Not Allowed");
        assert_eq!(ask("GET /nowhere HTTP/1.1", Ok(())).0, "404 Not Found");
    }
}
