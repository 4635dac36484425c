//! A listener or a filter that Envoy reads from a file, and again when the file is replaced.

use crate::bootstrap;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The resource in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dynamic {
    /// The whole listener (Envoy's LDS).
    Listener,
    /// The filter alone (Envoy's ECDS).
    Filter,
}

/// A resource and its file.
#[derive(Debug)]
pub(crate) struct Resource {
    what: Dynamic,
    resource: Value,
    file: PathBuf,
    version: AtomicU32,
}

const LISTENERS: &str = "/static_resources/listeners";
const FILTER: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

impl Resource {
    /// Moves the resource out of a bootstrap and into `file`.
    pub(crate) fn take(
        what: Dynamic,
        bootstrap: &mut Value,
        file: PathBuf,
    ) -> Result<Self, String> {
        let source = json!({"resource_api_version": "V3", "path_config_source": {"path": file}});
        let resource = match what {
            Dynamic::Listener => {
                let listener =
                    bootstrap::at_mut(bootstrap, LISTENERS)?.as_array_mut().and_then(Vec::pop);
                let mut listener = listener.ok_or("envoy.yaml has no listener")?;
                listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
                bootstrap["dynamic_resources"] = json!({"lds_config": source});
                listener
            }
            Dynamic::Filter => {
                let filter = bootstrap::at_mut(bootstrap, FILTER)?;
                let mut resource = filter.clone();
                resource["@type"] =
                    json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
                *filter = json!({
                    "name": resource["name"],
                    "config_discovery": {"config_source": source, "type_urls": [WASM]},
                });
                resource
            }
        };
        let resource = Self { what, resource, file, version: AtomicU32::new(0) };
        resource.write(&resource.resource)?;
        Ok(resource)
    }

    /// Replaces the filter's configuration in the file. `patch` also changes the resource.
    pub(crate) fn update(
        &self,
        config: &Value,
        patch: impl FnOnce(&mut Value),
    ) -> Result<(), String> {
        let mut resource = self.resource.clone();
        patch(&mut resource);
        let place = match self.what {
            Dynamic::Listener => {
                bootstrap::CONFIG_POINTER.trim_start_matches("/static_resources/listeners/0")
            }
            Dynamic::Filter => "/typed_config/config/configuration",
        };
        let value = json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": config});
        *bootstrap::at_mut(&mut resource, place)? = value;
        self.write(&resource)
    }

    fn write(&self, resource: &Value) -> Result<(), String> {
        let version = self.version.fetch_add(1, Ordering::Relaxed).to_string();
        let response = json!({"version_info": version, "resources": [resource]});
        // Envoy reloads when a file is moved to this path.
        let next = self.file.with_extension("next");
        let failed = |path: &Path, error| format!("{}: {error}", path.display());
        fs::write(&next, response.to_string()).map_err(|error| failed(&next, error))?;
        fs::rename(&next, &self.file).map_err(|error| failed(&self.file, error))
    }
}
