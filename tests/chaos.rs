//! Callers that retry as SDKs do, a Keen that fails in every way, and an Envoy that is
//! reconfigured, stopped and killed. At the end every acknowledged event is in Keen exactly once,
//! and every admitted event is counted in exactly one end.
//!
//! `CHAOS_SECONDS` (default 40) is the duration. `CHAOS_SEED` repeats the choices of a run.

use harness::{Dynamic, Envoy, EventTotals};
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CALLERS: u64 = 24;
/// Time for the last attempts of the callers.
const SETTLED: Duration = Duration::from_secs(60);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the callers observed.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    sent: AtomicU64,
    hung_up: AtomicU64,
    unreachable: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// Events of calls answered 200.
    acknowledged: Mutex<Vec<String>>,
    /// Events of callers that disconnected and did not retry.
    abandoned: AtomicU64,
}

fn event(id: &str) -> Value {
    json!({"type": "track", "event": "chaos", "userId": "u", "messageId": id, "properties": {"id": id}})
}

/// Runs a caller, which sends one call after the other and retries each until it gets 200.
async fn caller(number: u64, seed: u64, addr: SocketAddr, seen: Arc<Seen>) {
    let mut random = Random(seed ^ (number << 32));
    let mut client = reqwest::Client::new();
    let mut count = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        let ids: Vec<String> =
            (0..1 + random.below(4)).map(|i| format!("{number}-{}", count + i)).collect();
        count += 4;
        let (path, body) = match ids.as_slice() {
            [one] => ("/v1/track", event(one)),
            many => {
                ("/v1/batch", json!({"batch": many.iter().map(|id| event(id)).collect::<Vec<_>>()}))
            }
        };
        let body = body.to_string();
        seen.sent.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = client
                .post(format!("http://{addr}{path}"))
                .basic_auth("writeKey", Some(""))
                .body(body.clone());
            // Some disconnect early, and most of these retry.
            let hangs_up = random.below(12) == 0;
            let patience = Duration::from_millis(if hangs_up { random.below(40) } else { 15_000 });
            match tokio::time::timeout(patience, request.send()).await {
                Ok(Ok(reply)) => {
                    let status = reply.status().as_u16();
                    *seen.statuses.lock().unwrap().entry(status).or_default() += 1;
                    if status == 200 {
                        seen.acknowledged.lock().unwrap().extend(ids);
                        break;
                    }
                    assert!(matches!(status, 429 | 503), "{status}: an SDK would drop it");
                }
                Ok(Err(_)) => {
                    seen.unreachable.fetch_add(1, Ordering::Relaxed);
                    client = reqwest::Client::new();
                }
                Err(_) => {
                    seen.hung_up.fetch_add(1, Ordering::Relaxed);
                    client = reqwest::Client::new();
                    if random.below(4) == 0 {
                        seen.abandoned.fetch_add(ids.len() as u64, Ordering::Relaxed);
                        break;
                    }
                }
            }
            let pause = (50 << attempt.min(4)) + random.below(100);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(20))).await;
    }
}

fn config(variant: u64) -> Value {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(3000);
    config["delivery"]["maxInFlight"] = json!(1 + variant % 4);
    config["delivery"]["maxBatchEvents"] = json!(5 + variant % 60);
    config["keen"]["timeoutMs"] = json!(800);
    config
}

async fn start(keen: &MockKeen, port: u16, variant: u64) -> Envoy {
    // The port of a killed Envoy is free again after a moment.
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let builder =
            Envoy::builder().keen(keen.addr()).config(config(variant)).concurrency(2).port(port);
        match builder.from_file(Dynamic::Filter).start().await {
            Ok(envoy) => return envoy,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
    }
}

/// Returns lines about a failed VM. A rejected configuration is logged as a failure too, but
/// without these words.
fn did_not_fail(envoy: &Envoy) {
    let log = envoy.log();
    assert!(
        !log.contains("panicked") && !log.contains("Function: proxy_on_"),
        "{}",
        envoy.log_tail(20)
    );
}

fn faults(keen: &MockKeen, random: &mut Random) {
    keen.clear_faults();
    match random.below(4) {
        0 => {}
        1 => keen.fault(Fault::hang().times(3)),
        _ => keen.fault(Fault::chaos(random.next(), 0.4)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_events_under_chaos_are_stored_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("CHAOS_SECONDS").unwrap_or(40).max(20);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("CHAOS_SEED").unwrap_or(clock.as_secs());
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let mut random = Random(seed);

    let mut options = Options::default();
    // The mock must keep every event.
    options.limits.events = 10_000_000;
    options.limits.tokens = 10_000_000;
    options.limits.event_bytes = 8 << 30;
    let keen = MockKeen::start(options).await.unwrap();
    let mut envoy = start(&keen, 0, 0).await;
    let addr = envoy.addr();
    let seen = Arc::new(Seen::default());
    let callers: Vec<_> =
        (0..CALLERS).map(|i| tokio::spawn(caller(i, seed, addr, seen.clone()))).collect();

    // The schedule, in percent of the duration.
    let away = 100 * 10 / seconds;
    let mut plan: Vec<(u64, &str)> = vec![
        (20, "Keen goes"),
        (20 + away.min(30), "Keen comes"),
        (60, "SIGTERM"),
        (80, "SIGKILL"),
    ];
    plan.extend((1..20).map(|i| (5 * i, "configuration")));
    plan.extend((1..50).map(|i| (2 * i, "faults")));
    plan.sort_by_key(|(at, _)| *at);
    let (began, mut updates) = (Instant::now(), 0);
    for (at, what) in plan {
        let due = Duration::from_millis(seconds * 10 * at);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        match what {
            "Keen goes" => keen.stop().await,
            "Keen comes" => keen.start_again().await.unwrap(),
            "configuration" => {
                updates += 1;
                let mut next = config(random.next());
                if updates % 4 == 0 {
                    next["delivery"]["holdMs"] = json!("wrong");
                }
                envoy.update(&next).unwrap();
            }
            "faults" => faults(&keen, &mut random),
            signal => {
                let totals = envoy.event_totals().await;
                assert!(totals.ended() <= totals.admitted, "{totals:?}");
                if signal == "SIGTERM" {
                    envoy.terminate().await;
                } else {
                    envoy.kill();
                }
                did_not_fail(&envoy);
                envoy = start(&keen, addr.port(), random.next()).await;
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(began.elapsed())).await;
    keen.clear_faults();
    seen.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        tokio::time::timeout(SETTLED, caller).await.expect("a caller never got a 200").unwrap();
    }

    let acknowledged = std::mem::take(&mut *seen.acknowledged.lock().unwrap());
    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    for kept in keen.events() {
        *stored.entry(kept.event["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let counts = keen.counts();
    println!(
        "sent {} events, acknowledged {}",
        seen.sent.load(Ordering::Relaxed),
        acknowledged.len()
    );
    println!(
        "answers {:?}, unreachable {}, hung up {}, abandoned events {}",
        seen.statuses.lock().unwrap(),
        seen.unreachable.load(Ordering::Relaxed),
        seen.hung_up.load(Ordering::Relaxed),
        seen.abandoned.load(Ordering::Relaxed),
    );
    println!(
        "Keen: {} calls, {} stored, {} known again, {updates} updates",
        keen.calls().len(),
        counts.stored,
        counts.duplicates
    );

    let lost: Vec<&String> = acknowledged.iter().filter(|id| !stored.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and not in Keen: {lost:?}");
    let twice: Vec<&String> =
        stored.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    assert!(twice.is_empty(), "in Keen twice: {twice:?}");
    assert_eq!(counts.stored, stored.len() as u64);
    // There were faults, and events were delivered.
    assert!(acknowledged.len() > 500, "{} acknowledged", acknowledged.len());
    assert!(seen.statuses.lock().unwrap().contains_key(&503) && counts.duplicates > 0);
    let limit = Instant::now() + Duration::from_secs(15);
    while envoy.stat("wasmcustom.keen_edge_pending_bytes").await > 0
        || envoy.stat("http.segment.downstream_rq_active").await > 0
    {
        assert!(Instant::now() < limit, "something is left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Each event that the last Envoy admitted is counted in exactly one end.
    let totals = ended_totals(&envoy, Duration::from_secs(15)).await;
    assert!(totals.delivered > 0, "{totals:?}");
    did_not_fail(&envoy);
}

/// Waits until every admitted event has ended. Returns the totals. A timer flushes the counters.
async fn ended_totals(envoy: &Envoy, patience: Duration) -> EventTotals {
    let limit = Instant::now() + patience;
    loop {
        let totals = envoy.event_totals().await;
        if totals.ended() == totals.admitted {
            println!("accounting: {totals:?}");
            return totals;
        }
        assert!(Instant::now() < limit, "{totals:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends tracks, one in ten of which Keen rejects, and images until `stop`.
async fn unattended_caller(number: u64, addr: SocketAddr, stop: Arc<AtomicBool>) {
    let client = reqwest::Client::new();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("{number}-{count}");
        let request = if count % 2 == 0 {
            let mut event = event(&id);
            event["properties"]["rejected"] = json!(count % 20 == 0);
            client.post(format!("http://{addr}/v1/track")).body(event.to_string())
        } else {
            let query = format!("writeKey=writeKey&event=image&userId=u&messageId={id}");
            client.get(format!("http://{addr}/v1/pixel/track?{query}"))
        };
        if let Ok(reply) = request.basic_auth("writeKey", Some("")).send().await {
            assert!(matches!(reply.status().as_u16(), 200 | 429), "{reply:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Events without a waiter: accepted ones, and those of images. Some are rejected by Keen. Some are
/// dropped for lack of capacity, or because an old configuration ends while Keen is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unattended_events_under_chaos_are_counted_into_one_end() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let config = |variant: u64| {
        let mut config = config(variant);
        config["delivery"]["ack"] = json!("accepted");
        config["delivery"]["maxPendingBytes"] = json!(100_000);
        config
    };
    let builder = Envoy::builder().keen(keen.addr()).config(config(0)).concurrency(2);
    let envoy = builder.from_file(Dynamic::Filter).start().await.unwrap_or_else(|e| panic!("{e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..8).map(|i| tokio::spawn(unattended_caller(i, envoy.addr(), stop.clone()))).collect();
    let rejection =
        || Fault::refuse_property("rejected", true, "InvalidPropertyValueError").forever();
    for round in 0..4 {
        keen.clear_faults();
        keen.fault(rejection());
        tokio::time::sleep(Duration::from_secs(2)).await;
        keen.clear_faults();
        keen.fault(match round {
            0 => Fault::chaos(1, 0.4),
            1 => Fault::status(503).forever(),
            2 => Fault::hang().forever(),
            _ => Fault::status(402).forever(),
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        envoy.update(&config(round + 1)).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    keen.clear_faults();
    keen.fault(rejection());
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let totals = ended_totals(&envoy, SETTLED).await;
    assert!(totals.delivered > 0 && totals.rejected > 0 && totals.dropped > 0, "{totals:?}");
    // Keen may have stored an event whose callout was given up before its reply.
    assert!(keen.counts().stored >= totals.delivered, "{totals:?}");
    did_not_fail(&envoy);
}
