//! A piece of network between the proxy and a server, which a test can make slow or cut.

use crate::harness::Harness;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SSL_REQUEST: u32 = 80_877_103;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Ends with the value.
pub struct Relay {
    pub port: u16,
    flow: Arc<watch::Sender<Flow>>,
    cancels: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// What passes.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    /// nothing, and nobody is told
    frozen: bool,
    /// connections that ask for a cancel stay before the server
    holds_cancels: bool,
    cut: Option<(&'static str, &'static [u8])>,
}

impl Relay {
    /// To a port of this machine.
    pub async fn to(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let flow = Arc::new(watch::Sender::new(Flow::default()));
        let cancels = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        let (passing, counted) = (flow.clone(), cancels.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (passing, counted) = (passing.clone(), counted.clone());
                connections.spawn(async move {
                    // a connection that breaks ends, and that is all
                    let _ = connection(client, server, passing, counted).await;
                });
            }
        });
        Relay { port, flow, cancels, _tasks: tasks }
    }

    /// In front of a shard of a proxy that has not been started.
    pub async fn before(h: &Harness, shard: usize) -> Relay {
        let server = h.cluster.primary(shard).port;
        let relay = Relay::to(server).await;
        let map = std::fs::read_to_string(h.map_file()).unwrap();
        let map = map.replace(&format!("port = {server}"), &format!("port = {}", relay.port));
        std::fs::write(h.map_file(), map).unwrap();
        relay
    }

    /// The next connection on which somebody says `words` ends there; the client hears `last_words` first.
    pub fn cut_at(&self, words: &'static str, last_words: &'static [u8]) {
        self.flow.send_modify(|flow| flow.cut = Some((words, last_words)));
    }

    pub fn freeze(&self, yes: bool) {
        self.flow.send_modify(|flow| flow.frozen = yes);
    }

    pub fn hold_cancels(&self, yes: bool) {
        self.flow.send_modify(|flow| flow.holds_cancels = yes);
    }

    /// Cancel requests that have come so far.
    pub fn cancels(&self) -> usize {
        self.cancels.load(Ordering::SeqCst)
    }
}

async fn connection(
    mut client: TcpStream,
    server: u16,
    flow: Arc<watch::Sender<Flow>>,
    cancels: Arc<AtomicUsize>,
) -> Option<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await.ok()?;
    if first[4..] == SSL_REQUEST.to_be_bytes() {
        client.write_all(b"N").await.ok()?;
        client.read_exact(&mut first).await.ok()?;
    }
    if first[4..] == CANCEL_REQUEST.to_be_bytes() {
        cancels.fetch_add(1, Ordering::SeqCst);
        flow.subscribe().wait_for(|flow| !flow.holds_cancels).await.ok()?;
    }
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
    server.write_all(&first).await.ok()?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let cut = {
        let (asked, answered) =
            (pass(&mut from_client, &mut to_server, &flow), pass(&mut from_server, &mut to_client, &flow));
        let mut asked = std::pin::pin!(asked);
        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            Some(cut) = &mut asked => Some(cut),
            Some(cut) = &mut answered => Some(cut),
            else => None,
        }
    };
    to_client.write_all(cut?).await.ok()
}

/// One direction, to its end; what is to be said where it is cut.
async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    flow: &watch::Sender<Flow>,
) -> Option<&'static [u8]> {
    let mut passing = flow.subscribe();
    let mut piece = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut piece).await {
        let cut = passing.wait_for(|flow| !flow.frozen).await.ok()?.cut;
        if let Some((words, last_words)) = cut
            && piece[..n].windows(words.len()).any(|seen| seen == words.as_bytes())
        {
            flow.send_modify(|flow| flow.cut = None);
            return Some(last_words);
        }
        if n == 0 || to.write_all(&piece[..n]).await.is_err() {
            break;
        }
    }
    // an end that is told
    let _ = to.shutdown().await;
    None
}
