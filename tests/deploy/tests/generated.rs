//! The files of `deploy/` that repeat parts of `envoy.yaml` are up to date.

use deploy::generated::{
    UPDATE, as_value, assert_up_to_date, block, cluster, envoy_yaml, filter,
    filter_for_control_plane, indented, read, with_block,
};
use deploy::{chart_schema, container_config};

/// Returns the first lines of a generated file.
fn header(what: &str, source: &str) -> String {
    let comment: String = what.lines().map(|line| format!("# {line}\n")).collect();
    format!("{comment}# Generated from {source}: {UPDATE}\n\n")
}

const ECDS: &str = "\
- name: keen_edge
  # The filter and its configuration are in a file. When a file is moved into the directory, Envoy reads it again.
  config_discovery:
    config_source:
      resource_api_version: V3
      path_config_source:
        path: /etc/envoy/filter/keen_edge.yaml
        watched_directory: {path: /etc/envoy/filter}
    type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]
";

#[test]
fn ecds_bootstrap_is_envoy_yaml_with_the_filter_in_a_file() {
    let text = header(
        "Envoy with keen-edge, which reads the filter's configuration from filter/keen_edge.yaml (ECDS) and again when\n\
         that file is replaced. See docs/deploying.md.",
        "envoy.yaml",
    ) + &with_block(&envoy_yaml(), "- name: keen_edge", ECDS);
    assert_up_to_date("deploy/ecds/envoy.yaml", &text);
}

#[test]
fn ecds_resource_is_the_filter_of_envoy_yaml() {
    let resource = format!(
        "- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n{}",
        indented(&as_value(&filter()), 2)
    );
    let text = header(
        "The filter and its configuration for deploy/ecds/envoy.yaml. Change a copy, check it with `keen-edge check`, and\n\
         move it over this file: Envoy does not see changes made in place.",
        "envoy.yaml",
    ) + "resources:\n"
        + &indented(&resource, 2);
    assert_up_to_date("deploy/ecds/filter/keen_edge.yaml", &text);
}

const LDS: &str = "\
# When a file is moved into the directory, Envoy reads the listeners again.
dynamic_resources:
  lds_config:
    resource_api_version: V3
    path_config_source:
      path: /etc/envoy/listeners/segment.yaml
      watched_directory: {path: /etc/envoy/listeners}

";

#[test]
fn lds_bootstrap_is_envoy_yaml_with_the_listener_in_a_file() {
    let text = envoy_yaml();
    let (before, after) = text.split_once("static_resources:\n").expect("static resources");
    let clusters = after.find("  clusters:\n").expect("clusters");
    let text = header(
        "Envoy with keen-edge, which reads its listener from listeners/segment.yaml (LDS) and again when that file is\n\
         replaced. See docs/deploying.md.",
        "envoy.yaml",
    ) + before
        + LDS
        + "static_resources:\n"
        + after.split_at(clusters).1;
    assert_up_to_date("deploy/lds/envoy.yaml", &text);
}

#[test]
fn lds_resource_is_the_listener_of_envoy_yaml() {
    let listener = format!(
        "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n{}",
        indented(&as_value(&block(&envoy_yaml(), "- name: segment")), 2)
    );
    let text = header(
        "The listener for deploy/lds/envoy.yaml. Change a copy, check it with `keen-edge check`, and move it over this\n\
         file: Envoy does not see changes made in place.",
        "envoy.yaml",
    ) + "resources:\n"
        + &indented(&listener, 2);
    assert_up_to_date("deploy/lds/listeners/segment.yaml", &text);
}

const REMOTE_CODE: &str = "\
code:
  remote:
    http_uri: {uri: http://artifacts.example.com/keen_edge.wasm, cluster: artifacts, timeout: 10s}
    # sha256sum target/keen_edge.wasm. Envoy does not load other bytes.
    sha256: 0000000000000000000000000000000000000000000000000000000000000000
    retry_policy: {num_retries: 10, retry_back_off: {base_interval: 1s, max_interval: 10s}}
";

const ARTIFACTS: &str = "
    - name: artifacts
      # The server with the module. For HTTPS: port 443, and the transport_socket of the cluster keen with sni and matcher
      # changed.
      type: LOGICAL_DNS
      dns_lookup_family: V4_PREFERRED
      connect_timeout: 2s
      load_assignment:
        cluster_name: artifacts
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: artifacts.example.com, port_value: 80}}}
";

#[test]
fn remote_code_bootstrap_is_envoy_yaml_with_the_module_on_a_server() {
    let text = with_block(&envoy_yaml(), "code: {local:", REMOTE_CODE);
    let end = "          - {max_connections: 256, max_pending_requests: 256, max_requests: 256}\n";
    let (before, after) = text.split_once(end).expect("the last cluster's last line");
    let text = header(
        "Envoy with keen-edge, which fetches the module from a server and checks its sha256. See docs/deploying.md.",
        "envoy.yaml",
    ) + before
        + end
        + ARTIFACTS
        + after;
    assert_up_to_date("deploy/remote-code/envoy.yaml", &text);
}

/// Replaces the text between `<mark>:start` and `<mark>:end` in a file, with the indentation of the
/// first of these.
fn between_marks(text: &str, mark: &str, new: &str) -> String {
    let start = format!("# {mark}:start");
    let end = format!("# {mark}:end");
    let line = text.lines().find(|line| line.trim() == start);
    let line = line.unwrap_or_else(|| panic!("no line {start:?}"));
    let (before, rest) = text.split_once(&format!("{line}\n")).expect("the first mark");
    let spaces = line.len() - line.trim_start().len();
    let last = format!("{}{end}\n", " ".repeat(spaces));
    let (_, after) = rest.split_once(&last).unwrap_or_else(|| panic!("no line {end:?}"));
    format!("{before}{line}\n{}{last}{after}", indented(new, spaces))
}

/// The files contain the filter and the cluster of `envoy.yaml` between marks.
#[test]
fn patches_of_istio_and_envoy_gateway_contain_the_filter_of_envoy_yaml() {
    for path in ["deploy/istio/envoyfilter.yaml", "deploy/envoy-gateway/keen-edge.yaml"] {
        let text = between_marks(&read(path), "filter", &as_value(&filter_for_control_plane()));
        let text = between_marks(&text, "cluster", &as_value(&cluster()));
        assert_up_to_date(path, &text);
    }
}

#[test]
fn container_configurations_are_envoy_yaml_with_the_changes_of_a_container() {
    let container = container_config::from_envoy_yaml(&read("envoy.yaml"));
    assert_up_to_date("deploy/container/envoy.yaml", &container);
    assert_up_to_date("deploy/kubernetes/gateway/envoy.yaml", &container);
    assert_up_to_date("deploy/helm/keen-edge/files/envoy.yaml", &container);
    let sidecar = container_config::for_sidecar(&container);
    assert_up_to_date("deploy/kubernetes/sidecar/envoy.yaml", &sidecar);
}

#[test]
fn schema_of_the_charts_values_has_the_settings_of_the_configuration() {
    let schema = chart_schema::from_config_schema(&harness::yaml(&read("config.schema.json")));
    assert_up_to_date("deploy/helm/keen-edge/values.schema.json", &format!("{schema:#}\n"));
}
