//! `deploy/kubernetes`: the objects that `kubectl apply -k` would apply, checked with the schemas
//! of Kubernetes.

use deploy::{container_config::KEY_FILE, fresh_dir, generated::read, kubernetes, run, tool};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// Returns the objects of a directory, as `kubectl kustomize` prints them.
fn build(dir: &Path) -> String {
    run(Command::new(tool("kustomize")).arg("build").arg(dir)).expect_success()
}

/// Returns the container keen-edge of a pod: an ordinary container or a sidecar.
fn keen_edge(pod: &Value) -> &Value {
    let containers =
        ["containers", "initContainers"].iter().filter_map(|kind| pod[kind].as_array());
    let mut found = containers.flatten().filter(|container| container["name"] == "keen-edge");
    found.next().unwrap_or_else(|| panic!("no container keen-edge in {pod:#}"))
}

/// Returns the directory in the container where a ConfigMap or a Secret is mounted.
fn mount<'a>(pod: &'a Value, source: &str, name: &str) -> &'a str {
    let volumes = pod["volumes"].as_array().unwrap();
    let names =
        |volume: &&Value| volume[source]["name"] == name || volume[source]["secretName"] == name;
    let volume = volumes.iter().find(names).unwrap_or_else(|| panic!("no volume of {name}"));
    let mounts = keen_edge(pod)["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
    mount["mountPath"].as_str().unwrap()
}

#[test]
fn gateway_and_sidecar_meet_the_schemas_of_kubernetes() {
    let dir = fresh_dir("kubernetes");
    for name in ["gateway", "sidecar"] {
        let objects = build(&harness::root().join("deploy/kubernetes").join(name));
        kubernetes::validate(&dir, &objects).unwrap();
    }
}

#[test]
fn wrong_field_is_refused_by_the_schemas() {
    let dir = fresh_dir("kubernetes-wrong");
    let objects = build(&harness::root().join("deploy/kubernetes/gateway"));
    for (from, to) in [
        ("terminationGracePeriodSeconds: 40", "terminationGraceSeconds: 40"),
        ("maxUnavailable: 1\n", "maxUnavailable: [1]\n"),
        ("containerPort: 8080", "containerPort: http"),
    ] {
        assert!(objects.contains(from), "{from} in\n{objects}");
        let refused = kubernetes::validate(&dir, &objects.replace(from, to));
        assert!(refused.is_err(), "{to} is accepted");
    }
}

#[test]
fn objects_fit_each_other_and_the_configuration_of_envoy() {
    for (name, deployment, config) in [
        ("gateway", "keen-edge", "keen-edge-envoy-"),
        ("sidecar", "shop", "keen-edge-sidecar-envoy-"),
    ] {
        let objects =
            kubernetes::documents(&build(&harness::root().join("deploy/kubernetes").join(name)));
        let deployment = kubernetes::object(&objects, "Deployment", deployment);
        let pod = &deployment["spec"]["template"]["spec"];
        let container = keen_edge(pod);

        // Envoy reads the file of the ConfigMap, and the key from the path in that file.
        let map = kubernetes::object(&objects, "ConfigMap", config);
        let envoy = map["data"]["envoy.yaml"].as_str().unwrap();
        assert_eq!(envoy, read(&format!("deploy/kubernetes/{name}/envoy.yaml")));
        let file = format!(
            "{}/envoy.yaml",
            mount(pod, "configMap", map["metadata"]["name"].as_str().unwrap())
        );
        assert_eq!(container["args"][1], file.as_str());
        assert!(KEY_FILE.starts_with(mount(pod, "secret", "keen-edge-keys")));
        assert!(envoy.contains(KEY_FILE));

        // Envoy listens on the ports of the probes.
        let ports = container["ports"].as_array().unwrap();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let handler =
                if container[probe]["httpGet"].is_null() { "tcpSocket" } else { "httpGet" };
            let Some(port) = container[probe][handler]["port"].as_str() else {
                assert!(probe == "readinessProbe" && name == "sidecar", "{name}: no {probe}");
                continue;
            };
            let port = ports.iter().find(|known| known["name"] == port).unwrap();
            let listens = format!("address: 0.0.0.0, port_value: {}", port["containerPort"]);
            assert!(envoy.contains(&listens), "{listens}");
        }

        // The drain ends within the grace period.
        let hook = container["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
        assert_eq!(hook[0], "/usr/local/bin/keen-edge-drain");
        assert!(
            read("deploy/container/Dockerfile")
                .contains("scripts/drain.sh /usr/local/bin/keen-edge-drain")
        );
        assert!(read("scripts/drain.sh").contains("\nlimit=25\n"));
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 25);

        let budget = kubernetes::object(&objects, "PodDisruptionBudget", "");
        assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
    }
}

#[test]
fn documents_create_the_secret_that_the_pods_mount() {
    let create = "create secret generic keen-edge-keys --from-literal=keen_write_key=";
    for name in ["gateway", "sidecar"] {
        let apply = format!("kubectl apply -k deploy/kubernetes/{name}");
        for file in ["docs/deploying.md", &format!("deploy/kubernetes/{name}/kustomization.yaml")] {
            let text = read(file);
            assert!(text.contains(create) && text.contains(&apply), "{file}");
        }
    }
    assert!(KEY_FILE.ends_with("/keen_write_key"));
}

#[test]
fn changed_configuration_starts_new_pods() {
    let copy = fresh_dir("kubernetes-changed");
    let gateway = harness::root().join("deploy/kubernetes/gateway");
    for entry in fs::read_dir(&gateway).unwrap().flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let changed =
        read("deploy/kubernetes/gateway/envoy.yaml").replace("holdMs: 7000", "holdMs: 6000");
    fs::write(copy.join("envoy.yaml"), changed).unwrap();
    let map_of_deployment = |dir: &Path| {
        let objects = kubernetes::documents(&build(dir));
        let pod =
            &kubernetes::object(&objects, "Deployment", "keen-edge")["spec"]["template"]["spec"];
        pod["volumes"][0]["configMap"]["name"].as_str().unwrap().to_owned()
    };
    assert_ne!(map_of_deployment(&gateway), map_of_deployment(&copy));
}
