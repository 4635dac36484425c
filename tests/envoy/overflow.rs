//! During an outage of Keen, events go to the overflow queue. Afterwards the filter brings them to
//! Keen.

use super::fixture::{TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The body of a message, and the time until which it is hidden.
type Message = (Value, Option<Instant>);

/// A queue with the part of Amazon SQS's JSON protocol that the filter uses.
#[derive(Clone, Default)]
struct Queue {
    /// Messages by receipt handle.
    messages: Arc<Mutex<BTreeMap<u64, Message>>>,
    /// Whether the queue answers 500 to every request.
    is_down: Arc<Mutex<bool>>,
}

impl Queue {
    async fn start() -> (Self, SocketAddr) {
        let (queue, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (addr, own) = (listener.local_addr().unwrap(), queue.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        (queue, addr)
    }

    fn len(&self) -> usize {
        self.messages.lock().unwrap().len()
    }

    fn set_down(&self, is_down: bool) {
        *self.is_down.lock().unwrap() = is_down;
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut received = Vec::new();
        loop {
            let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
                if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                    return;
                }
                continue;
            };
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let header = |name: &str| {
                let line =
                    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.unwrap_or_default().to_owned()
            };
            let length: usize = header("content-length").parse().unwrap();
            while received.len() < end + 4 + length {
                if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let body: Value = serde_json::from_slice(&received[end + 4..end + 4 + length]).unwrap();
            assert_eq!(header("content-type"), "application/x-amz-json-1.0");
            let (status, reply) = self.answer(&header("x-amz-target"), &body).await;
            received.drain(..end + 4 + length);
            let reply = reply.to_string();
            let reply =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{reply}", reply.len());
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, action: &str, body: &Value) -> (u16, Value) {
        if *self.is_down.lock().unwrap() {
            return (500, json!({"__type": "com.amazonaws.sqs#InternalError"}));
        }
        if action == "amazonsqs.receivemessage" {
            // A long poll ends when there is a message.
            for _ in 0..body["WaitTimeSeconds"].as_u64().unwrap_or(0) * 20 {
                if self.messages.lock().unwrap().values().any(is_visible) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let mut messages = self.messages.lock().unwrap();
        let reply = match action {
            "amazonsqs.sendmessage" => {
                let handle = messages.last_key_value().map_or(1, |(handle, _)| handle + 1);
                messages.insert(handle, (body["MessageBody"].clone(), None));
                json!({"MessageId": handle.to_string()})
            }
            "amazonsqs.receivemessage" => {
                let free = messages.iter_mut().find(|(_, message)| is_visible(message));
                let hidden_s = body["VisibilityTimeout"].as_u64().unwrap();
                let free = free.map(|(handle, (body, hidden_until))| {
                    *hidden_until = Some(Instant::now() + Duration::from_secs(hidden_s));
                    json!({"MessageId": handle.to_string(), "ReceiptHandle": handle.to_string(), "Body": body})
                });
                json!({"Messages": free.into_iter().collect::<Vec<_>>()})
            }
            "amazonsqs.deletemessage" => {
                messages.remove(&body["ReceiptHandle"].as_str().unwrap().parse().unwrap());
                json!({})
            }
            other => panic!("{other}"),
        };
        (200, reply)
    }
}

fn is_visible((_, hidden_until): &Message) -> bool {
    hidden_until.is_none_or(|end| end <= Instant::now())
}

/// Longer than other waits, because the filter polls the queue only every 30 s after failures.
async fn in_a_minute(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..120 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("not within a minute: {what}");
}

async fn env() -> (TestEnv, Queue) {
    let (queue, addr) = Queue::start().await;
    let mut config = harness::default_config();
    config["overflow"] = json!({
        "cluster": "sqs", "queueUrl": format!("http://{addr}/1/keen-edge"), "afterMs": 500,
    });
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let add_cluster = move |yaml: &mut Value| {
        let clusters = yaml["static_resources"]["clusters"].as_array_mut().unwrap();
        clusters.push(json!({
            "name": "sqs", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "sqs", "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": addr.port()}},
            }}]}]},
        }));
    };
    let builder =
        Envoy::builder().keen(keen.addr()).config(config).concurrency(2).patch(add_cluster);
    let envoy = builder.start().await.unwrap_or_else(|error| panic!("{error:?}"));
    (TestEnv { envoy, keen, client: reqwest::Client::new() }, queue)
}

#[tokio::test]
async fn event_during_an_outage_is_answered_200_and_reaches_keen_afterwards() {
    let (env, queue) = env().await;
    env.keen.fault(Fault::status(503).forever());
    for i in 0..10 {
        assert_eq!(env.post("/v1/track", track(&format!("event {i}"))).await, ok());
    }
    assert!(queue.len() > 0 && env.keen.events().is_empty());
    env.until("all are counted", async || env.envoy.total("events_overflowed").await == 10).await;
    env.keen.clear_faults();
    in_a_minute("all are in Keen", || env.keen.events().len() == 10).await;
    env.until("the queue is empty", async || queue.len() == 0).await;
    env.until("all are counted", async || env.envoy.total("events_drained").await == 10).await;
    assert_eq!(env.envoy.total("overflow_up").await, 1);
    let totals = env.envoy.event_totals().await;
    assert_eq!((totals.admitted, totals.overflowed), (10, 10));
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn event_with_keen_and_queue_down_is_answered_503() {
    let (env, queue) = env().await;
    queue.set_down(true);
    env.keen.fault(Fault::status(503).forever());
    assert_eq!(env.post("/v1/track", track("event")).await.0, 503);
    env.until("the queue is down", async || {
        env.envoy.stats().await.get("wasmcustom.keen_edge_overflow_up") == Some(&0)
    })
    .await;
    queue.set_down(false);
    env.until("the queue takes events again", async || {
        env.post("/v1/track", track("event")).await == ok()
    })
    .await;
    env.keen.clear_faults();
    in_a_minute("the event is in Keen", || env.keen.events().len() == 1).await;
    env.envoy.no_panic_in_log();
}
