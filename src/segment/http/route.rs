//! The paths of Segment's HTTP API
//! (segment.com/docs/connections/sources/catalog/libraries/server/http-api).
//!
//! ```
//! use keen_edge::segment::http::route::{CallerSide, Endpoint};
//! use keen_edge::segment::message::MessageType;
//!
//! let track = Endpoint::Ingest {
//!     message_type: Some(MessageType::Track),
//!     side: CallerSide::Server,
//! };
//! assert_eq!(Endpoint::parse(b"POST", b"/v1/track", None), Some(track));
//! assert_eq!(Endpoint::parse(b"POST", b"/healthz", None), None);
//! ```

use crate::segment::message::MessageType;
use percent_encoding::percent_decode;
use std::borrow::Cow;

/// Maximum length of a path of Segment's API without its query, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// Maximum number of segments of a path after `pathPrefix`:
/// `v1/v1/projects/projects/{key}/settings`.
const MAX_SEGMENTS: usize = 6;

/// The kind of client, according to the endpoint. The message itself can override it
/// (`context.library`, `context.direct`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerSide {
    /// The end user's device: the short forms (`/v1/t`, `/v1/b`) and the pixel.
    Client,
    /// A server: the long forms (`/v1/track`, `/v1/batch`, `/v1/import`).
    Server,
}

/// An endpoint of Segment's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// The body contains messages.
    Ingest {
        /// The type of the single message. `None`: a batch (`/v1/batch`, or its alias
        /// `/v1/import`).
        message_type: Option<MessageType>,
        /// The kind of client.
        side: CallerSide,
    },
    /// The SDKs' own telemetry (`/v1/m`). It is answered 200 and dropped.
    Telemetry,
    /// A message in the URL of an image. The response is always the image.
    Pixel {
        /// The type that the path names. `None`: the path names no type, so there is no message.
        message_type: Option<MessageType>,
        /// The query, which contains the message. It may have bytes that are not UTF-8.
        query: &'a [u8],
    },
    /// The path is one of Segment's, but the method is wrong. Segment responds with 400, not 405.
    MethodNotAllowed,
    /// A CORS preflight.
    Preflight,
    /// The settings that an SDK requests when it starts.
    ProjectSettings {
        /// The write key in the path, percent-decoded and trimmed. Callers check it with
        /// [`is_well_formed`](super::write_key::is_well_formed).
        write_key: String,
    },
}

impl<'a> Endpoint<'a> {
    /// Returns the endpoint of a request. `None`: the path is not one of Segment's.
    ///
    /// Empty path segments are ignored, so doubled and trailing slashes make no difference, and
    /// percent-encoded letters count as letters. SDKs
    /// whose host setting already contains a path produce doubled forms (`/v1/v1/batch`, `/v1/b/b`,
    /// `/v1/batch/b`), and without `/v1` they request `/b`, `/m` and `/projects/{key}/settings`.
    /// `path_prefix` (`pathPrefix`) may precede any of these forms.
    ///
    /// ```
    /// # use keen_edge::segment::http::route::Endpoint;
    /// let settings = Endpoint::ProjectSettings { write_key: "k".into() };
    /// let found = Endpoint::parse(b"GET", b"/cdn//projects/k/settings", Some("/cdn"));
    /// assert_eq!(found, Some(settings));
    /// ```
    #[must_use]
    pub fn parse(method: &[u8], path: &'a [u8], path_prefix: Option<&str>) -> Option<Self> {
        let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
        let (path, query) = path.split_at_checked(end)?;
        if path.len() > MAX_PATH_BYTES || path.first() != Some(&b'/') {
            return None;
        }
        let path = std::str::from_utf8(path).ok()?;
        let endpoint = Self::of_path(path, path_prefix)?;
        Some(match (method, endpoint) {
            (b"OPTIONS", _) => Self::Preflight,
            (b"GET" | b"HEAD", settings @ Self::ProjectSettings { .. }) => settings,
            (b"GET", Self::Pixel { message_type, .. }) => {
                let query = query.split_first().map_or(&[][..], |(_, query)| query);
                Self::Pixel { message_type, query }
            }
            // Only a GET displays the image.
            (_, Self::Pixel { .. }) => Self::Pixel { message_type: None, query: b"" },
            (b"POST", endpoint @ (Self::Ingest { .. } | Self::Telemetry)) => endpoint,
            _ => Self::MethodNotAllowed,
        })
    }

    /// Returns the endpoint of a path without query, for any method.
    fn of_path(path: &'a str, path_prefix: Option<&str>) -> Option<Self> {
        let mut rest = segments(path);
        let mut after_prefix = rest.clone();
        let mut prefix = segments(path_prefix.unwrap_or_default());
        if prefix.all(|segment| after_prefix.next() == Some(segment)) {
            rest = after_prefix;
        }
        let decoded: [Cow<'_, str>; MAX_SEGMENTS] =
            std::array::from_fn(|_| rest.next().unwrap_or_default());
        let names = decoded.each_ref().map(|segment| &**segment);
        let count = names.iter().take_while(|name| !name.is_empty()).count();
        let names = names.get(..count).filter(|_| rest.next().is_none())?;
        match *names {
            ["v1", "v1", ref rest @ ..] | ["v1", ref rest @ ..] => parse_v1(rest),
            ["b" | "batch" | "m"] | ["batch", "b"] | ["projects", ..] => parse_v1(names),
            _ => None,
        }
    }
}

/// Returns the endpoint of the segments after `/v1`.
fn parse_v1(segments: &[&str]) -> Option<Endpoint<'static>> {
    let ingest = |message_type, side| Some(Endpoint::Ingest { message_type, side });
    match *segments {
        ["batch" | "import"] => ingest(None, CallerSide::Server),
        ["b"] | ["b" | "batch", "b"] => ingest(None, CallerSide::Client),
        ["m"] => Some(Endpoint::Telemetry),
        ["pixel", name] => {
            Some(Endpoint::Pixel { message_type: long_message_type(name), query: b"" })
        }
        ["pixel", _, ..] => Some(Endpoint::Pixel { message_type: None, query: b"" }),
        ["projects", key, "settings"] | ["projects", "projects", key, "settings"] => {
            Some(Endpoint::ProjectSettings { write_key: key.trim().to_owned() })
        }
        [name] => match short_message_type(name) {
            Some(short) => ingest(Some(short), CallerSide::Client),
            None => ingest(Some(long_message_type(name)?), CallerSide::Server),
        },
        _ => None,
    }
}

fn long_message_type(name: &str) -> Option<MessageType> {
    Some(match name {
        "track" => MessageType::Track,
        "page" => MessageType::Page,
        "screen" => MessageType::Screen,
        "identify" => MessageType::Identify,
        "group" => MessageType::Group,
        "alias" => MessageType::Alias,
        _ => return None,
    })
}

fn short_message_type(name: &str) -> Option<MessageType> {
    Some(match name {
        "t" => MessageType::Track,
        "p" => MessageType::Page,
        "s" => MessageType::Screen,
        "i" => MessageType::Identify,
        "g" => MessageType::Group,
        "a" => MessageType::Alias,
        _ => return None,
    })
}

/// Returns the segments of a path that are not empty, percent-decoded: `/%761` is `/v1` (RFC 3986,
/// section 6.2.2.2). Bytes that are not UTF-8 become U+FFFD, which no write key contains.
fn segments(path: &str) -> impl Iterator<Item = Cow<'_, str>> + Clone {
    let segments = path.as_bytes().split(|byte| *byte == b'/').filter(|s| !s.is_empty());
    segments.map(|segment| percent_decode(segment).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingest(
        message_type: impl Into<Option<MessageType>>,
        side: CallerSide,
    ) -> Option<Endpoint<'static>> {
        Some(Endpoint::Ingest { message_type: message_type.into(), side })
    }

    #[test]
    fn parse_ingest_path_by_method() {
        use CallerSide::{Client, Server};
        for (path, want) in [
            ("/v1/track", ingest(MessageType::Track, Server)),
            ("/v1/t?x=1", ingest(MessageType::Track, Client)),
            ("/v1/page", ingest(MessageType::Page, Server)),
            ("/v1/p", ingest(MessageType::Page, Client)),
            ("/v1/screen/", ingest(MessageType::Screen, Server)),
            ("/v1/s", ingest(MessageType::Screen, Client)),
            ("/v1/identify", ingest(MessageType::Identify, Server)),
            ("/v1/i", ingest(MessageType::Identify, Client)),
            ("/v1/group", ingest(MessageType::Group, Server)),
            ("/v1/g", ingest(MessageType::Group, Client)),
            ("/v1/alias", ingest(MessageType::Alias, Server)),
            ("/v1/a", ingest(MessageType::Alias, Client)),
            ("/v1/batch", ingest(None, Server)),
            ("/v1/import/", ingest(None, Server)),
            ("/batch", ingest(None, Server)),
            ("/b", ingest(None, Client)),
            ("/v1/b", ingest(None, Client)),
            ("/v1/b/b", ingest(None, Client)),
            ("/batch/b", ingest(None, Client)),
            ("/v1/batch/b", ingest(None, Client)),
            ("//v1/batch", ingest(None, Server)),
            ("/v1//t", ingest(MessageType::Track, Client)),
            ("///v1///b//b//?a", ingest(None, Client)),
            ("/v1/v1/batch", ingest(None, Server)),
            ("/v1/m", Some(Endpoint::Telemetry)),
            ("/m", Some(Endpoint::Telemetry)),
            ("//m/", Some(Endpoint::Telemetry)),
            ("/%76%31/%74rack", ingest(MessageType::Track, Server)),
            ("/v1/%62", ingest(None, Client)),
        ] {
            assert_eq!(Endpoint::parse(b"POST", path.as_bytes(), None), want, "{path}");
            for method in ["GET", "PUT", "HEAD", "DELETE"] {
                let found = Endpoint::parse(method.as_bytes(), path.as_bytes(), None);
                assert_eq!(found, Some(Endpoint::MethodNotAllowed), "{method} {path}");
            }
            let found = Endpoint::parse(b"OPTIONS", path.as_bytes(), None);
            assert_eq!(found, Some(Endpoint::Preflight), "{path}");
        }
    }

    #[test]
    fn parse_settings_path_decodes_key() {
        for (path, want) in [
            ("/v1/projects/k/settings", "k"),
            ("/projects/k/settings", "k"),
            ("//projects//k//settings/", "k"),
            ("/v1/projects/projects/k/settings?x=1", "k"),
            ("/v1/projects/projects/settings", "projects"),
            ("/v1/projects/%77rite%4Bey/settings", "writeKey"),
            ("/v1/projects/%20k%20/settings", "k"),
            ("/v1/projects/a%2Fb/settings", "a/b"),
            ("/v1/projects/%ff/settings", "\u{fffd}"),
            ("/v1/projects/100%/settings", "100%"),
        ] {
            let want = Some(Endpoint::ProjectSettings { write_key: want.into() });
            for method in [&b"GET"[..], b"HEAD"] {
                assert_eq!(Endpoint::parse(method, path.as_bytes(), None), want, "{path}");
            }
            let found = Endpoint::parse(b"POST", path.as_bytes(), None);
            assert_eq!(found, Some(Endpoint::MethodNotAllowed), "{path}");
        }
    }

    #[test]
    fn parse_pixel_path_takes_query_on_get_only() {
        let pixel = |message_type, query: &'static str| {
            Some(Endpoint::Pixel { message_type, query: query.as_bytes() })
        };
        for (method, path, want) in [
            (&b"GET"[..], "/v1/pixel/track?data=e30", pixel(Some(MessageType::Track), "data=e30")),
            (b"GET", "/v1//pixel//page/?", pixel(Some(MessageType::Page), "")),
            (b"GET", "/v1/pixel/other?a", pixel(None, "a")),
            (b"GET", "/v1/pixel/track/x?a", pixel(None, "a")),
            (b"HEAD", "/v1/pixel/track?a", pixel(None, "")),
            (b"POST", "/v1/pixel/track?a", pixel(None, "")),
        ] {
            assert_eq!(Endpoint::parse(method, path.as_bytes(), None), want, "{path}");
        }
        let not_utf8 = Endpoint::parse(b"GET", b"/v1/pixel/track?\xff", None);
        let query = &b"\xff"[..];
        assert_eq!(
            not_utf8,
            Some(Endpoint::Pixel { message_type: Some(MessageType::Track), query })
        );
        let not_utf8 = Endpoint::parse(b"POST", b"/v1/track?\xff", None);
        assert_eq!(not_utf8, ingest(MessageType::Track, CallerSide::Server));
    }

    #[test]
    fn parse_other_path_is_none() {
        for path in [
            "",
            "/",
            "//",
            "v1/track",
            "/v1",
            "/v1/",
            "/v1/tracks",
            "/v1/T",
            "/v2/track",
            "/track",
            "/t",
            "/import",
            "/v1/v1/v1/track",
            "/v1/track/track",
            "/v1/pixel",
            "/v1/pixel/",
            "/pixel/track",
            "/healthz",
            "/projects",
            "/v1/projects//settings",
            "/v1/projects/k",
            "/v1/projects/k/setting",
            "/v1/projects/a/b/settings",
            "/v1/projects/projects/projects/k/settings",
            "/segment/v1/track",
            "/v1%2Ftrack",
            "/v1/track%2F",
            "/v1/%20track",
            "/v1/%00",
            "/?/v1/track",
            "/\u{fffd}",
        ] {
            assert_eq!(Endpoint::parse(b"POST", path.as_bytes(), None), None, "{path}");
        }
        assert_eq!(Endpoint::parse(b"POST", b"/v1/\xff", None), None);
    }

    #[test]
    fn parse_with_path_prefix_serves_both_forms() {
        let track = ingest(MessageType::Track, CallerSide::Server);
        for prefix in ["/segment", "/segment/", "segment", "//segment"] {
            for path in ["/segment/v1/track", "//segment//v1//track/", "/v1/track"] {
                let found = Endpoint::parse(b"POST", path.as_bytes(), Some(prefix));
                assert_eq!(found, track, "{prefix} {path}");
            }
            for path in
                ["/segment", "/segments/v1/track", "/segment/segment/v1/track", "/seg/v1/track"]
            {
                let found = Endpoint::parse(b"POST", path.as_bytes(), Some(prefix));
                assert_eq!(found, None, "{prefix} {path}");
            }
        }
        for prefix in ["/a b/é", "/a%20b/%C3%A9", "/%61%20b/%c3%a9"] {
            for path in ["/a%20b/%C3%A9/v1/track", "//%61%20b//%c3%a9//v1//%74rack//"] {
                let found = Endpoint::parse(b"POST", path.as_bytes(), Some(prefix));
                assert_eq!(found, track, "{prefix} {path}");
            }
        }
        let settings = Some(Endpoint::ProjectSettings { write_key: "k".into() });
        for path in [
            "/segment/projects/%6B/settings",
            "//segment//v1//projects//%6b//settings//",
            "/%73egment/v1/projects/projects/k/settings/",
        ] {
            let found = Endpoint::parse(b"GET", path.as_bytes(), Some("/segment"));
            assert_eq!(found, settings, "{path}");
        }
        for (path, want) in [
            ("/segment/m", Some(Endpoint::Telemetry)),
            ("/segment//v1/m", Some(Endpoint::Telemetry)),
            ("/segment/b", ingest(None, CallerSide::Client)),
            ("/segment/v1/b/b", ingest(None, CallerSide::Client)),
            ("/segment/batch", ingest(None, CallerSide::Server)),
        ] {
            assert_eq!(Endpoint::parse(b"POST", path.as_bytes(), Some("/segment")), want, "{path}");
        }
        let long = b"/a/b/v1/v1/projects/projects/k/settings";
        assert_eq!(Endpoint::parse(b"GET", long, Some("/a/b")), settings);
        assert_eq!(Endpoint::parse(b"GET", b"/v1/projects/k/settings", Some("/v1")), settings);
        assert_eq!(Endpoint::parse(b"POST", b"/v1/v1/track", Some("/v1")), track);
        assert_eq!(Endpoint::parse(b"POST", b"/v1/track", Some("/")), track);
    }

    #[test]
    fn parse_of_absurdly_long_path_is_none() {
        let slashes = "/".repeat(MAX_PATH_BYTES - "v1/track".len());
        let path = |tail: &str| format!("{slashes}{tail}");
        assert!(Endpoint::parse(b"POST", path("v1/track").as_bytes(), None).is_some());
        assert_eq!(Endpoint::parse(b"POST", path("/v1/track").as_bytes(), None), None);
        let query = format!("/v1/track?{}", "q".repeat(100_000));
        assert!(Endpoint::parse(b"POST", query.as_bytes(), None).is_some());
    }
}
