//! What a request tells of the client: used where the message does not say it, and only of a visitor's own request.

use crate::json::{Str, Value};
use crate::keen::event_writer::is_placeholder;
use crate::segment::message::Context;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// Segment's server libraries, as `context.library.name` or the `User-Agent` begins (their own sources). A request of
/// theirs comes from a server: its address is not the visitor's.
const SERVER_LIBRARIES: [&str; 19] = [
    "analytics-node",
    "@segment/analytics-node",
    "analytics-python",
    "segment-analytics-python",
    "analytics-ruby",
    "analytics-go",
    "analytics-java",
    "analytics-php",
    "analytics.net",
    // Games and apps use it too; Segment counts it among the server libraries, and a wrong place is worse than none.
    "analytics-csharp",
    "analytics-dotnet",
    "analytics-clojure",
    "analytics-clj",
    "analytics-elixir",
    "analytics_elixir",
    "analytics-rust",
    "rustanalytics",
    "rudderanalytics",
    "@rudderstack/rudder-sdk-node",
];

/// Facts of a request, as they came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Client<'a> {
    /// The address Envoy vouches for (`source.address`), with or without port.
    pub source_address: &'a [u8],
    /// `User-Agent`
    pub user_agent: &'a [u8],
    /// `Referer`
    pub referer: &'a [u8],
}

impl<'a> Client<'a> {
    /// Whether the request is the visitor's own: not a server library's, or `context.direct` says that it is.
    #[must_use]
    pub fn is_visitor(&self, context: &Context<'_>) -> bool {
        if context.direct == Value::Bool(true) {
            return true;
        }
        let library =
            context.library.as_str().is_some_and(|name| is_server_library(name.as_bytes()));
        !library && !is_server_library(self.user_agent)
    }

    /// Whether a browser sends the request: every one names itself so.
    #[must_use]
    pub fn is_browser(&self) -> bool {
        self.user_agent.starts_with(b"Mozilla/")
    }

    /// The client's address, without port.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        std::str::from_utf8(self.source_address).ok().and_then(bare_address)
    }

    /// The browser's name, where there is one.
    #[must_use]
    pub fn user_agent(&self) -> Option<Cow<'a, str>> {
        header(self.user_agent)
    }

    /// The page the request comes from, where there is one.
    #[must_use]
    pub fn referer(&self) -> Option<Cow<'a, str>> {
        header(self.referer)
    }
}

/// Whether a client that names itself so is a server library.
#[must_use]
pub(super) fn is_server_library(name: &[u8]) -> bool {
    // A browser's name ends here.
    let Some(first) = name.first().map(u8::to_ascii_lowercase) else { return false };
    SERVER_LIBRARIES.iter().filter(|library| library.as_bytes().first() == Some(&first)).any(
        |library| {
            name.get(..library.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(library.as_bytes()))
                && !name.get(library.len()).is_some_and(u8::is_ascii_alphanumeric)
        },
    )
}

/// An IP address in one of the forms it comes in (`1.2.3.4`, `1.2.3.4:5`, `2001:db8::1`, `[2001:db8::1]:5`), bare.
#[must_use]
pub fn bare_address(text: &str) -> Option<String> {
    let text = text.trim();
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok();
    let ip = ip.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical().to_string())
}

fn header(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = String::from_utf8_lossy(value);
    // A visitor may send one of Keen's placeholders, too.
    let placeholder = is_placeholder(Str { raw: &text, escaped: false });
    (!value.is_empty() && !placeholder).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:80", "1.2.3.4"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(bare_address(text).as_deref(), Some(want));
        }
        for text in ["", "unknown", "1.2.3", "1.2.3.4.5", "${keen.ip}", "example.com:80"] {
            assert_eq!(bare_address(text), None);
        }
    }

    #[test]
    fn server_libraries() {
        for name in [
            "analytics-node/6.2.0",
            "analytics-node-next/latest",
            "@segment/analytics-node",
            "analytics-go (version: 3.0.0)",
            "analytics-python/2.4.0",
            "Analytics-Ruby/2",
        ] {
            assert!(is_server_library(name.as_bytes()), "{name}");
        }
        for name in
            ["analytics.js", "Mozilla/5.0", "analytics-kotlin", "analytics-nodes", "", "curl/8"]
        {
            assert!(!is_server_library(name.as_bytes()), "{name}");
        }
    }
}
