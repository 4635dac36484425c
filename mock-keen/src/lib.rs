//! A mock of Keen's write API (version 3.0), as strict as Keen.
//!
//! It stores the events that Keen would store and refuses the others, with Keen's own error texts
//! where they are known. Where Keen's behaviour is not known, it chooses the stricter one.
//! `RULES.md` lists every rule with its source. Tests inject faults and inspect what was stored.
//!
//! # In a Rust test
//!
//! ```
//! use mock_keen::{Fault, MockKeen, Options};
//! use std::time::Duration;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let keen = MockKeen::start(Options::default()).await?;
//! keen.fault(Fault::status(503).times(2));
//! keen.fault(Fault::cut_after().project(mock_keen::PROJECT));
//! // ... send events to keen.addr(), then:
//! let late = keen.wait_for_events(1, Duration::from_millis(10)).await;
//! assert!(late.is_err());
//! assert_eq!(keen.events(), []);
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`rules`] can be used alone: `rules::check_event` checks whether Keen would accept an event.
//!
//! # Over HTTP
//!
//! | request | effect |
//! |---|---|
//! | `GET /` | a page that shows events as they arrive |
//! | `GET /_mock/events?project=&collection=&limit=` | the stored events, oldest first |
//! | `GET /_mock/calls` | the calls: method, path, headers, number of events, status |
//! | `GET /_mock/refusals` | refused events and calls, with the reason |
//! | `GET /_mock/counts` | totals, and counts by collection |
//! | `GET /_mock/stream` | server-sent events: the updates of the page |
//! | `GET /_mock/faults` | the pending faults |
//! | `POST /_mock/faults` | adds a fault, or an array of them |
//! | `DELETE /_mock/faults` | removes all faults; hanging calls continue |
//! | `POST /_mock/reset` | removes events, tokens, calls, refusals and faults |
//! | `GET /_mock/healthz` | 200 once the mock is ready |
//!
//! # Faults in JSON
//!
//! Each has a `kind`. Optional in each: `"project": "ID"` (default: any project), `"times": N` or
//! `"forever"` (default: 1) and `"after_ms": N` (a delay before the fault). The first fault that
//! matches a call applies to it; see [`Fault`].
//!
//! ```json
//! {"kind": "status", "status": 503, "times": 3}
//! {"kind": "status", "status": 429, "retry_after": "2", "body": "slow down"}
//! {"kind": "delay", "ms": 500, "times": "forever"}
//! {"kind": "cut_before"}
//! {"kind": "cut_after"}
//! {"kind": "truncated"}
//! {"kind": "wrong_json"}
//! {"kind": "missing_results"}
//! {"kind": "short_results"}
//! {"kind": "huge", "bytes": 40000000}
//! {"kind": "refuse_collection", "collection": "signups", "name": "InvalidEventError"}
//! {"kind": "refuse_property", "property": "user.id", "value": 7, "name": "InvalidEventError"}
//! {"kind": "poison", "property": "user.id", "value": 7, "status": 500}
//! {"kind": "hang"}
//! {"kind": "chaos", "seed": 1, "rate": 0.3}
//! ```

mod conn;
mod control;
mod faults;
mod keen;
mod mock;
mod replies;
pub mod rules;
mod store;

pub use faults::{Fault, FaultKind, Times};
pub use mock::{AccessKey, MockKeen, Options, Project, SegmentEndpoint, TimedOut};
pub use store::{CallRecord, Counts, Limits, RefusalRecord, StoredEvent};

pub(crate) use mock::Shared;

/// The id of the default project.
pub const PROJECT: &str = "5181bcd23843312d87000000";
/// The write key of the default project.
pub const WRITE_KEY: &str = "ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789";
