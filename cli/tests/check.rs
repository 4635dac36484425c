//! Runs `keen-edge check` and `keen-edge schema` as a program, on variants of the repository's
//! envoy.yaml.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HCM: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const PLUGIN: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";
const KEEN_CLUSTER: &str = "/static_resources/clusters/0";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy.yaml")
}

fn envoy_yaml() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(shipped()).unwrap()).unwrap()
}

/// Returns the filter's own configuration.
fn settings(bootstrap: &mut Value) -> &mut Value {
    bootstrap.pointer_mut(&format!("{PLUGIN}/configuration/value")).unwrap()
}

/// Writes a file for a test.
fn file(name: &str, content: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn keen_edge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keen-edge")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs `check` on a bootstrap. Returns the exit code and the output.
fn check(name: &str, bootstrap: &Value) -> (i32, String) {
    let path = file(&format!("{name}.json"), &bootstrap.to_string());
    let output = keen_edge(&["check", path.to_str().unwrap()]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), stdout(&output))
}

#[test]
fn shipped_configuration_has_no_mistakes() {
    let output = keen_edge(&["check", "--strict", shipped().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("envoy.yaml: filter keen_edge\n  1 source, no mistakes\n"));
}

#[test]
fn every_mistake_of_the_filter_is_reported_as_the_filter_does() {
    let mut bootstrap = envoy_yaml();
    let settings = settings(&mut bootstrap);
    settings["delivery"]["holdMS"] = json!(5);
    settings["sources"]["wk_4f1c00112233"] = json!({"projectId": "x", "ipAddOn": true});
    let (code, text) = check("filter_mistakes", &bootstrap);
    assert_eq!(code, 1);
    for want in [
        "error: /delivery/holdMS: unknown setting; did you mean holdMs?",
        "error: /sources/wk_4f1c…/ipAddOn: unknown setting; did you mean ipAddon?",
        "error: /sources/wk_4f1c…/projectId: must be 24 hexadecimal characters, found 1",
        "  3 errors, 0 warnings\n",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert!(!text.contains("00112233") && !text.contains("ABCDEF0123456789"), "{text}");
}

#[test]
fn mistakes_of_the_filter_do_not_hide_others() {
    let mut bootstrap = envoy_yaml();
    settings(&mut bootstrap)["delivery"]["retrys"] = json!(1);
    set(&mut bootstrap, HCM, "stream_idle_timeout", json!("7s"));
    set(&mut bootstrap, KEEN_CLUSTER, "name", json!("other"));
    let (code, text) = check("hidden", &bootstrap);
    assert_eq!(code, 1);
    for want in [
        "error: /delivery/retrys: unknown setting; did you mean retries?",
        "error: stream_idle_timeout (7s) is not above delivery.holdMs (7000)",
        "error: the cluster keen is not defined",
        "  3 errors, 0 warnings\n",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

/// A change to envoy.yaml, whether it is an error, and the expected output.
type Case = (&'static str, fn(&mut Value), bool, &'static str);

fn set(bootstrap: &mut Value, parent: &str, name: &str, value: Value) {
    bootstrap.pointer_mut(parent).unwrap()[name] = value;
}

fn remove(bootstrap: &mut Value, parent: &str, name: &str) {
    bootstrap.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
}

const CASES: &[Case] = &[
    (
        "no_buffer_filter",
        |it| set(it, &format!("{PLUGIN}/configuration/value"), "pauseAtHeaders", json!(false)),
        true,
        "pauseAtHeaders is false, and Envoy's buffer filter is not behind this filter",
    ),
    (
        "no_stop_iteration",
        |it| remove(it, PLUGIN, "allow_on_headers_stop_iteration"),
        true,
        "allow_on_headers_stop_iteration is not true",
    ),
    (
        "false_stop_iteration",
        |it| set(it, PLUGIN, "allow_on_headers_stop_iteration", json!(false)),
        true,
        "allow_on_headers_stop_iteration is not true",
    ),
    (
        "no_callback",
        |it| {
            let list =
                format!("{PLUGIN}/vm_config/capability_restriction_config/allowed_capabilities");
            remove(it, &list, "proxy_on_request_body");
        },
        true,
        "the capability proxy_on_request_body is missing: Envoy never makes this callback",
    ),
    (
        "no_hostcall",
        |it| {
            let list =
                format!("{PLUGIN}/vm_config/capability_restriction_config/allowed_capabilities");
            remove(it, &list, "proxy_http_call");
        },
        true,
        "the capability proxy_http_call is missing: the filter cannot make this call",
    ),
    (
        "fail_closed",
        |it| remove(it, PLUGIN, "failure_policy"),
        false,
        "failure_policy is not FAIL_RELOAD",
    ),
    (
        "undefined_cluster",
        |it| set(it, KEEN_CLUSTER, "name", json!("other")),
        true,
        "the cluster keen is not defined",
    ),
    (
        "undefined_source_cluster",
        |it| settings(it)["sources"]["writeKey"]["cluster"] = json!("keen-eu"),
        true,
        "the cluster keen-eu is not defined",
    ),
    (
        "undefined_overflow_cluster",
        |it| settings(it)["overflow"] = json!({"cluster": "sqs", "queueUrl": "http://q/1"}),
        true,
        "the cluster sqs is not defined",
    ),
    (
        "dynamic_clusters",
        |it| {
            set(it, KEEN_CLUSTER, "name", json!("other"));
            it["dynamic_resources"] =
                json!({"cds_config": {"path_config_source": {"path": "cds.yaml"}}});
        },
        false,
        "the cluster keen is not defined",
    ),
    (
        "stream_idle_timeout",
        |it| set(it, HCM, "stream_idle_timeout", json!("7s")),
        true,
        "stream_idle_timeout (7s) is not above delivery.holdMs (7000)",
    ),
    (
        "max_stream_duration",
        |it| {
            set(
                it,
                &format!("{HCM}/common_http_protocol_options"),
                "max_stream_duration",
                json!("0.5s"),
            )
        },
        true,
        "common_http_protocol_options.max_stream_duration (0.5s) is not above delivery.holdMs (7000)",
    ),
    (
        "hold_ms",
        |it| {
            set(it, HCM, "request_timeout", json!("30s"));
            settings(it)["delivery"]["holdMs"] = json!(15000);
        },
        true,
        "stream_idle_timeout (15s) is not above delivery.holdMs (15000)",
    ),
    (
        "route_idle_timeout",
        |it| {
            let route = format!("{HCM}/route_config/virtual_hosts/0/routes/0");
            set(it, &route, "route", json!({"cluster": "keen", "idle_timeout": "3s"}));
        },
        true,
        "a route's idle_timeout (3s) is not above delivery.holdMs (7000)",
    ),
    (
        "request_timeout",
        |it| set(it, HCM, "request_timeout", json!("5s")),
        false,
        "request_timeout (5s) is not above delivery.holdMs (7000)",
    ),
    (
        "no_limit",
        |it| {
            set(it, HCM, "stream_idle_timeout", json!("0s"));
            remove(it, &format!("{HCM}/common_http_protocol_options"), "max_stream_duration");
        },
        false,
        "no limit ends a request whose VM has failed",
    ),
    (
        "small_buffer",
        |it| {
            set(
                it,
                "/static_resources/listeners/0",
                "per_connection_buffer_limit_bytes",
                json!(32768),
            )
        },
        true,
        "per_connection_buffer_limit_bytes (32768) is below limits.bodyBytes (524288)",
    ),
    (
        "default_buffer",
        |it| {
            remove(it, "/static_resources/listeners/0", "per_connection_buffer_limit_bytes");
            settings(it)["limits"] = json!({"bodyBytes": 2_000_000});
        },
        true,
        "per_connection_buffer_limit_bytes (1048576) is below limits.bodyBytes (2000000)",
    ),
    (
        "small_route_buffer",
        |it| {
            let host = format!("{HCM}/route_config/virtual_hosts/0");
            set(it, &host, "per_request_buffer_limit_bytes", json!(1000));
        },
        true,
        "per_request_buffer_limit_bytes (1000) is below limits.bodyBytes (524288)",
    ),
    (
        "remote_address",
        |it| remove(it, HCM, "use_remote_address"),
        false,
        "use_remote_address is off",
    ),
    (
        "http_10",
        |it| remove(it, &format!("{HCM}/http_protocol_options"), "accept_http_10"),
        false,
        "HTTP/1.0 is off",
    ),
    (
        "upgrade",
        |it| remove(it, &format!("{HCM}/http_protocol_options"), "ignore_http_11_upgrade"),
        false,
        "upgrades are refused",
    ),
    (
        "cors_before",
        |it| {
            let filters = it.pointer_mut(&format!("{HCM}/http_filters")).unwrap();
            filters.as_array_mut().unwrap().insert(0, json!({"name": "envoy.filters.http.cors"}));
        },
        false,
        "a CORS filter is in front of keen-edge",
    ),
    (
        "retry_policy",
        |it| {
            let options = format!(
                "{KEEN_CLUSTER}/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            );
            set(it, &options, "retry_policy", json!({"retry_on": "5xx"}));
        },
        false,
        "the cluster keen has a retry_policy",
    ),
    (
        "no_write_key",
        |it| {
            settings(it)["sources"]["writeKey"]
                .as_object_mut()
                .unwrap()
                .remove("writeKey")
                .unwrap();
        },
        false,
        "the project 5181bcd23843312d87000000 has no writeKey, and no credential injector is on the cluster keen",
    ),
    (
        "unsigned_overflow",
        |it| {
            let queue = "https://sqs.eu-west-1.amazonaws.com/1/q";
            settings(it)["overflow"] = json!({"cluster": "sqs", "queueUrl": queue});
            let clusters = it.pointer_mut("/static_resources/clusters").unwrap();
            clusters.as_array_mut().unwrap().push(json!({"name": "sqs"}));
        },
        false,
        "the cluster sqs does not sign its calls",
    ),
    ("stats_tags", |it| remove(it, "", "stats_config"), false, "stats_tags lacks "),
];

#[test]
fn each_mistake_that_the_filter_cannot_see_is_reported_alone() {
    for (name, change, is_error, want) in CASES {
        let mut bootstrap = envoy_yaml();
        change(&mut bootstrap);
        let (code, text) = check(name, &bootstrap);
        let severity = if *is_error { "error" } else { "warning" };
        assert!(text.contains(&format!("  {severity}: {want}")), "{name}: {text}");
        let summary = if *is_error { "  1 error, 0 warnings\n" } else { "  0 errors, 1 warning\n" };
        assert!(text.ends_with(summary), "{name}: {text}");
        assert_eq!(code, i32::from(*is_error), "{name}");
        // The report says what to do.
        assert_eq!(text.matches("    → ").count(), 1, "{name}: {text}");
    }
}

#[test]
fn strict_option_makes_warnings_fail() {
    let mut bootstrap = envoy_yaml();
    remove(&mut bootstrap, HCM, "use_remote_address");
    let path = file("strict.json", &bootstrap.to_string());
    let output = keen_edge(&["check", "--strict", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn short_timeouts_without_waiting_callers_are_no_mistake() {
    let mut bootstrap = envoy_yaml();
    set(&mut bootstrap, HCM, "stream_idle_timeout", json!("3s"));
    settings(&mut bootstrap)["delivery"]["ack"] = json!("accepted");
    assert_eq!(check("accepted", &bootstrap).0, 0);
}

#[test]
fn string_value_and_camel_case_are_read() {
    let mut bootstrap = envoy_yaml();
    settings(&mut bootstrap)["delivery"]["holdMs"] = json!(0);
    let text = settings(&mut bootstrap).to_string();
    let configuration =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
    let plugin = bootstrap.pointer_mut(PLUGIN).unwrap();
    plugin["configuration"] = configuration;
    let flag = plugin.as_object_mut().unwrap().remove("allow_on_headers_stop_iteration").unwrap();
    plugin["allowOnHeadersStopIteration"] = flag;
    let (code, text) = check("string_value", &bootstrap);
    assert_eq!(code, 1);
    assert!(text.contains("error: /delivery/holdMs: must be a whole number"), "{text}");
    assert!(text.ends_with("  1 error, 0 warnings\n"), "{text}");
}

#[test]
fn buffer_filter_behind_the_filter_replaces_the_pause_at_the_headers() {
    let mut bootstrap = envoy_yaml();
    settings(&mut bootstrap)["pauseAtHeaders"] = json!(false);
    remove(&mut bootstrap, PLUGIN, "allow_on_headers_stop_iteration");
    let buffer = json!({
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
            "max_request_bytes": 1_048_576,
        },
    });
    let mut in_front = bootstrap.clone();
    let insert = |it: &mut Value, at: usize| {
        let filters = &mut it.pointer_mut(HCM).unwrap()["http_filters"];
        filters.as_array_mut().unwrap().insert(at, buffer.clone());
    };
    insert(&mut bootstrap, 1);
    let (code, text) = check("buffer_behind", &bootstrap);
    assert_eq!(code, 0, "{text}");
    insert(&mut in_front, 0);
    let (code, text) = check("buffer_in_front", &in_front);
    assert!(code == 1 && text.contains("pauseAtHeaders is false"), "{text}");
}

#[test]
fn missing_configuration_is_reported() {
    let mut bootstrap = envoy_yaml();
    remove(&mut bootstrap, PLUGIN, "configuration");
    let (code, text) = check("no_configuration", &bootstrap);
    assert_eq!(code, 1);
    assert!(text.contains("error: : a configuration is required, found none"), "{text}");
}

#[test]
fn lds_and_ecds_files_are_checked_with_the_bootstrap_beside_them() {
    let mut bootstrap = envoy_yaml();
    settings(&mut bootstrap)["keen"]["timeoutMs"] = json!(0);
    let listener = {
        let mut listener = bootstrap.pointer("/static_resources/listeners/0").unwrap().clone();
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        listener
    };
    let wasm = bootstrap.pointer(&format!("{HCM}/http_filters/0/typed_config")).unwrap().clone();
    bootstrap["static_resources"]["listeners"] = json!([]);
    let bootstrap = file("without_listener.json", &bootstrap.to_string());
    let ecds = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "keen_edge",
        "typed_config": wasm,
    });
    for (name, resource) in [("lds", listener), ("ecds", ecds)] {
        let path = file(&format!("{name}.yaml"), &json!({"resources": [resource]}).to_string());
        let output = keen_edge(&["check", path.to_str().unwrap(), bootstrap.to_str().unwrap()]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains("error: /keen/timeoutMs: must be a whole number"), "{name}: {text}");
        assert!(text.ends_with("  1 error, 0 warnings\n"), "{name}: {text}");
    }
    let path = file("alone.yaml", &json!({"resources": [ecds_of_shipped()]}).to_string());
    let output = keen_edge(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stdout(&output).contains("warning: no file defines clusters: not checked that keen exist")
    );
}

#[test]
fn files_that_envoy_discovers_are_checked_too() {
    let mut bootstrap = envoy_yaml();
    set(&mut bootstrap, HCM, "stream_idle_timeout", json!("7s"));
    settings(&mut bootstrap)["keen"]["timeoutMs"] = json!(0);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("discovery");
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, content: Value| {
        std::fs::write(directory.join(name), content.to_string()).unwrap()
    };
    let from =
        |path: &str| json!({"path_config_source": {"path": path}, "resource_api_version": "V3"});

    // The filter is discovered by ECDS, the listener by LDS, the clusters by CDS. Paths are
    // relative to the bootstrap.
    let filter = bootstrap.pointer_mut(&format!("{HCM}/http_filters/0")).unwrap();
    let ecds = json!({"name": "keen_edge", "typed_config": filter["typed_config"].take()});
    *filter =
        json!({"name": "keen_edge", "config_discovery": {"config_source": from("ecds.yaml")}});
    write("ecds.yaml", json!({"resources": [ecds]}));
    let listeners = bootstrap["static_resources"]["listeners"].take();
    write("lds.yaml", json!({"resources": listeners}));
    let mut clusters = bootstrap["static_resources"]["clusters"].take();
    for cluster in clusters.as_array_mut().unwrap() {
        cluster["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    }
    write("cds.yaml", json!({"resources": clusters}));
    bootstrap["dynamic_resources"] =
        json!({"lds_config": from("lds.yaml"), "cds_config": from("cds.yaml")});
    write("bootstrap.yaml", bootstrap);

    let path = directory.join("bootstrap.yaml");
    let output = keen_edge(&["check", path.to_str().unwrap()]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    for want in [
        "ecds.yaml: filter keen_edge\n",
        "error: /keen/timeoutMs: must be a whole number from 1 to 600000, found 0",
        "error: stream_idle_timeout (7s) is not above delivery.holdMs (7000)",
        "  2 errors, 0 warnings\n",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

fn ecds_of_shipped() -> Value {
    let wasm = envoy_yaml().pointer(&format!("{HCM}/http_filters/0/typed_config")).unwrap().clone();
    json!({"name": "keen_edge", "typed_config": wasm})
}

#[test]
fn json_output_has_each_finding() {
    let mut bootstrap = envoy_yaml();
    settings(&mut bootstrap)["delivery"]["retries"] = json!("many");
    remove(&mut bootstrap, PLUGIN, "failure_policy");
    let path = file("json.json", &bootstrap.to_string());
    let output = keen_edge(&["check", "--json", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let reports: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let findings = &reports[0]["findings"];
    assert_eq!(findings[0]["severity"], "error");
    assert_eq!(findings[0]["setting"], "/delivery/retries");
    assert_eq!(findings[0]["message"], "must be a whole number from 0 to 100, found a string");
    assert_eq!(findings[1]["severity"], "warning");
    assert!(findings[1]["help"].as_str().unwrap().contains("FAIL_RELOAD"));
}

#[test]
fn unusable_files_exit_with_2() {
    let other = file("other.yaml", "static_resources: {listeners: []}\n");
    let broken = file("broken.yaml", "a: [\nwriteKey: ABCDEF0123456789ABCDEF0123456789\n");
    for (arguments, want) in [
        (&["check", "missing.yaml"][..], "missing.yaml: No such file"),
        (&["check", other.to_str().unwrap()], "no keen-edge filter found"),
        (&["check", broken.to_str().unwrap()], "not valid YAML"),
        (&["check"], "required arguments"),
        (&["chek"], "unrecognized subcommand"),
    ] {
        let output = keen_edge(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(want), "{error}");
        assert!(!error.contains("ABCDEF0123456789"), "a key: {error}");
    }
}

#[test]
fn schema_command_prints_the_schema_of_the_repository() {
    let output = keen_edge(&["schema"]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config.schema.json");
    assert_eq!(stdout(&output), std::fs::read_to_string(committed).unwrap());
}
