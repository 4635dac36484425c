//! Client details from the request itself. They are used if the message lacks them and the request
//! comes from the end user's device.

use crate::json::{Value, quoted};
use crate::keen::sanitize::is_placeholder_text;
use crate::segment::http::route::CallerSide;
use crate::segment::message::Context;
use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

/// Server libraries: prefixes of `context.library.name` or `User-Agent`, taken from their source
/// code. Their requests come from a server whatever the path, so the address is not the end user's.
const SERVER_LIBRARIES: [&str; 28] = [
    "analytics-node",
    "@segment/analytics-node",
    "analytics-python",
    "segment-analytics-python",
    "analytics-ruby",
    "analytics-go",
    "analytics-java",
    "analytics-php",
    "analytics.net",
    "analytics-dotnet",
    "analytics-clojure",
    "analytics-clj",
    "analytics-elixir",
    "analytics_elixir",
    "analytics-rust",
    "rustanalytics",
    "rudderanalytics",
    "@rudderstack/rudder-sdk-node",
    "cdp-analytics-node",
    "@customerio/cdp-analytics-node",
    "events-sdk-python",
    "events-sdk-go",
    "events-sdk-php",
    "events-sdk-ruby",
    "events-sdk-java",
    "events-sdk-js-node",
    "@ht-sdks/events-sdk-js-node",
    "@june-so/analytics-node",
];

/// Libraries for browsers, phones and games. They use the short paths, which some hosts and forks
/// rewrite to the long ones.
const CLIENT_LIBRARIES: [&str; 16] = [
    "analytics.js",
    "analytics-ios",
    "analytics-android",
    "analytics-react-native",
    "@segment/analytics-react-native",
    "analytics-swift",
    "analytics-kotlin",
    "analytics-flutter",
    "analytics_flutter",
    "events-sdk-js-browser",
    "@ht-sdks/events-sdk-js-browser",
    "events-sdk-swift",
    "events-sdk-android",
    "events-sdk-kotlin",
    "events-sdk-flutter",
    "events-sdk-react-native",
];

/// Maximum length of a library's name, in bytes.
const MAX_LIBRARY_BYTES: usize = 128;
/// Maximum length of an IP address, in bytes. An address with a port fits. Longer text is not an
/// address.
pub(super) const MAX_IP_BYTES: usize = 64;

/// Raw client details from the request's connection and headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Client<'a> {
    /// The client address that Envoy determined (`source.address`), with or without a port.
    pub source_address: &'a [u8],
    /// `User-Agent`
    pub user_agent: &'a [u8],
    /// `Referer`
    pub referer: &'a [u8],
}

impl Client<'_> {
    /// Whether a browser sends the request: every browser's `User-Agent` begins with `Mozilla/`.
    #[must_use]
    pub fn is_browser(&self) -> bool {
        self.user_agent.starts_with(b"Mozilla/")
    }
}

/// A [`Client`], decoded at most once for all messages of its request.
#[derive(Debug)]
pub(super) struct RequestClient<'c> {
    client: Client<'c>,
    address: OnceCell<Option<String>>,
    user_agent: OnceCell<Option<String>>,
    referer: OnceCell<Option<String>>,
    pub(super) is_browser: bool,
    /// The side according to the `User-Agent`, else the endpoint.
    side: CallerSide,
    /// The `User-Agent` names a server library.
    is_server_library: bool,
}

impl<'c> RequestClient<'c> {
    pub(super) fn new(client: Client<'c>, side: CallerSide) -> Self {
        let agent = library_side(client.user_agent);
        let side = match agent {
            Some(side) => side,
            None if client.is_browser() => CallerSide::Client,
            None => side,
        };
        Self {
            client,
            address: OnceCell::new(),
            user_agent: OnceCell::new(),
            referer: OnceCell::new(),
            is_browser: client.is_browser(),
            side,
            is_server_library: agent == Some(CallerSide::Server),
        }
    }

    /// Returns the client's address without port, as JSON.
    pub(super) fn address_json(&self) -> Option<&str> {
        let json = || {
            let address = std::str::from_utf8(self.client.source_address).ok()?;
            Some(quoted(&strip_port(address)?))
        };
        self.address.get_or_init(json).as_deref()
    }

    /// Returns `User-Agent` as JSON.
    pub(super) fn user_agent_json(&self) -> Option<&str> {
        self.user_agent.get_or_init(|| header_json(self.client.user_agent)).as_deref()
    }

    /// Returns `Referer` as JSON.
    pub(super) fn referer_json(&self) -> Option<&str> {
        self.referer.get_or_init(|| header_json(self.client.referer)).as_deref()
    }

    /// Whether the request comes from the end user's device. `context.direct` takes precedence,
    /// then known libraries and browsers, then the endpoint, as at Segment.
    pub(super) fn is_end_user_request(&self, context: &Context<'_>) -> bool {
        if context.direct == Value::Bool(true) {
            return true;
        }
        let library = context.library_name.short_str(MAX_LIBRARY_BYTES);
        match library.and_then(|name| library_side(name.as_bytes())) {
            Some(CallerSide::Server) => false,
            Some(CallerSide::Client) => !self.is_server_library,
            None => self.side == CallerSide::Client,
        }
    }
}

/// Returns the side that the library with this name runs on. `None`: the library is unknown.
fn library_side(name: &[u8]) -> Option<CallerSide> {
    let is_one_of = |libraries: &[&str]| {
        libraries.iter().any(|library| {
            name.get(..library.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(library.as_bytes()))
                && !name.get(library.len()).is_some_and(u8::is_ascii_alphanumeric)
        })
    };
    // No server library's name is a prefix of a client library's name, or the reverse.
    if is_one_of(&SERVER_LIBRARIES) {
        Some(CallerSide::Server)
    } else {
        is_one_of(&CLIENT_LIBRARIES).then_some(CallerSide::Client)
    }
}

/// Returns an IP address without its port. Accepts `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1` and
/// `[2001:db8::1]:5`.
#[must_use]
pub(super) fn strip_port(text: &str) -> Option<String> {
    let text = text.trim();
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok();
    let ip = ip.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical().to_string())
}

fn header_json(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    // A client may send one of Keen's placeholders here, too.
    (!value.is_empty() && !is_placeholder_text(&text)).then(|| quoted(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::message::{Body, MessageType};

    #[test]
    fn strip_port_every_form_becomes_the_bare_address() {
        for (text, want) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:80", "1.2.3.4"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(strip_port(text).as_deref(), Some(want));
        }
        for text in ["", "unknown", "1.2.3", "1.2.3.4.5", "${keen.ip}", "example.com:80"] {
            assert_eq!(strip_port(text), None);
        }
    }

    #[test]
    fn library_side_by_the_start_of_the_name() {
        use CallerSide::{Client, Server};
        for (name, side) in [
            ("analytics-node/6.2.0", Some(Server)),
            ("analytics-node-next/latest", Some(Server)),
            ("@segment/analytics-node", Some(Server)),
            ("analytics-go (version: 3.0.0)", Some(Server)),
            ("analytics-python/2.4.0", Some(Server)),
            ("Analytics-Ruby/2", Some(Server)),
            ("@customerio/cdp-analytics-node", Some(Server)),
            ("cdp-analytics-node/latest", Some(Server)),
            ("events-sdk-python/1.0.0", Some(Server)),
            ("events-sdk-go (version: 1)", Some(Server)),
            ("analytics.js", Some(Client)),
            ("analytics-ios", Some(Client)),
            ("analytics-kotlin", Some(Client)),
            ("Analytics-CSharp", None),
            ("Mozilla/5.0", None),
            ("analytics-nodes", None),
            ("curl/8", None),
            ("", None),
        ] {
            assert_eq!(library_side(name.as_bytes()), side, "{name}");
        }
    }

    #[test]
    fn is_end_user_request_endpoint_decides_and_known_names_override() {
        use CallerSide::{Client as Device, Server};
        for (side, agent, context, want) in [
            (Device, "", "{}", true),
            (Server, "", "{}", false),
            (Server, "Ruby", r#"{"library":{"name":"simple_segment"}}"#, false),
            (Device, "", r#"{"library":{"name":"Analytics-CSharp"}}"#, true),
            (Server, "", r#"{"library":{"name":"Analytics-CSharp"}}"#, false),
            (Server, "Mozilla/5.0", "{}", true),
            (Server, "", r#"{"library":{"name":"analytics-ios"}}"#, true),
            (Server, "analytics-node/6", r#"{"library":{"name":"analytics-ios"}}"#, false),
            (Device, "", r#"{"library":{"name":"analytics-go"}}"#, false),
            (Device, "Mozilla/5.0", r#"{"library":"events-sdk-python"}"#, false),
            (Device, "analytics-python/2", "{}", false),
            (Server, "analytics-python/2", r#"{"direct":true}"#, true),
            (Server, "analytics-python/2", r#"{"direct":"true"}"#, false),
        ] {
            let text = format!("{{\"context\":{context}}}");
            let body = Body::parse(Some(MessageType::Track), &text, 1).unwrap_or_default();
            let client = Client { user_agent: agent.as_bytes(), ..Client::default() };
            let client = RequestClient::new(client, side);
            let found = body.messages.first().map(|m| client.is_end_user_request(&m.context));
            assert_eq!(found, Some(want), "{side:?} {agent} {context}");
        }
    }
}
