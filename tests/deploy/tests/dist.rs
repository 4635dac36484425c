//! `make dist`: the files of a release.

use deploy::{fresh_dir, generated::read, run, start_registry, tool};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Returns the path of a blob of an OCI layout.
fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(digest)
}

/// Returns the version of a package in `Cargo.lock`.
fn locked_version(name: &str) -> String {
    let lock = read("Cargo.lock");
    let package =
        lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")));
    let line = package.unwrap().lines().find_map(|line| line.strip_prefix("version = \""));
    line.unwrap().trim_end_matches('"').to_owned()
}

#[tokio::test]
async fn release_has_the_filter_its_image_chart_schema_and_sbom() {
    let dir = fresh_dir("dist");
    let dist = dir.join("dist");
    let wasm = fs::read(harness::wasm_path().unwrap()).unwrap();
    let script = harness::root().join("scripts/dist.sh");
    let _ = run(Command::new(script).env("DIST_DIR", &dist)).expect_success();

    let version = env!("CARGO_PKG_VERSION");
    let chart = format!("keen-edge-{version}.tgz");
    let names =
        fs::read_dir(&dist).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let expected = [
        "config.schema.json",
        "keen-edge-filter-oci",
        "keen_edge.cdx.json",
        "keen_edge.wasm",
        "keen_edge.wasm.sha256",
        &chart,
    ];
    assert_eq!(names.collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());

    assert_eq!(fs::read(dist.join("keen_edge.wasm")).unwrap(), wasm);
    let mut check = Command::new("sha256sum");
    let _ =
        run(check.args(["--check", "keen_edge.wasm.sha256"]).current_dir(&dist)).expect_success();
    assert_eq!(
        fs::read_to_string(dist.join("config.schema.json")).unwrap(),
        read("config.schema.json")
    );

    // The layout has one image under the version, whose layer is the module as plugin.wasm.
    let layout = dist.join("keen-edge-filter-oci");
    let index = json(&layout.join("index.json"));
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], version);
    let manifest = json(&blob(&layout, &index["manifests"][0]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let layer = blob(&layout, &manifest["layers"][0]);
    let _ = run(Command::new("tar").arg("xzf").arg(layer).arg("-C").arg(&dir)).expect_success();
    assert_eq!(Sha256::digest(fs::read(dir.join("plugin.wasm")).unwrap()), Sha256::digest(&wasm));

    // A registry accepts the layout and the chart, and returns the chart. The chart renders.
    let (_registry, address) = start_registry(&dir).await;
    let crane = |args: &[&str]| run(Command::new(tool("crane")).args(args)).expect_success();
    let image = format!("{address}/keen-edge-filter:{version}");
    let _ = crane(&["push", "--insecure", &layout.to_string_lossy(), &image]);
    assert_eq!(crane(&["digest", "--insecure", &image]).trim(), index["manifests"][0]["digest"]);
    let helm = |args: &[&str]| {
        let mut command = Command::new(tool("helm"));
        command.current_dir(&dir).args(args);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, dir.join(name));
        }
        run(&mut command).expect_success()
    };
    let charts = format!("oci://{address}/charts");
    let _ = helm(&["push", &dist.join(&chart).to_string_lossy(), &charts, "--plain-http"]);
    let _ = helm(&["pull", &format!("{charts}/keen-edge"), "--version", version, "--plain-http"]);
    let values = harness::root().join("deploy/helm/keen-edge/ci/example-values.yaml");
    let rendered = helm(&["template", "edge", &chart, "-f", &values.to_string_lossy()]);
    assert!(rendered.contains("kind: Deployment"));

    // The SBOM lists the crates in the module, in the versions of Cargo.lock, and no crate of the
    // tests.
    let sbom = json(&dist.join("keen_edge.cdx.json"));
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    assert!(!sbom.to_string().contains(&*harness::root().to_string_lossy()));
    assert_eq!(sbom["metadata"]["component"]["name"], "keen-edge");
    assert_eq!(sbom["metadata"]["component"]["version"], version);
    let components = sbom["components"].as_array().unwrap();
    let component = |name: &str| components.iter().find(|component| component["name"] == name);
    for name in ["proxy-wasm", "serde_json", "heck", "log", "talc"] {
        let found = component(name).unwrap_or_else(|| panic!("no {name} in the SBOM"));
        assert_eq!(found["version"], locked_version(name).as_str(), "{name}");
    }
    for name in ["proptest", "tokio", "mock-keen", "harness"] {
        assert!(component(name).is_none(), "{name} is in the SBOM");
    }
    let left = run(Command::new("git")
        .args(["ls-files", "--others", "--exclude-standard"])
        .current_dir(harness::root()));
    assert!(!left.expect_success().contains("sbom"), "files are left in the repository");
}
