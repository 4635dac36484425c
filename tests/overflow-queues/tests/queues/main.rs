//! Keen and the queue fail, one at a time and together. At the end every acknowledged event is in
//! Keen once, and the queue is empty. The queue is ElasticMQ or moto, and Envoy has the cluster of
//! `deploy/envoy-sqs.yaml`.

mod chaos;
mod drain;
mod outage;
mod queue_faults;
mod signing;

use mock_keen::MockKeen;
use overflow_queues::{ElasticMq, FaultProxy, Queue, Seen, ids_in, keen, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::OnceCell;

/// The longest time until a received message is visible again, and the longest pause of the drain.
const COMES_BACK: Duration = Duration::from_secs(120);

/// A mock Keen, and a new queue with a proxy in front of it.
struct TestEnv {
    keen: MockKeen,
    queue: Queue,
    proxy: FaultProxy,
}

impl TestEnv {
    async fn new(name: &str) -> Self {
        // All tests share one ElasticMQ. It ends with the process.
        static ELASTIC_MQ: OnceCell<ElasticMq> = OnceCell::const_new();
        let elastic_mq = ELASTIC_MQ.get_or_init(|| ElasticMq::start("shared")).await;
        Self::on(elastic_mq, name).await
    }

    async fn on(elastic_mq: &ElasticMq, name: &str) -> Self {
        let queue = elastic_mq.queue(name, json!({})).await;
        let proxy = FaultProxy::start(queue.addr).await;
        Self { keen: keen().await, queue, proxy }
    }

    /// Waits until all messages have reached Keen.
    async fn until_drained(&self) {
        until(COMES_BACK, "the queue is empty", async || self.queue.messages().await == 0).await;
    }

    /// Asserts that each acknowledged event is in Keen, and that no event is there twice.
    fn assert_stored_once(&self, seen: &Seen) {
        let mut stored: BTreeMap<String, u64> = BTreeMap::new();
        for id in ids_in(&self.keen) {
            *stored.entry(id).or_default() += 1;
        }
        let lost: Vec<&String> =
            seen.acknowledged.iter().filter(|id| !stored.contains_key(*id)).collect();
        assert!(lost.is_empty(), "acknowledged and not in Keen: {lost:?}");
        let twice: Vec<_> = stored.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "in Keen more than once: {twice:?}");
    }
}
