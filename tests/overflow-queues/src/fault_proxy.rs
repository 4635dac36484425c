//! An HTTP proxy in front of a queue. It makes the queue fail.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The behaviour of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueueFault {
    /// The queue works.
    #[default]
    None,
    /// Answers after this long.
    Slow(Duration),
    /// Refuses access: status 403.
    Refuses,
    /// Throttles: status 400 with SQS's error.
    Throttles,
    /// Answers 200 without a `MessageId`, and stores nothing.
    WithoutId,
    /// Closes each connection.
    IsAway,
    /// Does what is asked, and closes the connection before the reply.
    LosesReply,
}

/// A proxy. It runs until the runtime of its test ends.
#[derive(Debug, Clone)]
pub struct FaultProxy {
    /// The address of the proxy.
    pub addr: SocketAddr,
    target: SocketAddr,
    fault: Arc<Mutex<QueueFault>>,
    receives: Arc<Mutex<u64>>,
}

struct Request {
    action: String,
    head: Vec<(String, String)>,
    body: Vec<u8>,
}

impl FaultProxy {
    /// Starts a proxy.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|error| panic!("{error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let proxy = Self { addr, target, fault: Arc::default(), receives: Arc::default() };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        proxy
    }

    /// Sets the fault of all further requests.
    pub fn set(&self, fault: QueueFault) {
        if let Ok(mut current) = self.fault.lock() {
            *current = fault;
        }
    }

    /// Returns the number of `ReceiveMessage` requests so far.
    #[must_use]
    pub fn receives(&self) -> u64 {
        self.receives.lock().map_or(0, |receives| *receives)
    }

    async fn serve(self, mut stream: TcpStream) {
        let client = reqwest::Client::new();
        let mut received = Vec::new();
        while let Some(request) = read(&mut stream, &mut received).await {
            if request.action.ends_with("ReceiveMessage")
                && let Ok(mut receives) = self.receives.lock()
            {
                *receives += 1;
            }
            let fault = self.fault.lock().map(|fault| *fault).unwrap_or_default();
            let error = |name: &str| format!("{{\"__type\":\"com.amazonaws.sqs#{name}\"}}");
            let (status, body) = match fault {
                QueueFault::IsAway => return,
                QueueFault::Refuses => (403, error("AccessDeniedException")),
                QueueFault::Throttles => (400, error("RequestThrottled")),
                QueueFault::WithoutId => (200, "{}".to_owned()),
                QueueFault::None | QueueFault::Slow(_) | QueueFault::LosesReply => {
                    if let QueueFault::Slow(pause) = fault {
                        tokio::time::sleep(pause).await;
                    }
                    let Some(reply) = self.forward(&client, request).await else { return };
                    if fault == QueueFault::LosesReply {
                        return;
                    }
                    reply
                }
            };
            let reply =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn forward(&self, client: &reqwest::Client, request: Request) -> Option<(u16, String)> {
        let mut forwarded = client.post(format!("http://{}/", self.target));
        for (name, value) in request.head {
            forwarded = forwarded.header(name, value);
        }
        let reply = forwarded.body(request.body).send().await.ok()?;
        Some((reply.status().as_u16(), reply.text().await.ok()?))
    }
}

/// Reads a request. `None`: the connection has ended.
async fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        match received.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end,
            None if stream.read_buf(received).await.unwrap_or(0) == 0 => return None,
            None => {}
        }
    };
    let head = String::from_utf8_lossy(received.get(..end)?).into_owned();
    let head = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let head: Vec<(String, String)> =
        head.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let value = |wanted: &str| {
        let found = head.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let start = end + 4;
    let length: usize = value("content-length").parse().ok()?;
    while received.len() < start + length {
        if stream.read_buf(received).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = received.get(start..start + length)?.to_vec();
    received.drain(..start + length);
    let action = value("x-amz-target");
    let kept = ["content-type", "x-amz-target"];
    let head = head.into_iter().filter(|(name, _)| kept.contains(&name.as_str())).collect();
    Some(Request { action, head, body })
}
