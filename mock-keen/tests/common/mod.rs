//! A minimal HTTP client that sends bytes as they are and returns every byte.

// Each test program uses only a part of this.
#![allow(dead_code)]

use mock_keen::{MockKeen, Options, PROJECT, WRITE_KEY};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) async fn keen() -> MockKeen {
    MockKeen::start(Options::default()).await.unwrap()
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the `error_code`; empty if there is none.
    pub(crate) fn code(&self) -> String {
        self.json()["error_code"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).unwrap()
    }

    pub(crate) fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self(stream))
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.0.set_read_timeout(Some(timeout)).unwrap();
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn send(
        &mut self,
        head: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut text = format!("{head} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !head.starts_with("GET") {
            text += &format!("content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        self.send_raw(text.as_bytes())?;
        self.send_raw(body)
    }

    /// Reads one reply. An error means that the connection was closed before its end.
    pub(crate) fn read(&mut self) -> io::Result<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers =
            headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body.resize(length, 0);
        self.0.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    /// Whether the peer has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }

    pub(crate) fn call(
        &mut self,
        head: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        self.send(head, headers, body)?;
        self.read()
    }
}

/// Makes one call on a new connection. An error means that there was no complete reply.
pub(crate) fn try_call(
    keen: &MockKeen,
    head: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Reply> {
    Connection::try_open(keen.addr())?.call(head, headers, body.as_bytes())
}

pub(crate) fn call(keen: &MockKeen, head: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    try_call(keen, head, headers, body).unwrap()
}

pub(crate) fn single_head(collection: &str) -> String {
    format!("POST /3.0/projects/{PROJECT}/events/{collection}")
}

pub(crate) fn bulk_head() -> String {
    format!("POST /3.0/projects/{PROJECT}/events")
}

pub(crate) const AUTH: (&str, &str) = ("authorization", WRITE_KEY);

/// Sends one event to the single-event endpoint.
pub(crate) fn post(keen: &MockKeen, collection: &str, body: &str) -> Reply {
    call(keen, &single_head(collection), &[AUTH], body)
}

/// Sends a batch.
pub(crate) fn post_bulk(keen: &MockKeen, body: &str) -> Reply {
    call(keen, &bulk_head(), &[AUTH], body)
}

/// Sends a GET to the single-event endpoint, with the key in the query.
pub(crate) fn get(keen: &MockKeen, collection: &str, query: &str) -> Reply {
    let head =
        format!("GET /3.0/projects/{PROJECT}/events/{collection}?api_key={WRITE_KEY}&{query}");
    call(keen, &head, &[], "")
}
