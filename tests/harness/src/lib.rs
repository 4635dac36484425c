//! Starts a real Envoy with this repository's `envoy.yaml` and `target/keen_edge.wasm`.
//!
//! A test changes only what it needs: the address of Keen, the filter's configuration, parts of the
//! file. Ports are free ones, so that any number of Envoys can run at the same time.
//!
//! ```no_run
//! # async fn example(keen: std::net::SocketAddr) -> Result<(), harness::StartError> {
//! let envoy = harness::Envoy::builder().keen(keen).start().await?;
//! println!("{}", envoy.url("/v1/track"));
//! envoy.no_panic_in_log();
//! # Ok(()) }
//! ```

mod admin;
mod bootstrap;
mod dynamic;
mod envoy;
mod process;

pub use bootstrap::{
    CONFIG_POINTER, access_logs, default_config, downstream_tls, envoy_yaml, keen_edge, routes,
    with_insertions, yaml,
};
pub use dynamic::Dynamic;
pub use envoy::{Builder, Envoy, EventTotals, StartError};
pub use process::spawn;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Returns the root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.ancestors().nth(2).unwrap_or(here).to_owned()
    })
}

/// Returns the path of Envoy, as `scripts/envoy.sh` prints it. `$ENVOY` has precedence.
///
/// # Errors
/// The script's error message.
pub fn envoy_path() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let script = root().join("scripts/envoy.sh");
            let output = Command::new(&script)
                .output()
                .map_err(|error| format!("{}: {error}", script.display()))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        })
        .clone()
}

/// Returns the path of the module: `$KEEN_EDGE_WASM`, else `target/keen_edge.wasm` if it is newer
/// than its source.
///
/// # Errors
/// The module is missing or older than its source.
pub fn wasm_path() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("KEEN_EDGE_WASM") {
        let given = PathBuf::from(given);
        return if given.is_file() {
            Ok(given)
        } else {
            Err(format!("KEEN_EDGE_WASM: no file {}", given.display()))
        };
    }
    let path = root().join("target/keen_edge.wasm");
    let built = modified(&path).ok_or("no target/keen_edge.wasm: run `make build`")?;
    match newest(&root().join("src")) {
        Some((changed, file)) if changed > built => {
            Err(format!("target/keen_edge.wasm is older than {}: run `make build`", file.display()))
        }
        _ => Ok(path),
    }
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn newest(dir: &Path) -> Option<(std::time::SystemTime, PathBuf)> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() { newest(&path) } else { Some((modified(&path)?, path)) }
        })
        .max()
}
