//! A minimal HTTP/2 client that opens many streams with large headers and leaves them open.
//!
//! The client repeats a large header by its index in the HPACK table: one byte on the wire is about
//! 4 KB in Envoy.

use super::fixture::PATIENCE;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// HPACK index of the newest entry of the dynamic table, as an indexed field.
const NEWEST_ENTRY: u8 = 0x80 | 62;
/// Length of one value of the large header, in bytes. Name and value fit the HPACK table of 4,096
/// bytes.
pub const VALUE_BYTES: usize = 3_950;

/// One connection.
pub struct Http2 {
    stream: TcpStream,
    next_id: u32,
}

impl Http2 {
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(PREFACE)?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
        // Envoy's SETTINGS come first.
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        assert_eq!(head[3], SETTINGS);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize])?;
        stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?;
        Ok(Self { stream, next_id: 1 })
    }

    /// Sends a POST to /v1/track with `repeats` headers `name`, each with [`VALUE_BYTES`] bytes.
    /// Without a body the request stays incomplete.
    pub fn post(&mut self, name: &str, repeats: usize, body: Option<&[u8]>) -> io::Result<()> {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/v1/track"),
            (":authority", "edge.example"),
            ("authorization", "Basic d3JpdGVLZXk6"),
        ] {
            literal(&mut block, 0x00, name, value.as_bytes());
        }
        let mut repeats = repeats;
        if self.next_id == 1 && repeats > 0 {
            literal(&mut block, 0x40, name, &[b'x'; VALUE_BYTES]);
            repeats -= 1;
        }
        block.extend(std::iter::repeat_n(NEWEST_ENTRY, repeats));
        let mut bytes = frame(HEADERS, END_HEADERS, self.next_id, &block);
        if let Some(body) = body {
            bytes.extend(frame(DATA, END_STREAM, self.next_id, body));
        }
        self.next_id += 2;
        self.stream.write_all(&bytes)
    }

    /// Discards the bytes received so far.
    pub fn discard_received(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_536];
        while self.stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        self.stream.set_nonblocking(false).unwrap();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes a literal field with a literal name (RFC 7541, 6.2). `form` 0x40 adds it to the table.
fn literal(block: &mut Vec<u8>, form: u8, name: &str, value: &[u8]) {
    block.push(form);
    string(block, name.as_bytes());
    string(block, value);
}

/// Encodes a string without Huffman coding. Its length is an integer with a 7-bit prefix.
fn string(block: &mut Vec<u8>, text: &[u8]) {
    let length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).unwrap() | 0x80);
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend(text);
}
