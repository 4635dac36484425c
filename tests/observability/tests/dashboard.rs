//! Checks the dashboard and the alert rules without an Envoy.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const DASHBOARD: &str = "deploy/grafana/keen-edge.json";

fn read(path: &str) -> String {
    fs::read_to_string(harness::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

fn alerts() -> Vec<Value> {
    let rules = harness::yaml(&read("deploy/prometheus/alerts.yaml"));
    rules["groups"][0]["rules"].as_array().unwrap().clone()
}

/// With `UPDATE_DEPLOY=1` the test writes the JSON.
#[test]
fn dashboard_json_equals_the_build_of_its_source() {
    let built = observability::tool("dashboard");
    if std::env::var_os("UPDATE_DEPLOY").is_some() {
        fs::write(harness::root().join(DASHBOARD), &built).unwrap();
    }
    assert!(
        read(DASHBOARD) == built,
        "{DASHBOARD} is out of date; run this test with UPDATE_DEPLOY=1"
    );
}

/// Each panel has its own place in the grid, an id, a description and a data source that the
/// variable chooses.
#[test]
fn panels_do_not_overlap_and_are_described() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's, too");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|at| panel["gridPos"][at].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} overlaps another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            let selected = expr.matches("instance=~\"$instance\"").count();
            assert_eq!(selected, expr.matches('{').count(), "{title}: {expr}");
        }
    }
}

/// The dashboard uses every metric of docs/operating.md.
#[test]
fn each_metric_is_in_the_dashboard() {
    let operating = read("docs/operating.md");
    let (_, table) = operating.split_once("<!-- metrics:start -->").unwrap();
    let (table, _) = table.split_once("<!-- metrics:end -->").unwrap();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    let text = dashboard().to_string();
    let used =
        |name: &str| ["{", "_bucket{"].iter().any(|end| text.contains(&format!("{name}{end}")));
    let unused: Vec<&str> = names.filter(|name| !used(name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn alert_rules_pass_promtool() {
    let promtool = Path::new(observability::tool("prometheus").trim()).join("promtool");
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let mut command = Command::new(&promtool);
        let output = command
            .args(args)
            .current_dir(harness::root().join("deploy/prometheus"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{args:?}:\n{}", String::from_utf8_lossy(&text));
    }
}

/// For each alert the unit tests have a case in which it fires, and one in which it does not.
#[test]
fn each_alert_has_a_test_that_fires_and_one_that_does_not() {
    let tests = harness::yaml(&read("deploy/prometheus/alerts_test.yaml"));
    let cases = tests["tests"].as_array().unwrap().iter();
    let cases: Vec<&Value> =
        cases.flat_map(|test| test["alert_rule_test"].as_array().unwrap()).collect();
    for alert in alerts() {
        let of_alert = cases.iter().filter(|case| case["alertname"] == alert["alert"]);
        let fires: BTreeSet<bool> =
            of_alert.map(|case| !case["exp_alerts"].as_array().unwrap().is_empty()).collect();
        assert_eq!(fires.len(), 2, "{}", alert["alert"]);
    }
}

#[test]
fn each_runbook_is_a_heading_of_a_document() {
    for alert in alerts() {
        let runbook = alert["annotations"]["runbook"].as_str().unwrap();
        let (path, anchor) = runbook.split_once('#').unwrap();
        let text = read(path);
        let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
            let line = line.trim_start_matches('#').trim().to_lowercase();
            line.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).collect::<String>()
        });
        let found = headings.into_iter().any(|heading| heading.replace(' ', "-") == anchor);
        assert!(found, "{}: {runbook}", alert["alert"]);
    }
}

/// docs/operating.md lists exactly these alerts.
#[test]
fn alerts_equal_the_list_in_operating_md() {
    let text = read("docs/operating.md");
    let listed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `KeenEdge")?.split('`').next())
        .collect();
    let alerts = alerts();
    let names = alerts.iter().map(|alert| alert["alert"].as_str().unwrap());
    let names: BTreeSet<&str> = names.map(|name| name.strip_prefix("KeenEdge").unwrap()).collect();
    assert_eq!(listed, names);
}
