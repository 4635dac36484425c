//! `func-e run -c envoy.yaml`, as README shows it.
