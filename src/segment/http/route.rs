//! Which of Segment's calls a request is (segment.com/docs/connections/sources/catalog/libraries/server/http-api).
use crate::segment::message::MessageType;

/// A call of Segment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// One message of a kind.
    Single(MessageType),
    /// Many messages (`/v1/batch`, and `/v1/import`, its other name).
    Batch,
    /// The SDKs' own telemetry (`/v1/m`): answered and dropped.
    Telemetry,
    /// An image that stands for a call: its kind, where the path names one, and the query that holds its message. It is
    /// answered with the image, whatever becomes of the call.
    Pixel(Option<MessageType>, &'a str),
    /// A tracking path asked for with another method than POST: 400, as Segment does.
    WrongMethod,
    /// A CORS preflight on one of Segment's paths.
    Preflight,
    /// What a browser or phone asks for at start. The write key, percent-encoded as it came.
    Settings(&'a str),
}

/// Which call a request is. `None`: not Segment's, let it pass.
///
/// The doubled forms are what SDKs produce when their host setting ends in a slash or already holds a path (`//v1/batch`,
/// `/v1/v1/batch`, `/v1/b/b`).
#[must_use]
pub fn endpoint<'a>(method: &[u8], path: &'a [u8]) -> Option<Endpoint<'a>> {
    let path = std::str::from_utf8(path).ok()?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = path.strip_prefix('/')?.trim_start_matches('/');
    let found = match path {
        "b" | "batch" | "batch/b" => Endpoint::Batch,
        _ => {
            let rest = path.strip_prefix("v1/")?;
            under_v1(rest.strip_prefix("v1/").unwrap_or(rest), query)?
        }
    };
    Some(match (method, found) {
        (b"OPTIONS", _) => Endpoint::Preflight,
        (b"GET" | b"HEAD", Endpoint::Settings(_)) => found,
        // Whoever looks ahead does not see the image.
        (b"GET", Endpoint::Pixel(..)) => found,
        (_, Endpoint::Pixel(..)) => Endpoint::Pixel(None, ""),
        (b"POST", Endpoint::Single(_) | Endpoint::Batch | Endpoint::Telemetry) => found,
        _ => Endpoint::WrongMethod,
    })
}

fn under_v1<'a>(rest: &'a str, query: &'a str) -> Option<Endpoint<'a>> {
    Some(match rest {
        "track" | "t" => Endpoint::Single(MessageType::Track),
        "page" | "p" => Endpoint::Single(MessageType::Page),
        "screen" | "s" => Endpoint::Single(MessageType::Screen),
        "identify" | "i" => Endpoint::Single(MessageType::Identify),
        "group" | "g" => Endpoint::Single(MessageType::Group),
        "alias" | "a" => Endpoint::Single(MessageType::Alias),
        "batch" | "import" | "b" | "b/b" | "batch/b" => Endpoint::Batch,
        "m" => Endpoint::Telemetry,
        _ => {
            if let Some(call) = rest.strip_prefix("pixel/") {
                return Some(Endpoint::Pixel(MessageType::parse(call), query));
            }
            let key = rest.strip_prefix("projects/")?.strip_suffix("/settings")?;
            let key = key.strip_prefix("projects/").unwrap_or(key);
            if key.is_empty() || key.contains('/') {
                return None;
            }
            Endpoint::Settings(key)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_segments() {
        for (path, want) in [
            ("/v1/track", Endpoint::Single(MessageType::Track)),
            ("/v1/t?x=1", Endpoint::Single(MessageType::Track)),
            ("/v1/screen/", Endpoint::Single(MessageType::Screen)),
            ("/v1/import/", Endpoint::Batch),
            ("/b", Endpoint::Batch),
            ("/v1/b/b", Endpoint::Batch),
            ("/v1/batch/b", Endpoint::Batch),
            ("//v1/batch", Endpoint::Batch),
            ("/v1/v1/batch", Endpoint::Batch),
            ("/v1/m", Endpoint::Telemetry),
        ] {
            assert_eq!(endpoint(b"POST", path.as_bytes()), Some(want), "{path}");
            assert_eq!(endpoint(b"GET", path.as_bytes()), Some(Endpoint::WrongMethod));
            assert_eq!(endpoint(b"OPTIONS", path.as_bytes()), Some(Endpoint::Preflight));
        }
        assert_eq!(endpoint(b"GET", b"/v1/projects/k/settings"), Some(Endpoint::Settings("k")));
        assert_eq!(endpoint(b"POST", b"/v1/projects/k/settings"), Some(Endpoint::WrongMethod));
        assert_eq!(
            endpoint(b"GET", b"/v1/pixel/track?data=e30"),
            Some(Endpoint::Pixel(Some(MessageType::Track), "data=e30"))
        );
        assert_eq!(endpoint(b"GET", b"/v1/pixel/other?a"), Some(Endpoint::Pixel(None, "a")));
        assert_eq!(endpoint(b"HEAD", b"/v1/pixel/track?a"), Some(Endpoint::Pixel(None, "")));
    }

    #[test]
    fn other_paths_are_not_ours() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/tracks",
            "/v2/track",
            "/v1/v1/v1/track",
            "/v1//track",
            "/v1/pixel",
            "/healthz",
            "/v1/projects//settings",
            "/v1/projects/a/b/settings",
            "/\u{fffd}",
        ] {
            assert_eq!(endpoint(b"POST", path.as_bytes()), None, "{path}");
        }
        assert_eq!(endpoint(b"POST", b"/v1/\xff"), None);
    }
}
