//! Keen and the queue fail in every way, and Envoy is reconfigured, stopped and killed.

use super::TestEnv;
use harness::Dynamic;
use mock_keen::Fault;
use overflow_queues::{Callers, QueueFault, builder, config, start};
use serde_json::json;
use std::time::{Duration, Instant};

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

/// `CHAOS_SECONDS` (default 40) is the duration. `CHAOS_SEED` repeats the choices of a run.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_under_chaos_with_a_queue_are_stored_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("CHAOS_SECONDS").unwrap_or(40).max(20);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("CHAOS_SEED").unwrap_or(clock.as_secs());
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let mut random = Random(seed);
    let env = TestEnv::new("chaos").await;
    let settings = |variant: u64| {
        let mut config = config(&env.queue.url);
        config["delivery"]["holdMs"] = json!(3_000);
        config["delivery"]["maxInFlight"] = json!(1 + variant % 4);
        config["delivery"]["maxBatchEvents"] = json!(5 + variant % 60);
        config["keen"]["timeoutMs"] = json!(800);
        config["overflow"]["afterMs"] = json!(200 + variant % 1_000);
        config["overflow"]["maxMessageBytes"] = json!(2_000 + variant % 10_000);
        config
    };
    let envoy = |port, variant| {
        let (keen, proxy, config) = (env.keen.addr(), env.proxy.addr, settings(variant));
        start(move || builder(keen, proxy, config.clone()).port(port).from_file(Dynamic::Filter))
    };
    let mut running = envoy(0, 0).await;
    let addr = running.addr();
    let callers = Callers::start(addr, 16, Duration::from_millis(20));
    let (began, length) = (Instant::now(), Duration::from_secs(seconds));
    let mut ends = vec!["SIGKILL", "SIGTERM"];
    let mut steps = 0_u64;
    while began.elapsed() < length {
        steps += 1;
        env.keen.clear_faults();
        match random.below(4) {
            0 => {}
            1 => env.keen.fault(Fault::status(503).forever()),
            _ => env.keen.fault(Fault::chaos(random.next(), 0.4)),
        }
        env.proxy.set(match random.below(10) {
            0 => QueueFault::IsAway,
            1 => QueueFault::Throttles,
            2 => QueueFault::WithoutId,
            3 => QueueFault::LosesReply,
            4 => QueueFault::Slow(Duration::from_millis(700)),
            5 => QueueFault::Refuses,
            _ => QueueFault::None,
        });
        if steps.is_multiple_of(3) {
            running.update(&settings(random.next())).unwrap();
        }
        let share = u32::try_from(ends.len()).unwrap();
        if share > 0 && began.elapsed() > length * (3 - share) / 3 {
            if ends.pop() == Some("SIGTERM") {
                running.terminate().await;
            } else {
                running.kill();
            }
            running = envoy(addr.port(), random.next()).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    env.keen.clear_faults();
    env.proxy.set(QueueFault::None);
    let seen = callers.stop().await;
    env.until_drained().await;
    println!("{} acknowledged, {:?}, {steps} steps", seen.acknowledged.len(), seen.statuses);
    env.assert_stored_once(&seen);
    assert!(seen.acknowledged.len() > 200, "{}", seen.acknowledged.len());
    let known = [0, 200, 429, 503];
    assert!(seen.statuses.keys().all(|status| known.contains(status)), "{:?}", seen.statuses);
    let log = running.log();
    assert!(
        !log.contains("panicked") && !log.contains("Function: proxy_on_"),
        "{}",
        running.log_tail(20)
    );
}
