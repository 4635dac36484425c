//! Makes the Envoy configuration for containers: `envoy.yaml` with the changes that a container
//! needs.

use std::path::Path;

/// The path of the module in the image.
const WASM: &str = "/etc/envoy/keen_edge.wasm";

/// The file that holds the Keen write key.
pub const KEY_FILE: &str = "/etc/keen-edge/keys/keen_write_key";

const HEAD: &str = "\
# Envoy with keen-edge in a container: envoy.yaml with the listener on all addresses, Keen itself as the destination, the Keen
# write key in a file of its own, and a port for probes and metrics. Change the sources. The other lines are explained there.
# Generated from envoy.yaml: UPDATE_DEPLOY=1 cargo test -p deploy --test generated
";

/// The listener for kubelet and Prometheus. The admin interface itself stays on loopback.
const PROBES: &str = r#"
    # For probes and Prometheus. Everything else of the admin interface is reached from inside the container only.
    - name: probes
      address: {socket_address: {address: 0.0.0.0, port_value: 9902}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: probes
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  name: probes
                  virtual_hosts:
                    - name: probes
                      domains: ["*"]
                      routes:
                        # 200 while Envoy is live; 503 once it drains.
                        - match: {path: /ready, headers: [{name: ":method", string_match: {exact: GET}}]}
                          route: {cluster: admin}
                        - match: {path: /stats/prometheus, headers: [{name: ":method", string_match: {exact: GET}}]}
                          route: {cluster: admin}
"#;

/// The cluster behind the listener `probes`.
const ADMIN: &str = r"    - name: admin # for the listener `probes`
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
";

/// The filter that adds the Keen write key to the callouts.
const INJECTOR: &str = r#"          http_filters:
            - name: envoy.filters.http.credential_injector
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
                overwrite: true
                credential:
                  name: envoy.http.injected_credentials.generic
                  typed_config:
                    "@type": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
                    credential: {name: keen_write_key}
            - name: envoy.filters.http.upstream_codec
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
"#;

/// Makes `deploy/container/envoy.yaml` from the text of `envoy.yaml`.
///
/// # Panics
/// Panics if a line to change is missing or exists twice.
#[must_use]
pub fn from_envoy_yaml(envoy_yaml: &str) -> String {
    let start = envoy_yaml.find("node:").expect("envoy.yaml has a node");
    let text = format!("{HEAD}\n{}", &envoy_yaml[start..]);
    let text = uncomment(&text, "transport_socket:\n      #   name: envoy.transport_sockets.tls");
    let secret = format!(
        "  secrets:\n    # Read when Envoy starts. The file contains the key alone, without a line break.\n    - name: keen_write_key\n      generic_secret: {{secret: {{filename: {KEY_FILE}}}}}\n"
    );
    let edits: [(&str, String); 9] = [
        (
            "{address: 127.0.0.1, port_value: 8080}} # production: 0.0.0.0, port 443, and TLS below",
            "{address: 0.0.0.0, port_value: 8080}} # TLS: in front of it, or below".to_owned(),
        ),
        ("target/keen_edge.wasm", WASM.to_owned()),
        ("\n  clusters:\n", format!("{PROBES}\n{secret}\n  clusters:\n{ADMIN}")),
        (
            "# This is the mock Keen. For Keen itself: address api.keen.io, port 443, and the transport_socket below.",
            "# Callouts to Keen.".to_owned(),
        ),
        (
            "{address: 127.0.0.1, port_value: 8089}",
            "{address: api.keen.io, port_value: 443}".to_owned(),
        ),
        (
            "                                writeKey: ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789\n",
            String::new(),
        ),
        (
            "            # Segment's own names. To keep Keen's keys out of this file, leave writeKey out and let\n                            # Envoy's credential injector add it to the calls.\n",
            "            # Segment's own names. Envoy adds the Keen write key to the calls: see the cluster keen.\n"
                .to_owned(),
        ),
        (
            "          common_http_protocol_options: {idle_timeout: 30s}\n",
            format!("          common_http_protocol_options: {{idle_timeout: 30s}}\n{INJECTOR}"),
        ),
        (
            "scripts/drain.sh stops it without losing callers.",
            "keen-edge-drain stops it without losing callers."
                .to_owned(),
        ),
    ];
    edits.into_iter().fold(text, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "envoy.yaml has this once:\n{from}");
        text.replace(from, &to)
    })
}

/// Removes `# ` from the comment block whose text starts with `first`.
fn uncomment(text: &str, first: &str) -> String {
    let marker = format!("# {first}");
    assert_eq!(text.matches(&marker).count(), 1, "envoy.yaml has this once:\n{marker}");
    let (before, after) = text.split_once(&marker).expect("found above");
    let indent = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
    let commented = format!("{}# ", " ".repeat(indent));
    let mut out = before.to_owned();
    let block = format!("# {first}{after}");
    let mut lines = block.split_inclusive('\n');
    let mut in_block = true;
    out.push_str(lines.next().unwrap_or_default().trim_start_matches("# "));
    for line in &mut lines {
        in_block = in_block && line.starts_with(&commented);
        match line.strip_prefix(&commented) {
            Some(rest) if in_block => out.push_str(&format!("{}{rest}", " ".repeat(indent))),
            _ => out.push_str(line),
        }
    }
    out
}

/// Makes the sidecar's configuration from the container's. Only the application in the same pod can
/// reach it.
///
/// # Panics
/// Panics if the container's configuration lacks a line to change.
#[must_use]
pub fn for_sidecar(container: &str) -> String {
    let edits = [
        ("address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: 8080"),
        ("the listener on all addresses, ", ""),
        ("# Envoy with keen-edge in a container:", "# Envoy with keen-edge as a sidecar:"),
    ];
    edits.into_iter().fold(container.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

/// Replaces the paths in the container by paths on this machine.
#[must_use]
pub fn with_local_files(yaml: &str, wasm: &Path, key: &Path) -> String {
    yaml.replace(WASM, &wasm.to_string_lossy()).replace(KEY_FILE, &key.to_string_lossy())
}
