//! `deploy/container` and `deploy/compose`: images that buildah builds, and the Compose file.

use deploy::generated::read;
use deploy::{
    Background, Ports, assert_delivers, container_config, free_port, fresh_dir, keen_edge_program,
    run, start_registry, tool, wait_until_live,
};
use mock_keen::{MockKeen, Options, WRITE_KEY};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const BOOTSTRAP_LISTENERS: &str = "/static_resources/listeners";

/// buildah with its own storage. It needs root, but no daemon and no container runtime.
struct Buildah {
    program: PathBuf,
    dir: PathBuf,
}

impl Buildah {
    fn new(name: &str) -> Self {
        let dir = fresh_dir(&format!("buildah-{name}"));
        Self { program: tool("buildah"), dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(harness::root()).args(["--storage-driver", "vfs", "--root"]);
        command.arg(self.dir.join("storage")).arg("--runroot").arg(self.dir.join("run")).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        run(&mut self.command(args)).expect_success().trim().to_owned()
    }

    /// Builds an image, and returns its id.
    fn bud(&self, args: &[&str]) -> String {
        let id_file = self.dir.join("image-id");
        let mut command = self.command(&["bud", "--isolation", "chroot", "--timestamp", "0"]);
        let _ = run(command.arg("--iidfile").arg(&id_file).args(args)).expect_success();
        fs::read_to_string(id_file).unwrap()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Images of Envoy are large.
        let _ = run(&mut self.command(&["rm", "--all"]));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the module where the Dockerfiles copy it from.
fn wasm() -> Vec<u8> {
    let built = harness::root().join("target/keen_edge.wasm");
    assert_eq!(fs::canonicalize(harness::wasm_path().unwrap()).unwrap(), built, "KEEN_EDGE_WASM");
    fs::read(built).unwrap()
}

#[test]
fn container_configurations_pass_envoy_and_keen_edge_check() {
    let dir = fresh_dir("container-check");
    fs::write(dir.join("keen_write_key"), WRITE_KEY).unwrap();
    let check = keen_edge_program();
    for (name, shipped) in [
        ("container", "deploy/container/envoy.yaml"),
        ("gateway", "deploy/kubernetes/gateway/envoy.yaml"),
        ("sidecar", "deploy/kubernetes/sidecar/envoy.yaml"),
    ] {
        let checked = run(Command::new(&check)
            .args(["check", "--strict"])
            .arg(shipped)
            .current_dir(harness::root()));
        let _ = checked.expect_success();
        let local = container_config::with_local_files(
            &read(shipped),
            &harness::wasm_path().unwrap(),
            &dir.join("keen_write_key"),
        );
        let file = dir.join(format!("{name}.yaml"));
        fs::write(&file, local).unwrap();
        let mut validate = Command::new(harness::envoy_path().unwrap());
        let validated = run(validate.args(["--mode", "validate", "-c"]).arg(file));
        assert!(validated.succeeded(), "{shipped}: {}", validated.all_output());
    }
}

/// The files show the command that the test runs.
#[test]
fn documents_show_the_commands_of_the_tests() {
    let filter =
        "buildah bud --timestamp 0 -f deploy/container/Dockerfile.filter -t keen-edge-filter .";
    let image = "docker build -f deploy/container/Dockerfile -t keen-edge .";
    for (document, command) in [
        ("docs/deploying.md", filter),
        ("deploy/container/Dockerfile.filter", filter),
        ("docs/deploying.md", image),
        ("deploy/container/Dockerfile", image),
    ] {
        assert!(read(document).contains(command), "{document}: {command}");
    }
}

#[tokio::test]
async fn filter_image_is_reproducible_and_comes_back_from_a_registry() {
    let wasm = wasm();
    let dir = fresh_dir("filter-image");
    let (_registry, address) = start_registry(&dir).await;
    let mut digests = Vec::new();
    for build in ["filter-1", "filter-2"] {
        let buildah = Buildah::new(build);
        let id = buildah.bud(&[
            "-f",
            "deploy/container/Dockerfile.filter",
            "-t",
            "keen-edge-filter",
            ".",
        ]);
        let digest_file = buildah.dir.join("digest");
        let image = format!("docker://{address}/keen-edge-filter:{build}");
        let digest_path = digest_file.to_string_lossy();
        let push = ["push", "--tls-verify=false", "--digestfile", &digest_path, &id, &image];
        let _ = buildah.run(&push);
        digests.push(fs::read_to_string(digest_file).unwrap());
    }
    assert_eq!(digests[0], digests[1]);

    let crane = tool("crane");
    let image = format!("{address}/keen-edge-filter@{}", digests[0]);
    let _ = run(Command::new(&crane).args(["validate", "--insecure", "--remote", &image]))
        .expect_success();
    let manifest =
        run(Command::new(&crane).args(["manifest", "--insecure", &image])).expect_success();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    // Envoy Gateway and Istio require this of the compat layout.
    assert_eq!(layers.len(), 1, "{manifest:#}");
    assert_eq!(layers[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");

    let tar = dir.join("image.tar");
    let _ =
        run(Command::new(&crane).args(["export", "--insecure", &image]).arg(&tar)).expect_success();
    let _ = run(Command::new("tar").arg("xf").arg(&tar).arg("-C").arg(&dir)).expect_success();
    let pulled = fs::read(dir.join("plugin.wasm")).unwrap();
    assert_eq!(hex_sha256(&pulled), hex_sha256(&wasm));
}

/// Builds an image with this machine's Envoy and the tools of `keen-edge-drain`. It replaces the
/// official image, which a test may be unable to pull.
fn build_envoy_image(buildah: &Buildah) -> String {
    let context = buildah.dir.join("envoy-image");
    let rootfs = context.join("rootfs");
    let programs = [
        (harness::envoy_path().unwrap(), "usr/local/bin/envoy"),
        (PathBuf::from("/bin/bash"), "bin/bash"),
        (PathBuf::from("/bin/sleep"), "bin/sleep"),
        (PathBuf::from("/bin/cat"), "bin/cat"),
        (PathBuf::from("/bin/grep"), "bin/grep"),
        (PathBuf::from("/usr/bin/env"), "usr/bin/env"),
    ];
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    for (program, place) in programs {
        copy(&program, &rootfs.join(place));
        let libraries = run(Command::new("ldd").arg(&program)).expect_success();
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(word), &rootfs.join(word.trim_start_matches('/')));
        }
    }
    let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
    copy(authorities, &rootfs.join("etc/ssl/certs/ca-certificates.crt"));
    fs::create_dir_all(rootfs.join("tmp")).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY rootfs /\nUSER 101:101\n").unwrap();
    let context = context.to_string_lossy();
    buildah.bud(&["-t", "localhost/envoy", &context])
}

fn build_keen_edge_image(buildah: &Buildah) -> String {
    buildah.bud(&[
        "--build-arg",
        "ENVOY_IMAGE=localhost/envoy",
        "-f",
        "deploy/container/Dockerfile",
        "-t",
        "localhost/keen-edge",
        ".",
    ])
}

/// Returns the image's configuration for a test: the shipped one, with free ports and the mock of
/// Keen without TLS.
fn local_configuration(ports: Ports, probes: u16) -> String {
    let mut bootstrap = harness::yaml(&read("deploy/container/envoy.yaml"));
    let listeners = bootstrap.pointer_mut(BOOTSTRAP_LISTENERS).unwrap();
    listeners[0]["address"]["socket_address"]["port_value"] = json!(ports.listener);
    listeners[1]["address"]["socket_address"]["port_value"] = json!(probes);
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(ports.admin);
    for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
        let keen = cluster["name"] == "keen";
        let address = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            ["address"]["socket_address"];
        let port = if keen { ports.keen } else { ports.admin };
        *address = json!({"address": "127.0.0.1", "port_value": port});
        if keen {
            let _ = cluster.as_object_mut().unwrap().remove("transport_socket").unwrap();
        }
    }
    format!("{bootstrap:#}")
}

/// Returns the user id of a descendant of a process, by the name of the descendant.
fn user_of(ancestor: u32, name: &str) -> Option<u32> {
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let field = |status: &str, field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.split_whitespace().next()?.to_owned())
    };
    let parent = |pid: u32| field(&status(pid)?, "PPid:")?.parse::<u32>().ok();
    let descends =
        |pid: u32| std::iter::successors(Some(pid), |pid| parent(*pid)).any(|pid| pid == ancestor);
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut users = pids.filter(|pid| descends(*pid)).filter_map(|pid| {
        let status = status(pid)?;
        (field(&status, "Name:")? == name).then(|| field(&status, "Uid:"))??.parse().ok()
    });
    users.next()
}

#[tokio::test]
async fn envoy_image_is_reproducible_delivers_an_event_and_drains() {
    let _ = wasm();
    let buildah = Buildah::new("envoy");
    let _ = build_envoy_image(&buildah);
    let id = build_keen_edge_image(&buildah);
    let again = build_keen_edge_image(&buildah);
    assert_eq!(id, again);

    let image: Value =
        serde_json::from_str(&buildah.run(&["inspect", "--type", "image", &id])).unwrap();
    let config = &image["OCIv1"]["config"];
    assert_eq!(config["User"], "10001:10001");
    let words = |value: &Value| {
        let words = value.as_array().into_iter().flatten();
        words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let start = [words(&config["Entrypoint"]), words(&config["Cmd"])].concat();
    assert_eq!(start[0], "/usr/local/bin/envoy");

    let keen = MockKeen::start(Options::default()).await.unwrap();
    let ports = Ports::free(keen.addr());
    let probes = free_port();
    let files = buildah.dir.join("files");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("envoy.yaml"), local_configuration(ports, probes)).unwrap();
    fs::write(files.join("keen_write_key"), WRITE_KEY).unwrap();
    let mounts = [
        format!("{}:/etc/envoy/envoy.yaml:ro", files.join("envoy.yaml").display()),
        format!("{}:{}:ro", files.join("keen_write_key").display(), container_config::KEY_FILE),
    ];
    let container = buildah.run(&["from", &id]);
    let inside = |program: &[&str]| {
        let mut command = buildah.command(&["run", "--isolation", "chroot"]);
        command
            .args(mounts.iter().flat_map(|mount| ["-v", mount]))
            .arg(&container)
            .arg("--")
            .args(program);
        command
    };
    let start: Vec<&str> = start.iter().map(String::as_str).collect();
    let mut envoy = Background::start(&inside(&start), &files.join("envoy.log"));
    wait_until_live(&mut envoy, ports.admin).await;
    assert_delivers(ports.listener, &keen).await;
    // The key comes from the mounted file.
    assert_eq!(keen.calls()[0].header("authorization"), Some(WRITE_KEY));

    // As this user Envoy cannot write to the container's file system, which is therefore like a
    // read-only one.
    assert_eq!(user_of(envoy.pid(), "envoy"), Some(10001));

    // The requests of kubelet and Prometheus.
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let answer = client.get(format!("http://127.0.0.1:{probes}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/ready").await.0, 200);
    // The filter reports its counters on its tick.
    let deadline = Instant::now() + Duration::from_secs(15);
    while !get("/stats/prometheus").await.1.contains("\nkeen_edge_events_delivered") {
        assert!(Instant::now() < deadline, "{:?}", get("/stats/prometheus").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for hidden in ["/", "/config_dump", "/stats", "/quitquitquit"] {
        assert_eq!(get(hidden).await.0, 404, "{hidden}");
    }
    let stop = client.post(format!("http://127.0.0.1:{probes}/ready")).send().await.unwrap();
    assert_eq!(stop.status().as_u16(), 404);

    // Runs the preStop hook.
    let drain = ["/usr/local/bin/keen-edge-drain", "--keep-running", "--notice", "0", "--admin"];
    let admin = format!("127.0.0.1:{}", ports.admin);
    let mut drain = inside(&[&drain[..], &[admin.as_str()]].concat());
    let drained = tokio::task::spawn_blocking(move || run(&mut drain)).await.unwrap();
    let _ = drained.expect_success();
    assert_eq!(get("/ready").await.0, 503);
    envoy.terminate();
}

/// Reads a Compose file with Docker Compose's own library.
fn compose(file: &Path) -> deploy::Finished {
    run(Command::new(tool("compose-check")).arg(file))
}

#[test]
fn compose_file_is_valid_and_names_files_that_exist() {
    let file = harness::root().join("deploy/compose/compose.yaml");
    let project: Value = serde_json::from_str(&compose(&file).expect_success()).unwrap();
    let service = &project["services"]["keen-edge"];
    let context = PathBuf::from(service["build"]["context"].as_str().unwrap());
    assert_eq!(context, harness::root());
    assert!(context.join(service["build"]["dockerfile"].as_str().unwrap()).is_file());
    let envoy = PathBuf::from(project["configs"]["envoy"]["file"].as_str().unwrap());
    assert_eq!(envoy, harness::root().join("deploy/container/envoy.yaml"));
    assert_eq!(service["secrets"][0]["target"], container_config::KEY_FILE);
    let ignored = read(".gitignore");
    let secret = project["secrets"]["keen_write_key"]["file"].as_str().unwrap();
    let secret = Path::new(secret).strip_prefix(harness::root()).unwrap();
    assert!(ignored.lines().any(|line| line == format!("/{}", secret.display())), "{ignored}");
    // The image's configuration listens on these ports.
    let text = read("deploy/container/envoy.yaml");
    for port in service["ports"].as_array().unwrap() {
        let listens = format!("address: 0.0.0.0, port_value: {}", port["target"]);
        assert!(text.contains(&listens), "{listens}");
    }
}

#[test]
fn compose_file_with_an_unknown_key_is_refused() {
    let dir = fresh_dir("compose");
    for (from, to) in [
        ("stop_grace_period:", "stop_grace_time:"),
        ("read_only: true", "read_only: [yes, no]"),
        ("      - source: envoy\n", "      - source: envoi\n"),
    ] {
        let text = read("deploy/compose/compose.yaml");
        assert!(text.contains(from), "{from}");
        let file = dir.join("compose.yaml");
        fs::write(&file, text.replace(from, to)).unwrap();
        let _ = compose(&file).expect_failure();
    }
}
