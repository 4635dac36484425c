//! Keen's replies, byte for byte where they are known.

use crate::rules::{Refusal, Rejection};
use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use std::fmt::Write as _;
use std::io::Write as _;

const JSON: &str = "application/json";
const HTML: &str = "text/html";

/// A reply before it is sent.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: Bytes,
    pub(crate) extra: Vec<(HeaderName, String)>,
}

impl Reply {
    fn new(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, kind, body: body.into(), extra: Vec::new() }
    }

    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, JSON, body)
    }

    /// The reply to a single event.
    pub(crate) fn created() -> Self {
        Self::json(201, "{\"created\": true}")
    }

    /// The reply to a preflight, or a status without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, "", "")
    }

    /// A redirect, for `redirect=` in the query and for faults.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        let mut reply = Self::empty(status);
        reply.extra.push((header::LOCATION, location.to_owned()));
        reply
    }

    /// The reply to an image beacon.
    pub(crate) fn pixel() -> Self {
        const GIF: &[u8] =
            b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\
            \x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";
        Self::new(200, "image/gif", GIF)
    }

    /// The reply to a JSONP call.
    pub(crate) fn script(name: &str, json: &Bytes) -> Self {
        let json = String::from_utf8_lossy(json);
        Self::new(200, "text/javascript", format!("{name}({json})"))
    }

    /// A page of the nginx in front of Keen.
    pub(crate) fn nginx(status: u16) -> Self {
        Self::new(status, HTML, nginx_page(status))
    }

    /// The reply to a refused call.
    pub(crate) fn rejection(rejection: &Rejection) -> Self {
        Self::refusal(rejection.status, &rejection.refusal)
    }

    /// The reply to a refused call: `message`, then `error_code`.
    pub(crate) fn refusal(status: u16, refusal: &Refusal) -> Self {
        let body = format!(
            "{{\"message\": {}, \"error_code\": {}}}",
            json_string(&refusal.description),
            json_string(&refusal.name)
        );
        Self::json(status, body)
    }

    /// The reply of a status fault.
    pub(crate) fn for_fault(status: u16, key: Option<&str>) -> Self {
        match status {
            401 => Self::rejection(&invalid_key(key)),
            402 => Self::rejection(&blocked()),
            403 => Self::rejection(&forbidden()),
            404 => Self::rejection(&no_project()),
            400 | 413 | 429 => Self::rejection(&Rejection::new(
                status,
                match status {
                    400 => "InvalidEventError",
                    413 => "RequestEntityTooLargeError",
                    _ => "TooManyRequestsError",
                },
                "Refused by a test fault.",
            )),
            500 => Self::json(500, INTERNAL_ERROR),
            204 | 205 | 304 => Self::empty(status),
            300..400 => Self::redirect(status, "http://keen.invalid/"),
            400.. => Self::nginx(status),
            _ => Self::json(status, "{}"),
        }
    }

    /// Builds the HTTP response with Keen's headers, gzipped if the caller accepts it.
    pub(crate) fn finish(mut self, request: &HeaderMap, close: bool) -> Response<Body> {
        let mut headers = HeaderMap::new();
        headers.insert(header::SERVER, HeaderValue::from_static("nginx"));
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.kind != HTML {
            add(&mut headers, &API_HEADERS);
            if self.status < 400 {
                add(&mut headers, &CACHE_HEADERS);
            }
        }
        if !self.kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        }
        if self.kind == JSON && takes_gzip(request) {
            self.body = gzip(&self.body);
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        for (name, value) in self.extra {
            // Only a test can set an invalid value; it then notices the missing header.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = headers;
        response
    }
}

fn add(headers: &mut HeaderMap, more: &[(HeaderName, &'static str)]) {
    for (name, value) in more {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

const API_HEADERS: [(HeaderName, &str); 3] = [
    (header::VARY, "Accept-Encoding"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "origin, content-type, accept, authorization, user-agent",
    ),
];

/// On successes only, as in the recordings of KeenClient-PHP.
const CACHE_HEADERS: [(HeaderName, &str); 3] = [
    (header::EXPIRES, "Sat, 01 Jan 2000 01:01:01 GMT"),
    (header::PRAGMA, "no-cache"),
    (header::CACHE_CONTROL, "private, no-cache, no-cache=Set-Cookie, max-age=0, s-maxage=0"),
];

fn takes_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT_ENCODING).iter();
    accepted.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |coding| {
            let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
            let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case("gzip")
                && quality.parse::<f32>().is_ok_and(|quality| quality > 0.0)
        },
    )
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

pub(crate) fn no_project() -> Rejection {
    Rejection::new(404, "ResourceNotFoundError", "Resource not found.")
}

/// Keen echoes the key, or Python's `None` if there is none.
pub(crate) fn invalid_key(key: Option<&str>) -> Rejection {
    let key = key.unwrap_or("None");
    Rejection::new(
        401,
        "InvalidApiKeyError",
        format!("Specified API Key is invalid. API Key: '{key}'."),
    )
}

pub(crate) fn blocked() -> Rejection {
    Rejection::new(402, "PaymentRequiredError", "This project is blocked for non-payment.")
}

pub(crate) fn forbidden() -> Rejection {
    Rejection::new(
        403,
        "RequestForbiddenError",
        "You're not allowed to run this request. Check your API Key and maybe try again.",
    )
}

/// Recorded in keen-js #254.
const INTERNAL_ERROR: &str = concat!(
    r#"{"stacktrace_id": "-1905355648296403205", "message": "Oof, an Internal Server Error has "#,
    r#"occurred. That most likely means something has gone awry on our end. Please try again, "#,
    r#"or check status.keen.io for service-wide issues. We are working really hard to make Keen "#,
    r#"IO better for you and we're really sorry for this interruption.", "error_code": "#,
    r#""InternalServerError", "unique_id": "-1905355648296403205-1426114279106"}"#,
);

/// The default page of nginx, in the version that Keen uses. The quoted page for 400 has no footer.
pub(crate) fn nginx_page(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let title = match status {
        503 => "503 Service Temporarily Unavailable".to_owned(),
        504 => "504 Gateway Time-out".to_owned(),
        _ => format!("{status} {}", reason.unwrap_or("Error")),
    };
    if status == 400 {
        return format!(
            "<html>\n<head><title>{title}</title></head>\n<body bgcolor=\"white\">\n\
             <center><h1>{title}</h1></center>\n</body>\n</html>"
        );
    }
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body bgcolor=\"white\">\r\n\
         <center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
}

/// The results of a bulk call, in the order and spacing of the recordings.
pub(crate) fn bulk(results: &[(String, Vec<Result<(), Refusal>>)]) -> Reply {
    let mut body = String::from("{");
    for (place, (collection, results)) in results.iter().enumerate() {
        if place > 0 {
            body.push_str(", ");
        }
        body.push_str(&json_string(collection));
        body.push_str(": [");
        for (place, result) in results.iter().enumerate() {
            if place > 0 {
                body.push_str(", ");
            }
            match result {
                Ok(()) => body.push_str("{\"success\": true}"),
                Err(refusal) => {
                    let name = json_string(&refusal.name);
                    let description = json_string(&refusal.description);
                    body.push_str("{\"success\": false, \"error\": {\"name\": ");
                    body.push_str(&name);
                    body.push_str(", \"description\": ");
                    body.push_str(&description);
                    body.push_str("}}");
                }
            }
        }
        body.push(']');
    }
    body.push('}');
    Reply::json(200, body)
}

/// A string as Python's `json.dumps` writes it: ASCII only.
fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            ' '..='~' => json.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_string_escapes_like_python() {
        assert_eq!(json_string("a\"\\\n\u{7f}é😀/"), r#""a\"\\\n\u007f\u00e9\ud83d\ude00/""#);
    }

    #[test]
    fn nginx_404_page_has_recorded_length() {
        assert_eq!(nginx_page(404).len(), 162);
    }
}
