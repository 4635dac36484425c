//! Every SDK that can be installed here: its own success signal, the POSTs it made, and the exact events in Keen.

mod expected;
mod node;
mod python;

use clients::{Fleet, Program, Run, Way};

/// What must hold of a run that nothing troubles: every call delivered, nothing in the SDK's log, one POST, and each
/// event in Keen once.
fn assert_content(name: &str, run: &Run, events: &[(&str, serde_json::Value)]) {
    assert_eq!((run.report.delivered, &run.report.errors), (expected::CALLS, &vec![]), "{name}: {run:?}");
    assert_eq!(run.log, "", "{name} logged");
    expected::assert_events(name, &run.events, events);
}

/// The group's programs, each by each way, all at once.
async fn run_all<'p>(fleet: &Fleet, programs: &'p [Program], way: &Way) -> Vec<(&'p Program, Run)> {
    let runs = programs.iter().map(async |program| (program, fleet.run(program, way).await));
    futures_util::future::join_all(runs).await
}
