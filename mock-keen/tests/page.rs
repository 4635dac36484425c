//! The page in a real headless Chromium.
//!
//! `CHROMIUM` is the browser's path if it is not on the `PATH`. With `PAGE_SHOTS=<dir>` the test
//! saves screenshots there.

mod common;

use base64::Engine as _;
use common::*;
use mock_keen::{Fault, MockKeen};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// A tab of a browser, driven over the DevTools protocol.
struct Browser {
    process: Child,
    profile: PathBuf,
    socket: WebSocket<TcpStream>,
    calls: u64,
}

fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("no Chromium found; install it with: apt-get install -y chromium")
    })
}

impl Browser {
    fn open() -> Self {
        let profile = std::env::temp_dir().join(format!("mock-keen-page-{}", std::process::id()));
        let mut process = Command::new(chromium())
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--remote-debugging-port=0",
                "--force-color-profile=srgb",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("Chromium does not start: {error}; apt-get install -y chromium")
            });
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let addr = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let addr = line.strip_prefix("DevTools listening on ws://")?;
            Some(addr.split('/').next()?.parse().unwrap())
        });
        let addr = addr.expect("Chromium ended before it listened");
        // Chromium stops if its output is not read.
        std::thread::spawn(move || lines.for_each(drop));
        let tabs = Connection::open(addr).call("GET /json/list", &[], b"").unwrap().json();
        let tab = tabs.as_array().unwrap().iter().find(|tab| tab["type"] == "page").unwrap();
        let url = tab["webSocketDebuggerUrl"].as_str().unwrap();
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        let mut browser = Self { process, profile, socket, calls: 0 };
        browser.call("Runtime.enable", &json!({}));
        browser
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let text = self.socket.read().unwrap();
            let Ok(message) = serde_json::from_slice::<Value>(&text.into_data()) else { continue };
            assert_ne!(message["method"], "Runtime.exceptionThrown", "{message}");
            if message["id"] == self.calls {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
        }
    }

    /// Returns the value of a script, or its error.
    fn evaluate(&mut self, script: &str) -> Result<Value, Value> {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", &params);
        match &result["exceptionDetails"] {
            Value::Null => Ok(result["result"]["value"].clone()),
            failure => Err(failure["exception"]["description"].clone()),
        }
    }

    #[track_caller]
    fn run(&mut self, script: &str) -> Value {
        self.evaluate(script).unwrap_or_else(|failure| panic!("{script}: {failure}"))
    }

    /// Waits until a script has this value. The script may fail at first, while nodes are missing.
    #[track_caller]
    fn wait(&mut self, script: &str, wanted: impl Into<Value>) {
        let wanted = Ok(wanted.into());
        let since = Instant::now();
        loop {
            let is = self.evaluate(script);
            if is == wanted {
                return;
            }
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "{script} is {is:?}, not {wanted:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn view(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    fn show(&mut self, keen: &MockKeen) {
        let url = format!("http://{}/", keen.addr());
        self.call("Page.navigate", &json!({"url": url}));
        self.wait("location.href", url);
        self.wait("document.readyState", "complete");
        self.wait("document.getElementById('state')?.textContent", "live");
    }

    fn click(&mut self, selector: &str) {
        assert_eq!(
            self.run(&format!("document.querySelector({}).click()", json!(selector))),
            Value::Null
        );
    }

    fn key(&mut self, key: &str, text: &str) {
        let down = json!({"type": "keyDown", "key": key, "code": key, "text": text, "windowsVirtualKeyCode":
            if key == "Tab" { 9 } else { 13 }});
        self.call("Input.dispatchKeyEvent", &down);
        self.call("Input.dispatchKeyEvent", &json!({"type": "keyUp", "key": key, "code": key}));
    }

    fn shot(&mut self, name: &str) {
        if let Some(dir) = std::env::var_os("PAGE_SHOTS") {
            std::thread::sleep(Duration::from_millis(1_400));
            let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
            let png = base64::engine::general_purpose::STANDARD
                .decode(shot["data"].as_str().unwrap())
                .unwrap();
            std::fs::write(PathBuf::from(dir).join(format!("{name}.png")), png).unwrap();
        }
    }

    #[track_caller]
    fn assert_fits(&mut self) {
        let fits = self.run("[document.documentElement.scrollWidth, innerWidth]");
        assert!(fits[0].as_u64() <= fits[1].as_u64(), "{fits}");
        // The emulated screen grows with its content, so the elements are checked too.
        let past = "[...document.querySelectorAll('body *:not(.picks *)')].filter(node => \
            node.getBoundingClientRect().right > innerWidth + 1).map(node => node.className).join()";
        assert_eq!(self.run(past), "");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

const ROWS: &str = "document.querySelectorAll('.row').length";
const COLLECTIONS: &str =
    "[...document.querySelectorAll('.row .where')].map(node => node.textContent).join()";

fn order(id: &str, total: f64) -> String {
    json!({
        "orderId": id, "total": total, "currency": "EUR", "coupon": null, "gift": false,
        "products": [{"sku": "45790-32", "name": "Monopoly: 3rd Edition", "price": 19, "quantity": 1},
            {"sku": "46493-32", "name": "Uno Card Game", "price": 3, "quantity": 2}],
        "userId": "019mr8mf4r", "ip_address": "108.0.78.21", "page_url": "https://shop.example/checkout?step=3",
        "keen": {"timestamp": "2026-02-23T22:28:55.111Z", "uniqueness_token": id, "addons": [
            {"name": "keen:ip_to_geo", "input": {"ip": "ip_address"}, "output": "ip_geo_info"}]},
    })
    .to_string()
}

/// The page has one test, because starting the browser takes most of the time.
#[tokio::test]
async fn page_shows_events_live() {
    let keen = keen().await;
    let mut browser = Browser::open();

    // The empty page shows an example call.
    browser.view(1280, 860, "light");
    browser.show(&keen);
    browser.wait("document.querySelector('.none h3').textContent", "Waiting for events");
    browser.wait(
        &format!("document.getElementById('curl').textContent.includes('{}')", keen.addr()),
        true,
    );
    browser.wait("document.getElementById('n-stored').textContent", "0");
    browser.shot("empty-desktop");
    browser.view(375, 740, "light");
    browser.assert_fits();
    browser.wait("document.querySelector('.bar').offsetHeight < 70", true);
    browser.shot("empty-phone");
    browser.view(1280, 860, "light");

    // The example call works.
    let curl = browser.run("document.getElementById('curl').textContent");
    let output = Command::new("sh").args(["-c", curl.as_str().unwrap()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"created\": true}");
    browser.wait(COLLECTIONS, "signups");
    browser.wait("document.querySelector('.none')", Value::Null);
    browser.wait(
        "document.querySelector('.row .json').textContent",
        "{\n  \"plan\": \"pro\",\n  \"seats\": 3\n}",
    );

    // Events appear live, newest first, with the digits of large numbers.
    post(&keen, "Order%20Completed", &order("c6d74c08-1", 27.5));
    browser.wait(COLLECTIONS, "Order Completed,signups");
    post(&keen, "numbers", "{\"n\": 9223372036854775807}");
    browser.wait(
        "document.querySelector('.row .json').textContent",
        "{\n  \"n\": 9223372036854775807\n}",
    );
    browser.wait("document.getElementById('n-stored').textContent", "3");

    // A refused event shows the reason in another colour.
    post(&keen, "Order%20Completed", "{\"broken.purchase\": 1}");
    browser.wait(
        "document.querySelector('.row.refused .why').textContent",
        "InvalidPropertyNameError: Property name is invalid. Must be <= 256 characters, cannot contain the '.' \
         symbol anywhere. You specified: 'broken.purchase'.",
    );
    let colour = |row: &str| {
        format!("getComputedStyle(document.querySelector('{row} .line')).backgroundColor")
    };
    assert_ne!(browser.run(&colour(".row.refused")), browser.run(&colour(".row.stored")));
    call(&keen, &bulk_head(), &[("authorization", "wrong")], "{}");
    browser.wait("document.querySelector('.row .tag').textContent", "refused 401");
    browser.wait("document.getElementById('n-refused').textContent", "2");

    // Duplicates and faults.
    post(&keen, "Order%20Completed", &order("c6d74c08-1", 27.5));
    browser.wait("document.querySelectorAll('.row.duplicate').length", 1);
    browser.wait("document.getElementById('n-duplicate').textContent", "1");
    keen.fault(Fault::status(503));
    post(&keen, "signups", "{}");
    browser.wait("document.querySelector('.row.fault .tag').textContent", "answered 503");

    // Markup in an event is text.
    let hostile = r#"{"<img src=x onerror='hurt=1'>": "<script>window.hurt=1</script>"}"#;
    post(&keen, "%3Cscript%3Ewindow.hurt=1%3C%2Fscript%3E", hostile);
    browser.wait(
        "document.querySelector('.row .where').textContent",
        "<script>window.hurt=1</script>",
    );
    browser.click(".row summary");
    browser.wait(
        "document.querySelector('.row .json .s').textContent",
        "\"<script>window.hurt=1</script>\"",
    );
    assert_eq!(browser.run("window.hurt"), Value::Null);
    assert_eq!(browser.run("document.querySelectorAll('main script, main img').length"), 0);

    // Counts by collection, and a click that selects one.
    let pick = "[...document.querySelectorAll('.pick')].map(node => [...node.children].map(part => \
        part.textContent).filter(Boolean).join(' ')).join('; ')";
    browser.wait(
        pick,
        "All collections 4; <script>window.hurt=1</script> 1; numbers 1; Order Completed 1 refused 1; signups 1",
    );
    browser.click(".picks li:nth-child(4) .pick");
    browser.wait(COLLECTIONS, "Order Completed,Order Completed,Order Completed");
    post(&keen, "signups", "{\"plan\": \"free\"}");
    post(&keen, "Order%20Completed", &order("c6d74c08-2", 81.0));
    browser.wait(ROWS, 4);
    browser.click("[data-kind=refused]");
    browser.wait(ROWS, 1);
    browser.click("[data-kind=refused]");
    browser.click(".picks li:first-child .pick");
    browser.wait(ROWS, 10);
    browser.shot("desktop");

    // Enter opens a row.
    browser.run("document.querySelector('.row summary').focus()");
    browser.key("Enter", "\r");
    browser.wait("document.querySelector('.row').open", true);
    browser.shot("desktop-open");
    // An element without layout cannot be focused.
    browser.wait("document.querySelector('.row[open] .copy').getClientRects().length", 1);
    browser.key("Tab", "");
    browser.wait("document.activeElement.className", "copy");

    // On a phone, with one row open.
    browser.view(375, 740, "light");
    browser.assert_fits();
    browser.shot("phone");
    browser.run("scrollTo(0, 330)");
    browser.shot("phone-down");
    browser.view(375, 740, "dark");
    browser.shot("phone-dark");
    browser.view(1280, 860, "dark");
    browser.assert_fits();
    browser.run("scrollTo(0, 0)");
    browser.shot("desktop-dark");
    browser.view(1280, 860, "light");

    // Pause stops the list, but not the counts.
    browser.click("#pause");
    post(&keen, "signups", "{\"late\": 1}");
    browser.wait("document.getElementById('pause').textContent", "Resume (1)");
    browser.wait("document.getElementById('n-stored').textContent", "7");
    assert_eq!(browser.run(ROWS), 10);
    browser.click("#pause");
    browser.wait(ROWS, 11);

    // After a restart of the mock the page reconnects and misses nothing.
    keen.stop().await;
    browser.wait("document.getElementById('state').dataset.state", "lost");
    keen.start_again().await.unwrap();
    post(&keen, "signups", "{\"back\": 1}");
    browser.wait("document.getElementById('state').textContent", "live");
    browser.wait(ROWS, 12);

    // Under load the page keeps up, and its rows are bounded.
    let batch =
        format!("{{\"load\": [{}]}}", vec![order("x", 1.0).replace("\"x\"", "\"\""); 1].join(","));
    assert_eq!(post_bulk(&keen, &batch).json()["load"][0]["success"], false);
    let load =
        format!("{{\"load\": [{}]}}", vec!["{\"plan\": \"pro\", \"seats\": 3}"; 50].join(","));
    browser.run(
        "window.slowest = 0; let then = performance.now(); requestAnimationFrame(function step(now) { \
         slowest = Math.max(slowest, now - then); then = now; requestAnimationFrame(step); })",
    );
    for _ in 0..60 {
        post_bulk(&keen, &load);
        std::thread::sleep(Duration::from_millis(50));
    }
    browser.wait("document.getElementById('n-stored').textContent", "3,008");
    browser.wait(ROWS, 500);
    let rate = "Number(document.getElementById('n-rate').textContent.replace(',', '')) > 100";
    browser.wait(rate, true);
    let slowest = browser.run("slowest").as_f64().unwrap();
    println!("the slowest frame under load took {slowest:.0} ms");
    assert!(slowest < 1_000.0, "{slowest}");
    browser.shot("load");

    // Clear empties the list. Reset, clicked twice, empties the mock.
    browser.click("#clear");
    browser.wait(ROWS, 0);
    browser.wait("document.getElementById('n-stored').textContent", "3,008");
    browser.click("#reset");
    assert_eq!(keen.events().len(), 3_008);
    browser.click("#reset");
    browser.wait("document.getElementById('n-stored').textContent", "0");
    browser.wait("document.querySelector('.none h3').textContent", "Waiting for events");
    assert_eq!(keen.events(), []);
}
