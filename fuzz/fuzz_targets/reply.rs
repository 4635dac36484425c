//! Parses a reply of Keen. It gives exactly one result for each event of the request, or no
//! confirmation at all.
#![no_main]

use keen_edge::delivery::classify::{CalloutOutcome, CalloutResponse, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, reply)) = data.split_at_checked(3) else { return };
    let expected: &[(&str, usize)] = match head[0] % 4 {
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
    let retry_after = &reply[..reply.len().min(40)];
    let response = CalloutResponse { status, reply, retry_after };
    if let CalloutOutcome::Results(results) = classify(response, expected, 1_700_000_000_000) {
        assert_eq!(results.len(), expected.iter().map(|(_, count)| count).sum::<usize>());
        assert!(matches!(status, Some(200 | 201)));
    }
});
