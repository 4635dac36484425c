//! The delivery state machine, driven by a history read from the input.
#![no_main]

#[path = "../../tests/delivery/model.rs"]
mod model;

use keen_edge::config::DeliverySettings;
use keen_edge::delivery::{HandoverOutcome, OverflowPolicy};
use libfuzzer_sys::fuzz_target;
use model::{Model, PROJECTS, STATUSES, ScriptedResponse, Step};

/// The input, read byte by byte. Zeros follow its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn response(&mut self) -> ScriptedResponse {
        match self.next() {
            0..100 => ScriptedResponse::Results(0),
            100..150 => ScriptedResponse::Results(
                (0..8).fold(0, |bits, _| (bits << 8) | self.next() as u64),
            ),
            150..160 => ScriptedResponse::DispatchFailed,
            other => {
                let (status, reply, retry_after) = STATUSES[other % STATUSES.len()];
                ScriptedResponse::Status(status, reply, retry_after)
            }
        }
    }

    fn outcome(&mut self) -> HandoverOutcome {
        match self.next() % 4 {
            0 => HandoverOutcome::Failed,
            1 => HandoverOutcome::Refused,
            _ => HandoverOutcome::Stored,
        }
    }

    fn step(&mut self) -> Step {
        match self.next() {
            0..90 => {
                let (waits, count) = (self.next() % 5 > 0, self.next() % 12);
                let event = |bytes: &mut Self| {
                    (bytes.next() % PROJECTS, (bytes.next() % 4) as u8, bytes.next())
                };
                Step::Submit { waits, events: (0..count).map(|_| event(self)).collect() }
            }
            90..190 => Step::Settle { which: self.next(), response: self.response() },
            190..195 => Step::SettleHandover { which: self.next(), outcome: self.outcome() },
            195..200 => Step::Disconnect { which: self.next() },
            200..245 => Step::Pass { ms: 2 * self.next() as u64 },
            _ => Step::Pass { ms: 40 * self.next() as u64 },
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let settings = DeliverySettings {
        max_retries: (bytes.next() % 6) as u32,
        max_in_flight: 1 + bytes.next() % 4,
        max_batch_events: 1 + bytes.next() % 20,
        max_batch_bytes: 1 + 10 * bytes.next(),
        max_pending_bytes: 1000 + 100 * bytes.next(),
        max_wait_ms: 1 + 40 * bytes.next() as u64,
        ..DeliverySettings::default()
    };
    let drains = bytes.next() % 2 == 1;
    let overflow = (bytes.next() % 2 == 1).then(|| OverflowPolicy {
        after_ms: 20 * bytes.next() as u64,
        max_body_bytes: 100 + 10 * bytes.next(),
        timeout_ms: 1 + 20 * bytes.next() as u64,
        reject_misconfigured: bytes.next() % 2 == 1,
    });
    let mut model = Model::new(settings, overflow, bytes.next() as u64);
    for _ in 0..500 {
        if bytes.0.is_empty() {
            break;
        }
        let step = bytes.step();
        model.step(&step);
    }
    if drains { model.drain() } else { model.recover() }
});
