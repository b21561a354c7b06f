//! The session itself, from AuthenticationOk to the last byte.

use crate::error::Error;
use crate::session::database::Database;
use crate::session::registry::Registration;
use crate::session::{Greeted, Shutdown};
use crate::wire::frame::{self, Limits};
use crate::wire::{backend as reply, startup};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Serves one client until it leaves or must leave.
pub async fn serve(
    mut greeted: Greeted,
    database: Arc<Database>,
    registration: Registration,
    mut shutdown: watch::Receiver<Shutdown>,
) {
    let _ = (&database, startup::PROTOCOL_3_0);
    let mut out = BytesMut::new();
    reply::parameter_status(&mut out, b"server_version", b"15.0");
    reply::parameter_status(&mut out, b"client_encoding", b"UTF8");
    reply::backend_key_data(&mut out, registration.entry.pid, &registration.entry.secret);
    reply::ready_for_query(&mut out, b'I');
    let refusing = async {
        loop {
            greeted.stream.write_all_buf(&mut out).await?;
            greeted.stream.flush().await?;
            let Ok(header) = frame::header(&greeted.input, &Limits::CLIENT) else { return Ok(()) };
            match header {
                Some(h) if greeted.input.len() >= h.len => {
                    let _ = greeted.input.split_to(h.len);
                    match h.tag {
                        b'X' => return Ok(()),
                        b'Q' => {
                            reply::error(&mut out, &Error::unsupported("this server answers no statements"));
                            reply::ready_for_query(&mut out, b'I');
                        }
                        b'S' => reply::ready_for_query(&mut out, b'I'),
                        _ => {}
                    }
                }
                _ => {
                    if greeted.stream.read_buf(&mut greeted.input).await? == 0 {
                        return Ok::<(), io::Error>(());
                    }
                }
            }
        }
    };
    tokio::select! {
        _ = refusing => {}
        _ = shutdown.wait_for(|s| *s != Shutdown::Running) => {}
    }
}
