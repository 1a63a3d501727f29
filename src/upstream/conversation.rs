//! A conversation of our own with a server, beside the connections of clients: commands out, whole replies in.

use bytes::BytesMut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::Stream;
use crate::resp;
use crate::text;

/// The longest reply, in bytes: lists of replicas have about 1 KiB for each, those of a cluster's nodes less.
const LONGEST: usize = 1024 * 1024;

pub struct Conversation {
    stream: Stream,
    /// What the server is to be, for the error of one that is not.
    with: &'static str,
    buffer: BytesMut,
}

impl Conversation {
    pub fn over(stream: Stream, with: &'static str) -> Self {
        Self { stream, with, buffer: BytesMut::new() }
    }

    pub async fn send(&mut self, commands: &[Vec<&[u8]>]) -> Result<(), String> {
        self.stream
            .write_all(resp::commands(commands).expose())
            .await
            .map_err(|error| text::io_error(&error))?;
        // A TLS stream may still buffer some of it.
        self.stream.flush().await.map_err(|error| text::io_error(&error))
    }

    pub async fn receive(&mut self) -> Result<BytesFrame, String> {
        loop {
            match resp::value(&mut self.buffer, LONGEST) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(resp::NotReply) => return Err(format!("it does not answer like a {}", self.with)),
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(text::io_error(&error)),
            }
        }
    }
}
