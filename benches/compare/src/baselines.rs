//! Baselines: Envoy's Lua filter, and nginx with Lua or njs. Their scripts are in `baselines/`.

use crate::load;
use crate::scenarios::{Row, SERVER_CORE, Server, filters};
use harness::root;
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// Names of all baselines.
pub(crate) const ALL: [&str; 4] = ["lua", "lua-cjson", "nginx-lua", "nginx-njs"];

/// Starts a baseline by its name.
pub(crate) async fn start(name: &str, upstream: SocketAddr) -> Result<Row, String> {
    match name {
        "lua" => lua_call(upstream).await,
        "lua-cjson" => lua_batch(upstream).await,
        "nginx-lua" => nginx_lua(upstream),
        _ => nginx_njs(upstream),
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines").join(name)
}

fn read(name: &str) -> Result<String, String> {
    fs::read_to_string(script(name)).map_err(|error| format!("{name}: {error}"))
}

/// Envoy with its Lua filter in place of keen-edge.
async fn envoy_lua(
    name: &str,
    about: &'static str,
    upstream: SocketAddr,
    confirmed: bool,
    file: &str,
) -> Result<Row, String> {
    let here = script("?.lua");
    // Envoy's own LuaJIT resolves modules by these paths.
    let found =
        format!("package.path = package.path .. ';{}'\n{CPATH}\n{}", here.display(), read(file)?);
    Row::envoy(name, about, upstream, confirmed, move |bootstrap| {
        let lua = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": found},
        });
        filters(bootstrap, vec![json!({"name": "lua", "typed_config": lua})]);
    })
    .await
}

const CPATH: &str = "package.cpath = package.cpath .. ';/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/aarch64-linux-gnu/lua/5.1/?.so'";

/// Pure Lua: one call to Keen per request.
async fn lua_call(upstream: SocketAddr) -> Result<Row, String> {
    let about = "Envoy's Lua filter, JSON in Lua, one call to Keen per request";
    envoy_lua("lua", about, upstream, true, "envoy_call.lua").await
}

/// lua-cjson: calls of 100 events. Requests are answered before delivery.
async fn lua_batch(upstream: SocketAddr) -> Result<Row, String> {
    let found = ["x86_64", "aarch64"]
        .iter()
        .any(|arch| Path::new(&format!("/usr/lib/{arch}-linux-gnu/lua/5.1/cjson.so")).exists());
    if !found {
        return Err("no lua-cjson (Debian)".to_owned());
    }
    let about =
        "Envoy's Lua filter with lua-cjson, calls of 100 events, answered before Keen has them";
    envoy_lua("lua-cjson", about, upstream, false, "envoy_batch.lua").await
}

/// An nginx process that is killed when its row is dropped.
#[derive(Debug)]
pub(crate) struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nginx(
    name: &str,
    about: &'static str,
    confirmed: bool,
    modules: &[&str],
    http: &str,
) -> Result<Row, String> {
    for module in modules {
        if !Path::new(NGINX_MODULES).join(module).exists() {
            return Err(format!("no nginx module {module} (Debian)"));
        }
    }
    let dir = root().join("target/tmp").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // nginx cannot report a port that the kernel chose, so a free port is looked up first.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .map_err(|e| e.to_string())?
        .port();
    let load: String =
        modules.iter().map(|module| format!("load_module {NGINX_MODULES}/{module};\n")).collect();
    let here = dir.display();
    let config = format!(
        "{load}daemon off;\nmaster_process off;\nworker_processes 1;\npid {here}/pid;\nerror_log {here}/error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\nclient_body_buffer_size 1m;\n\
         client_max_body_size 8m;\nkeepalive_requests 100000000;\nclient_body_temp_path {here}/body;\n\
         proxy_temp_path {here}/proxy;\nfastcgi_temp_path {here}/fastcgi;\nuwsgi_temp_path {here}/uwsgi;\n\
         scgi_temp_path {here}/scgi;\n{http}\n}}\n"
    )
    .replace("LISTEN_PORT", &port.to_string());
    let file = dir.join("nginx.conf");
    fs::write(&file, config).map_err(|error| format!("{}: {error}", file.display()))?;
    let error_log = dir.join("error.log");
    let child = Command::new("nginx")
        .arg("-p")
        .arg(&dir)
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(&error_log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("nginx: {error}"))?;
    let server = Nginx(child);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let limit = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > limit {
            return Err(format!(
                "nginx did not start: {}",
                fs::read_to_string(&error_log).unwrap_or_default()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = server.0.id();
    load::pin(pid, SERVER_CORE)?;
    Ok(Row {
        name: name.to_owned(),
        about,
        address,
        pids: vec![pid],
        confirmed,
        _server: Server::Nginx(server),
    })
}

/// nginx with lua-cjson: calls of 100 events, or by timer. Requests are answered before delivery.
fn nginx_lua(upstream: SocketAddr) -> Result<Row, String> {
    let dir = root().join("target/tmp");
    let batch = read("nginx_batch.lua")?.replace("UPSTREAM_PORT", &upstream.port().to_string());
    fs::write(dir.join("nginx_batch.lua"), batch).map_err(|error| error.to_string())?;
    let (scripts, made) = (script("?.lua"), dir.join("?.lua"));
    let http = format!(
        "lua_package_path '{};{};;';\ninit_worker_by_lua_block {{ require('nginx_batch').start() }}\n\
         server {{ listen 127.0.0.1:LISTEN_PORT; location / {{ content_by_lua_block {{ require('nginx_batch').take() }} }} }}",
        scripts.display(),
        made.display()
    );
    let about = "nginx with lua-cjson, calls of 100 events, answered before Keen has them";
    nginx("nginx-lua", about, false, &["ndk_http_module.so", "ngx_http_lua_module.so"], &http)
}

/// nginx with njs: one call to Keen per request.
fn nginx_njs(upstream: SocketAddr) -> Result<Row, String> {
    let file = root().join("target/tmp/nginx_call.js");
    let call = read("nginx_call.js")?.replace("UPSTREAM_PORT", &upstream.port().to_string());
    fs::write(&file, call).map_err(|error| error.to_string())?;
    let http = format!(
        "js_import baseline from {};\nserver {{ listen 127.0.0.1:LISTEN_PORT; location / {{ js_content baseline.take; }} }}",
        file.display()
    );
    nginx(
        "nginx-njs",
        "nginx with njs, one call to Keen per request",
        true,
        &["ngx_http_js_module.so"],
        &http,
    )
}
