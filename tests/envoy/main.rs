//! The built filter in a real Envoy, with the repository's `envoy.yaml` and a mock Keen.

mod ack_accepted;
mod browser;
mod buffer_filter;
#[path = "../golden/cases.rs"]
mod cases;
mod client_address;
mod config_reload;
mod configuration;
mod cpu_cost;
mod credential_injection;
mod delivery;
mod dynamic_config;
mod fixture;
mod golden;
mod grpc_content_type;
mod http2_raw;
mod http_edge_cases;
mod initial_pageview;
mod intercept_forward;
mod malicious_input;
mod memory;
mod metrics;
mod overflow;
mod pixel;
mod poison;
mod process_state;
mod public_cases;
mod recorded_requests;
mod segment_api;
mod smoke;
mod tenants;
mod upstream_faults;
mod users;
mod vm_restart;
