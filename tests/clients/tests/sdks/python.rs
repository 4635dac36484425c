//! SDKs of PyPI.

use super::{assert_content, expected, run_all};
use clients::{Fleet, Program, Way, home, progress};

async fn programs() -> Vec<Program> {
    let home = home("python").await;
    let script = harness::root().join("tests/clients/sdk/python/analytics_python.py");
    let program = |requirement: &str, module: &str, setting: Option<&str>| {
        let python = home.join("venv/bin/python").display().to_string();
        let command = [python, script.display().to_string(), module.to_owned()];
        Program {
            name: [requirement, setting.unwrap_or_default()].join(" ").trim().to_owned(),
            command: command.into_iter().chain(setting.map(str::to_owned)).collect(),
            environment: vec![("PYTHONPATH".to_owned(), home.join(requirement).display().to_string())],
        }
    };
    vec![
        program("segment-analytics-python==2.4.0", "segment.analytics", None),
        program("segment-analytics-python==2.4.0", "segment.analytics", Some("gzip=true")),
    ]
}

#[tokio::test]
async fn plain_and_by_tls() {
    let programs = programs().await;
    let fleet = Fleet::start(|_| {}).await;
    for tls in [false, true] {
        for (program, run) in run_all(&fleet, &programs, &Way { tls, ..Way::default() }).await {
            let name = format!("{} by {}", program.name, if tls { "TLS" } else { "HTTP" });
            assert_content(&name, &run, &expected::events());
            assert_eq!(run.statuses, [200], "{name}");
            progress(&name);
        }
    }
    fleet.nothing_refused();
}
