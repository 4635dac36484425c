//! Keen's reply: its word on each event asked about, or nothing is known of any of them.
#![no_main]

use keen_edge::delivery::{CalloutResponse, CalloutOutcome, outcome};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, reply)) = data.split_at_checked(3) else { return };
    let asked: &[(&str, usize)] = match head[0] % 4 {
        0 => &[("Purchased", 1)],
        1 => &[("a", 2), ("b", 1)],
        2 => &[("\"quoted\"", 3), ("Loaded a Page", 1), ("z", 2)],
        _ => &[],
    };
    let status = match u16::from_le_bytes([head[1], head[2]]) % 700 {
        0..100 => None,
        status @ 100..600 => Some(status),
        _ => Some(200),
    };
    let retry_after = &reply[..reply.len().min(8)];
    if let CalloutOutcome::Results(verdicts) = outcome::read(CalloutResponse { status, reply, retry_after }, asked) {
        assert_eq!(verdicts.len(), asked.iter().map(|(_, count)| count).sum::<usize>());
        assert!(matches!(status, Some(200 | 201)));
    }
});
