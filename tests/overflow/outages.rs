//! Outages of Keen and of the queue, one at a time.

use super::model::{KeenReply, Model, QueueReply, Worker, project_id};
use keen_edge::config::{DeliverySettings, OverflowSettings};
use keen_edge::delivery::{Ack, Admission};

fn settings() -> OverflowSettings {
    OverflowSettings {
        cluster: "sqs".to_owned(),
        authority: "sqs.example".to_owned(),
        queue_url: "https://sqs.example/1/keen".to_owned(),
        after_ms: 3_000,
        max_message_bytes: 262_144,
        drain: true,
        reject_misconfigured: false,
    }
}

fn model() -> Model {
    Model::new(DeliverySettings::default(), &settings())
}

fn keen_fails(status: Option<u16>) -> impl Fn(&[u8]) -> KeenReply {
    move |_| KeenReply::Fails(status)
}

fn keen_accepts(_: &[u8]) -> KeenReply {
    KeenReply::Accepts
}

fn acks(model: &Model) -> Vec<Ack> {
    model.workers.iter().flat_map(|worker| worker.acks.values().copied()).collect()
}

#[test]
fn outage_of_keen_is_bridged_by_the_queue_even_if_a_worker_dies() {
    for (status, after_ms) in [(Some(503), 3_000), (None, 1_000), (Some(500), 3_000)] {
        let settings = OverflowSettings { after_ms, ..settings() };
        let mut model = Model::new(DeliverySettings::default(), &settings);
        for second in 0..60 {
            for n in 0..20 {
                let waits = n % 4 > 0;
                model.submit(n % 2, waits, &[(n % 3 / 2, 0, 30), (0, 1, 30)]);
            }
            model.run(1_000, keen_fails(status), QueueReply::Succeeds);
            if second == 30 {
                // The queue keeps the messages that it has acknowledged.
                model.workers[1] = Worker::new(DeliverySettings::default(), &settings, 9);
            }
        }
        model.run(10_000, keen_fails(status), QueueReply::Succeeds);
        let acks = acks(&model);
        assert!(acks.len() > 500, "{}", acks.len());
        assert!(acks.iter().all(|ack| *ack == Ack::Delivered), "{status:?}");
        assert!(!model.messages.is_empty());
        let calls = model.keen_calls;
        // A minute for which the queue hides a received message, and one poll.
        model.run(90_000, keen_accepts, QueueReply::Succeeds);
        assert!(model.messages.is_empty(), "{} messages stay", model.messages.len());
        assert_eq!(model.drained, model.overflowed, "a confirmed message is drained once");
        assert!(model.keen_calls - calls < 1_000);
    }
}

#[test]
fn outage_of_keen_and_queue_acts_as_without_a_queue() {
    let mut model = model();
    for _ in 0..10 {
        model.submit(0, true, &[(0, 0, 30)]);
        model.run(1_000, keen_fails(Some(503)), QueueReply::IsAway);
    }
    model.run(10_000, keen_fails(Some(503)), QueueReply::Throttles);
    assert_eq!(acks(&model), [Ack::Unconfirmed; 10]);
    assert!(model.messages.is_empty());
    model.submit(0, false, &[(0, 0, 30)]);
    model.run(10_000, keen_fails(Some(503)), QueueReply::WithoutId);
    model.run(10_000, keen_accepts, QueueReply::IsAway);
    assert!(model.at_keen.contains(&10), "an event without a client waits for Keen");
}

#[test]
fn idle_queue_is_polled_once_per_20_s_and_process() {
    let mut model = model();
    model.run(200_000, keen_accepts, QueueReply::Succeeds);
    // Three workers in two processes.
    assert!((20..=22).contains(&model.receives), "{}", model.receives);
    assert_eq!(model.keen_calls, 0);
}

#[test]
fn unreachable_queue_is_polled_with_backoff() {
    let mut model = model();
    model.run(300_000, keen_accepts, QueueReply::IsAway);
    assert!(model.receives <= 2 * 15, "{}", model.receives);
}

#[test]
fn message_with_a_bad_event_is_left_after_its_neighbours_are_at_keen() {
    let mut model = model();
    model.submit(0, false, &[(0, 0, 30); 100]);
    model.run(8_000, keen_fails(Some(402)), QueueReply::Succeeds);
    assert_eq!(model.messages.len(), 1);
    let fails_on_event_13 = |body: &[u8]| {
        let is_bad = body.windows(8).any(|bytes| bytes == b"\"id\":13,");
        KeenReply::Fails(Some(500)).unless(!is_bad)
    };
    let calls = model.keen_calls;
    model.run(40_000, fails_on_event_13, QueueReply::Succeeds);
    assert_eq!(model.at_keen.len(), 99);
    assert_eq!(model.messages.len(), 1, "it is deleted though Keen has not confirmed it");
    assert_eq!(model.left, 1);
    assert!(model.keen_calls - calls <= 16, "{}", model.keen_calls - calls);
    // Other messages are not delayed.
    model.submit(0, false, &[(0, 0, 30)]);
    model.run(8_000, keen_fails(Some(503)), QueueReply::Succeeds);
    model.run(60_000, fails_on_event_13, QueueReply::Succeeds);
    assert_eq!((model.at_keen.len(), model.messages.len()), (100, 1));
}

#[test]
fn message_of_an_unknown_project_is_left() {
    let mut model = model();
    let unknown = "f".repeat(24);
    model.put_message(format!("{{\"v\":1,\"project\":\"{unknown}\",\"events\":{{\"a\":[{{}}]}}}}"));
    model.put_message("{\"v\":7,\"events\":{}}".to_owned());
    model.run(60_000, keen_accepts, QueueReply::Succeeds);
    assert_eq!((model.messages.len(), model.keen_calls), (2, 0));
    assert!(model.unknown_projects > 0);
    assert!(model.receives < 20, "{}", model.receives);
}

#[test]
fn message_of_a_destination_that_is_down_delays_no_other() {
    let mut model = model();
    for (destination, messages) in [(0, 15), (1, 5)] {
        for _ in 0..messages {
            model.submit(0, false, &[(destination, 0, 30); 3]);
            model.run(6_000, keen_fails(Some(402)), QueueReply::Succeeds);
        }
    }
    assert_eq!(model.messages.len(), 20);
    // The first project's events contain ids below 45.
    let first_is_down = |body: &[u8]| {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let is_first = body["c0"][0]["id"].as_u64().unwrap() < 45;
        KeenReply::Fails(Some(402)).unless(!is_first)
    };
    model.run(180_000, first_is_down, QueueReply::Succeeds);
    assert_eq!(model.messages.len(), 15);
    assert!((45..60).all(|id| model.at_keen.contains(&id)));
    // A message is hidden for as long as the outage has lasted.
    model.run(240_000, keen_accepts, QueueReply::Succeeds);
    assert!(model.messages.is_empty());
}

#[test]
fn outage_of_days_does_not_use_up_the_receipts_of_a_message() {
    let mut model = model();
    for _ in 0..20 {
        model.submit(0, false, &[(0, 0, 30); 3]);
        model.run(6_000, keen_fails(Some(503)), QueueReply::Succeeds);
    }
    let hours = 24;
    model.step_ms = 500;
    model.run(hours * 3_600_000, keen_fails(Some(503)), QueueReply::Succeeds);
    let receives = model.messages.values().map(|message| message.receives).max().unwrap();
    assert!(receives <= hours + 10, "{receives}");
    // Two processes send one request each per 30 s.
    assert!(model.keen_calls < 2 * 120 * hours + 500, "{}", model.keen_calls);
    model.run(3_700_000, keen_accepts, QueueReply::Succeeds);
    assert!(model.messages.is_empty());
}

#[test]
fn keen_rejecting_every_event_by_name_leaves_messages_in_the_queue() {
    let mut model = model();
    for _ in 0..40 {
        model.submit(0, false, &[(0, 0, 30)]);
        model.run(6_000, keen_fails(Some(503)), QueueReply::Succeeds);
    }
    let messages = model.messages.len();
    assert!(messages >= 30, "{messages}");
    model.run(600_000, |_| KeenReply::RejectsByName, QueueReply::Succeeds);
    // In each of the two processes, up to eight rejections in a row count as verdicts on events.
    assert!(model.messages.len() >= messages - 2 * 8, "{}", model.messages.len());
}

#[test]
fn project_that_is_not_configured_is_reported_once() {
    let mut model = model();
    for _ in 0..3 {
        let unknown = "f".repeat(24);
        model.put_message(format!(
            "{{\"v\":1,\"project\":\"{unknown}\",\"events\":{{\"a\":[{{}}]}}}}"
        ));
    }
    model.run(600_000, keen_accepts, QueueReply::Succeeds);
    assert_eq!(model.messages.len(), 3);
    assert!((1..=2).contains(&model.unknown_projects), "{}", model.unknown_projects);
}

#[test]
fn misconfigured_destination_is_held_or_rejected_as_configured() {
    for (reject_misconfigured, ack) in [(false, Ack::Delivered), (true, Ack::DestinationRejected)] {
        let settings = OverflowSettings { reject_misconfigured, ..settings() };
        let mut model = Model::new(DeliverySettings::default(), &settings);
        model.submit(0, true, &[(0, 0, 30)]);
        model.run(1_000, keen_fails(Some(402)), QueueReply::Succeeds);
        assert_eq!(acks(&model), [ack]);
        assert_eq!(model.messages.len(), usize::from(!reject_misconfigured));
    }
}

#[test]
fn submission_over_the_bound_goes_to_the_queue() {
    let delivery = DeliverySettings { max_pending_bytes: 20_000, ..DeliverySettings::default() };
    let mut model = Model::new(delivery, &settings());
    let mut rejected = 0;
    for _ in 0..400 {
        if model.submit(0, true, &[(0, 0, 900)]) == Admission::Rejected {
            rejected += 1;
        }
        // Keen hangs: its callouts are not answered.
        model.step(&super::model::Step::Pass { ms: 1 });
        model.answer_queue(0, 0, QueueReply::Succeeds);
    }
    assert_eq!(rejected, 0);
    assert!(model.messages.len() > 100);
    assert!(project_id(0).ends_with('0'));
}

impl KeenReply {
    fn unless(self, accepts: bool) -> Self {
        if accepts { Self::Accepts } else { self }
    }
}
