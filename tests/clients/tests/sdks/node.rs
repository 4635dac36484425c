//! SDKs of npm.

use super::{assert_content, expected, run_all};
use clients::{Fleet, Program, Way, home, progress};

async fn programs() -> Vec<Program> {
    let home = home("node").await;
    let script = home.join("analytics-node.mjs").display().to_string();
    ["analytics-node-3.1.0"]
        .map(|package| Program {
            name: package.to_owned(),
            command: vec!["node".to_owned(), script.clone(), package.to_owned()],
            ..Program::default()
        })
        .to_vec()
}

#[tokio::test]
async fn plain_and_by_tls() {
    let programs = programs().await;
    let fleet = Fleet::start(|_| {}).await;
    for tls in [false, true] {
        for (program, run) in run_all(&fleet, &programs, &Way { tls, ..Way::default() }).await {
            let name = format!("{} by {}", program.name, if tls { "TLS" } else { "HTTP" });
            assert_content(&name, &run, &expected::events());
            assert_eq!((run.statuses, run.report.requests), (vec![200], Some(1)), "{name}");
            progress(&name);
        }
    }
    fleet.nothing_refused();
}
