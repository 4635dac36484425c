//! ElasticMQ: a queue with SQS's protocol that stores messages in a file.

use super::{Server, install, temporary};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running ElasticMQ.
#[derive(Debug)]
pub struct ElasticMq {
    addr: SocketAddr,
    jars: PathBuf,
    dir: PathBuf,
    server: Mutex<Option<Server>>,
}

impl ElasticMq {
    /// Starts an ElasticMQ with an empty store.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start(name: &str) -> Self {
        let jars = tokio::task::spawn_blocking(|| install("elasticmq")).await;
        let jars = jars.unwrap_or_else(|error| panic!("{error}")).join("jars");
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = addr.unwrap_or_else(|error| panic!("{error}"));
        let dir = temporary(&format!("elasticmq-{name}"));
        let queue = Self { addr, jars, dir, server: Mutex::new(None) };
        queue.start_again().await;
        queue
    }

    /// Starts it again after [`Self::kill`], with the messages of its store.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_again(&self) {
        let (dir, port) = (self.dir.display(), self.addr.port());
        // Writes a message to the disk before it is acknowledged. By default ElasticMQ writes
        // within 500 ms.
        let config = format!(
            "include classpath(\"application.conf\")\n\
             node-address {{ host = \"127.0.0.1\", port = {port} }}\n\
             rest-sqs {{ bind-hostname = \"127.0.0.1\", bind-port = {port}, sqs-limits = strict }}\n\
             rest-stats {{ enabled = false }}\n\
             queues-storage {{ enabled = true, path = \"{dir}/queues.conf\" }}\n\
             messages-storage {{ enabled = true, uri = \"jdbc:h2:{dir}/messages;WRITE_DELAY=0\" }}\n"
        );
        let file = self.dir.join("elasticmq.conf");
        std::fs::write(&file, config).unwrap_or_else(|error| panic!("{error}"));
        let args = [
            "-Xmx256m".to_owned(),
            "-XX:+UseSerialGC".to_owned(),
            "-XX:TieredStopAtLevel=1".to_owned(),
            format!("-Dconfig.file={}", file.display()),
            "-cp".to_owned(),
            format!("{}/*", self.jars.display()),
            "org.elasticmq.server.Main".to_owned(),
        ];
        let log = self.dir.join("log");
        let child = harness::spawn(Path::new("java"), &args, &log);
        let child = child.unwrap_or_else(|error| panic!("java: {error}"));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(Server(child));
        let begun = Instant::now();
        let client = reqwest::Client::new();
        while client.get(format!("http://{}/health", self.addr)).send().await.is_err() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(90), "ElasticMQ does not start:\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&self) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Creates a queue. `attributes`: those of `CreateQueue`.
    ///
    /// # Panics
    /// Panics if the queue is not created.
    pub async fn queue(&self, name: &str, attributes: Value) -> Queue {
        let mut queue = Queue { addr: self.addr, url: String::new() };
        let created =
            queue.call("CreateQueue", json!({"QueueName": name, "Attributes": attributes})).await;
        queue.url = created["QueueUrl"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
        queue
    }
}

/// A queue of [`ElasticMq`].
#[derive(Debug, Clone)]
pub struct Queue {
    /// The address of ElasticMQ.
    pub addr: SocketAddr,
    /// The name of the queue in the protocol.
    pub url: String,
}

impl Queue {
    async fn call(&self, action: &str, request: Value) -> Value {
        let request = reqwest::Client::new()
            .post(format!("http://{}/", self.addr))
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .body(request.to_string());
        let reply = request.send().await.unwrap_or_else(|error| panic!("{action}: {error}"));
        let (status, text) = (reply.status(), reply.text().await.unwrap_or_default());
        assert!(status.is_success(), "{action}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Sets attributes as `SetQueueAttributes` does.
    ///
    /// # Panics
    /// Panics if the queue refuses them.
    pub async fn set_attributes(&self, attributes: Value) {
        self.call("SetQueueAttributes", json!({"QueueUrl": self.url, "Attributes": attributes}))
            .await;
    }

    /// Returns the number of messages, hidden ones included.
    ///
    /// # Panics
    /// Panics if the queue does not answer.
    pub async fn messages(&self) -> usize {
        let request = json!({"QueueUrl": self.url, "AttributeNames": ["All"]});
        let reply = self.call("GetQueueAttributes", request).await;
        let count = |name: &str| {
            let count = reply["Attributes"][name].as_str();
            count.and_then(|count| count.parse::<usize>().ok()).unwrap_or_else(|| panic!("{reply}"))
        };
        count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible")
    }

    /// Stores a message.
    ///
    /// # Panics
    /// Panics if the queue does not store it.
    pub async fn put(&self, body: &Value) {
        let request = json!({"QueueUrl": self.url, "MessageBody": body.to_string()});
        let reply = self.call("SendMessage", request).await;
        assert!(reply["MessageId"].is_string(), "{reply}");
    }

    /// Returns the queue's ARN, for a redrive policy.
    #[must_use]
    pub fn arn(&self) -> String {
        let name = self.url.rsplit('/').next().unwrap_or_default();
        format!("arn:aws:sqs:elasticmq:000000000000:{name}")
    }
}
