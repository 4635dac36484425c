//! Checks that a test runs every command that the README and the pages in `docs/` show.
//!
//! A command is a line of a fenced block of shell, with the lines that continue it. Each command is
//! in one of the two tables below: it runs here, or in another test.

use harness::Envoy;
use mock_keen::{MockKeen, Options};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A command of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    document: String,
    command: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(harness::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents() -> Vec<String> {
    let pages = fs::read_dir(harness::root().join("docs")).unwrap();
    let pages = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    let pages = pages.filter(|page| page.ends_with(".md")).map(|page| format!("docs/{page}"));
    let mut pages: Vec<String> = pages.collect();
    pages.sort();
    ["README.md", "CONTRIBUTING.md"].map(str::to_owned).into_iter().chain(pages).collect()
}

/// Returns the fenced blocks of shell. A block of `console` has output between its commands.
fn blocks(text: &str) -> Vec<(String, bool)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
        let block: Vec<&str> = block.map(|line| line.get(indent..).unwrap_or("")).collect();
        if matches!(language, "sh" | "bash" | "shell" | "console") {
            blocks.push((block.join("\n"), language == "console"));
        }
    }
    blocks
}

/// Whether a command continues in the next line: it has an open quote, or a backslash at the end.
fn is_open(command: &str) -> bool {
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None | Some('"'), '\\') => drop(characters.next()),
            _ => {}
        }
    }
    quote.is_some() || command.ends_with('\\')
}

/// Removes a comment at the end of a command.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices(" # ").find(|(at, _)| !is_open(&line[..*at]));
    comment.map_or(line, |(at, _)| &line[..at]).trim_end()
}

fn commands(block: &str, is_console: bool) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for line in block.lines() {
        match commands.last_mut() {
            Some(last) if is_open(last) => {
                last.push('\n');
                last.push_str(without_comment(line));
            }
            _ if is_console => {
                commands
                    .extend(line.strip_prefix("$ ").map(|line| without_comment(line).to_owned()));
            }
            _ if line.trim().is_empty() || line.trim_start().starts_with('#') => {}
            _ => commands.push(without_comment(line).to_owned()),
        }
    }
    commands
}

fn shown() -> Vec<Shown> {
    let mut shown = Vec::new();
    for document in documents() {
        for (block, is_console) in blocks(&read(&document)) {
            for command in commands(&block, is_console) {
                shown.push(Shown { document: document.clone(), command });
            }
        }
    }
    shown
}

/// Commands that another test runs: the start of the command, the file of the test, and a part of
/// that file which shows that it runs the command. No test has a cluster. For `kubectl`, and for
/// `helm` where it installs, the tests check or run what the command would apply.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("make run", "run/tests/program.rs", "The program as `make run` starts it"),
    ("make test", ".ci/run", "phase test\n"),
    ("make build", "Makefile", "test: build"),
    ("func-e run -c ", "tests/deploy/tests/func_e.rs", r#"["run", "-c", "envoy.yaml"]"#),
    ("envoy -c envoy.yaml", "tests/deploy/tests/func_e.rs", "func-e run -c envoy.yaml"),
    ("make dist", "tests/deploy/tests/dist.rs", "`make dist`: the files of a release"),
    (
        "docker build -f deploy/container/Dockerfile ",
        "tests/deploy/tests/containers.rs",
        "docker build -f deploy/container/Dockerfile -t keen-edge .",
    ),
    (
        "docker run ",
        "tests/deploy/tests/containers.rs",
        "async fn envoy_image_is_reproducible_delivers_an_event_and_drains",
    ),
    (
        "buildah bud --timestamp 0 -f deploy/container/Dockerfile.filter ",
        "tests/deploy/tests/containers.rs",
        "buildah bud --timestamp 0 -f deploy/container/Dockerfile.filter",
    ),
    ("buildah push ", "tests/deploy/tests/containers.rs", r#"["push", "#),
    (
        "docker compose -f deploy/compose/compose.yaml ",
        "tests/deploy/tests/containers.rs",
        "compose",
    ),
    (r#"printf %s "$KEEN_WRITE_KEY" >"#, "tests/deploy/tests/containers.rs", "keen_write_key"),
    ("kubectl create namespace ", "tests/deploy/tests/kubernetes.rs", "create secret generic"),
    (
        "kubectl -n keen-edge create secret ",
        "tests/deploy/tests/kubernetes.rs",
        "create secret generic",
    ),
    ("kubectl create secret ", "tests/deploy/tests/kubernetes.rs", "create secret generic"),
    (
        "kubectl apply -k ",
        "tests/deploy/tests/kubernetes.rs",
        "kubectl apply -k deploy/kubernetes/{name}",
    ),
    (
        "helm install keen-edge ",
        "tests/deploy/tests/helm.rs",
        r#"const CHART: &str = "deploy/helm/keen-edge""#,
    ),
    (
        "kubectl -n istio-system patch deployment istio-ingressgateway ",
        "tests/deploy/tests/istio.rs",
        "fn gateway_volume_is_a_valid_part_of_a_deployment",
    ),
    (
        "istioctl validate -f deploy/istio/envoyfilter.yaml",
        "tests/deploy/tests/istio.rs",
        r###"commands("docs/deploying.md", "## Istio")"###,
    ),
    (
        "kubectl apply -f deploy/istio/envoyfilter.yaml",
        "tests/deploy/tests/istio.rs",
        "fn envoyfilter_applied_by_istio_makes_an_envoy_that_delivers_an_event",
    ),
    ("helm upgrade envoy-gateway ", "tests/deploy/tests/envoy_gateway.rs", "fn envoy_gateway_yaml"),
    (
        "kubectl apply -f deploy/envoy-gateway/gateway.yaml ",
        "tests/deploy/tests/envoy_gateway.rs",
        "fn envoy_gateway_with_the_patch_policy_delivers_an_event",
    ),
    (
        "kubectl get envoypatchpolicy ",
        "tests/deploy/tests/envoy_gateway.rs",
        "fn envoy_gateway_with_the_patch_policy_delivers_an_event",
    ),
    (
        "cd /etc/envoy/filter",
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    (
        "cp keen_edge.yaml next.yaml",
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    (
        r#""${EDITOR:-vi}" next.yaml"#,
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    (
        "keen-edge check next.yaml",
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    (
        "mv next.yaml keen_edge.yaml",
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    (
        "curl -s '127.0.0.1:9901/stats?filter=config_reload",
        "tests/deploy/tests/ecds.rs",
        "Runs the commands of docs/operating.md",
    ),
    ("scripts/drain.sh --admin ", "tests/deploy/tests/drain.rs", "scripts/drain.sh --admin {}"),
    ("make bench", "benches/compare/src/main.rs", "fn options_of_the_document_are_read"),
    // The commands of docs/cli.md, with their output.
    ("keen-edge check envoy.yaml", "cli/tests/docs.rs", "docs/cli.md"),
    ("sed 's/holdMs: 7000/holdMs: 17000/", "cli/tests/docs.rs", "docs/cli.md"),
    ("keen-edge check /tmp/wrong.yaml", "cli/tests/docs.rs", "docs/cli.md"),
    (
        "echo '{\"type\": \"track\", \"event\": \"Purchased\", \"userId\"",
        "cli/tests/docs.rs",
        "docs/cli.md",
    ),
    ("echo '[{\"type\": \"page\"", "cli/tests/docs.rs", "docs/cli.md"),
    ("keen-edge schema", "cli/tests/docs.rs", "docs/cli.md"),
    ("scripts/build.sh", "Makefile", "scripts/build.sh"),
    ("cargo test --test envoy metrics", "Makefile", "cargo test"),
    ("export ", "Makefile", "KEEN_EDGE_WASM"),
];

/// Commands that run here, in the order of the documents: the start of the command, and a part of
/// its output.
const HERE: &[(&str, &str)] = &[
    ("curl -u writeKey: http://127.0.0.1:8080/v1/track ", "\"success\": true"),
    ("curl -u writeKey: https://edge.example.com/v1/track ", "\"success\": true"),
    ("curl -s '127.0.0.1:9901/stats?filter=keen_edge", "keen_edge_"),
    ("sed -e 's/address: 127.0.0.1, port_value: 8089/", ""),
    ("cargo run --bin keen-edge -- check ", "no mistakes"),
    ("cargo run --bin keen-edge -- explain ", "1 event"),
    ("echo '{\"type\": \"page\"", "Viewed Docs Index Page"),
    ("\"$(scripts/envoy.sh)\" --mode validate -c my-envoy.yaml", ""),
    ("keen-edge check my-envoy.yaml", "no mistakes"),
    ("keen-edge explain --config my-envoy.yaml ", "1 event"),
    ("node benches/v8.mjs", "per event"),
];

fn elsewhere(shown: &Shown) -> Option<usize> {
    ELSEWHERE.iter().position(|(start, ..)| shown.command.starts_with(start))
}

fn here(shown: &Shown) -> Option<usize> {
    HERE.iter().position(|(start, _)| shown.command.starts_with(start))
}

#[test]
fn each_command_is_run_by_a_test() {
    let mut unknown = Vec::new();
    let (mut used_here, mut used_elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for shown in shown() {
        match (elsewhere(&shown), here(&shown)) {
            (Some(index), _) => drop(used_elsewhere.insert(index)),
            (None, Some(index)) => drop(used_here.insert(index)),
            (None, None) => unknown.push(shown),
        }
    }
    assert!(unknown.is_empty(), "no test runs {unknown:#?}");
    for (index, (start, file, part)) in ELSEWHERE.iter().enumerate() {
        assert!(used_elsewhere.contains(&index), "no document shows `{start}`");
        assert!(read(file).contains(part), "{file} does not run `{start}`: it lacks {part:?}");
    }
    for (index, (start, _)) in HERE.iter().enumerate() {
        assert!(used_here.contains(&index), "no document shows `{start}`");
    }
}

/// An Envoy with `envoy.yaml`, a mock of Keen, and a directory for the files that commands write.
struct Running {
    envoy: Envoy,
    keen: MockKeen,
    scratch: PathBuf,
}

impl Running {
    async fn start() -> Self {
        let keen = MockKeen::start(Options::default()).await.unwrap();
        let envoy = Envoy::builder().keen(keen.addr()).start().await;
        let scratch = harness::root().join("target/tmp/docs-commands");
        fs::create_dir_all(&scratch).unwrap();
        let call = r#"{"type": "track", "userId": "u1", "event": "Purchased"}"#;
        fs::write(scratch.join("call.json"), call).unwrap();
        Self { envoy: envoy.unwrap_or_else(|error| panic!("{error}")), keen, scratch }
    }

    /// Returns the command with the ports and the files of this test.
    fn translated(&self, command: &str) -> String {
        let (addr, admin) = (self.envoy.addr().to_string(), self.envoy.admin_addr().to_string());
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut command = command
            .replace("127.0.0.1:8080", &addr)
            .replace("127.0.0.1:9901", &admin)
            .replace("https://edge.example.com", &format!("http://{addr}"))
            .replace("my-envoy.yaml", &file("my-envoy.yaml"))
            .replace("call.json", &file("call.json"))
            .replace("cargo run --bin", "cargo run --quiet --bin");
        if let Some(arguments) = command.strip_prefix("keen-edge ") {
            command = format!("cargo run --quiet --bin keen-edge -- {arguments}");
        }
        command
    }

    fn run(&self, shown: &Shown, expected: &str) {
        let command = self.translated(&shown.command);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &command]).current_dir(harness::root());
        bash.env("ENVOY", harness::envoy_path().unwrap());
        let output = bash.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let place = format!("{}: {}\n{stdout}{stderr}", shown.document, shown.command);
        assert!(output.status.success(), "{}\n{place}", output.status);
        assert!(stdout.contains(expected), "no {expected:?}\n{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_print_their_output() {
    let running = Running::start().await;
    let mut run = 0;
    for shown in shown().into_iter().filter(|shown| elsewhere(shown).is_none()) {
        if let Some(index) = here(&shown) {
            tokio::task::block_in_place(|| running.run(&shown, HERE[index].1));
            run += 1;
        }
    }
    assert!(run >= 14, "{run} commands");
    // README.md, getting-started.md and clients.md each send a `Purchased`.
    running.keen.wait_for_events(3, Duration::from_secs(10)).await.unwrap();
    let events = running.keen.events();
    assert!(events.iter().all(|event| event.collection == "Purchased"), "{events:?}");
    // The copy of envoy.yaml reaches Keen by TLS.
    let copy = fs::read_to_string(running.scratch.join("my-envoy.yaml")).unwrap();
    let copy = harness::yaml(&copy);
    let keen = &copy["static_resources"]["clusters"][0];
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    let address = keen.pointer(address).unwrap();
    assert_eq!((&address["address"], &address["port_value"]), (&"api.keen.io".into(), &443.into()));
    assert_eq!(keen["transport_socket"]["typed_config"]["sni"], "api.keen.io");
    running.envoy.no_panic_in_log();
}

/// The README stays short, and its screenshot exists.
#[test]
fn readme_has_at_most_110_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 110, "{lines} lines");
    assert!(Path::new("docs/mock-keen.png").exists());
}

#[test]
fn commands_of_a_block_are_split_and_comments_removed() {
    let block =
        "# a comment\nmake run     # starts\ncurl -d '{\n  \"a\": 1}'\ndocker run \\\n  -p 1 # x\n";
    let want = ["make run", "curl -d '{\n  \"a\": 1}'", "docker run \\\n  -p 1"];
    assert_eq!(commands(block, false), want);
    assert_eq!(commands("$ echo '# a'\nout\n$ ls # b", true), ["echo '# a'", "ls"]);
}
