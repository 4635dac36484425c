//! Reads the calls for `explain`: a message, a batch, or recorded HTTP requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// One HTTP request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// A call as an SDK without a content encoding sends it.
    fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST".to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Returns the value of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &[u8] {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_bytes()).unwrap_or_default()
    }
}

/// A recorded request. Its body is JSON, text, or base64.
#[derive(Deserialize)]
struct Recorded<'a> {
    #[serde(default = "post")]
    method: String,
    path: String,
    #[serde(default)]
    headers: Headers,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    Pairs(Vec<(String, String)>),
    Object(BTreeMap<String, String>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

fn post() -> String {
    "POST".to_owned()
}

/// Reads calls. The text of a message is not changed, so that numbers keep their digits.
pub(crate) fn parse(text: &str) -> Result<Vec<Call>, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if let Some(call) = parse_http(text) {
        return Ok(vec![call]);
    }
    if text.starts_with('[') {
        let elements: Vec<&RawValue> = from_json(text)?;
        let Some(first) = elements.first() else {
            return Err("an empty array: expected messages or recorded requests".to_owned());
        };
        if is_recorded(first.get()) {
            return elements.iter().map(|element| parse_recorded(element.get())).collect();
        }
        return Ok(vec![Call::post("/v1/batch", format!("{{\"batch\":{text}}}"))]);
    }
    if is_recorded(text) {
        return Ok(vec![parse_recorded(text)?]);
    }
    let members: BTreeMap<String, &RawValue> = from_json(text)?;
    let has = |name| members.contains_key(name);
    if has("batch") || has("messages") {
        return Ok(vec![Call::post("/v1/batch", text)]);
    }
    let message_type = members.get("type").and_then(|raw| from_json::<String>(raw.get()).ok());
    let message_type = match message_type {
        Some(message_type) => message_type.to_ascii_lowercase(),
        None if has("event") => "track".to_owned(),
        None => {
            return Err("no message, batch or recorded request: a message has a \"type\" (or an \"event\"), a batch \
                        has \"batch\", a recorded request has \"method\" and \"path\""
                .to_owned());
        }
    };
    let known = ["track", "page", "screen", "identify", "group", "alias"];
    // With the path of a batch, a message of another type gets its skip reason.
    if known.contains(&message_type.as_str()) {
        Ok(vec![Call::post(format!("/v1/{message_type}"), text)])
    } else {
        Ok(vec![Call::post("/v1/batch", format!("{{\"batch\":[{text}]}}"))])
    }
}

fn from_json<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let kind = if error.is_data() { "not what explain reads" } else { "not valid JSON" };
        format!("{kind}: {error}")
    })
}

/// Whether a JSON text is a recorded request and not a message.
fn is_recorded(text: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, &RawValue>>(text).is_ok_and(|members| {
        let has = |name| members.contains_key(name);
        has("path") && (has("method") || has("body") || has("body_text") || has("body_base64"))
    })
}

fn parse_recorded(text: &str) -> Result<Call, String> {
    let recorded: Recorded<'_> = from_json(text)?;
    let mut headers = match recorded.headers {
        Headers::Pairs(pairs) => pairs,
        Headers::Object(members) => members.into_iter().collect(),
    };
    let body = if let Some(base64) = recorded.body_base64 {
        STANDARD.decode(base64).map_err(|error| format!("body_base64: {error}"))?
    } else {
        // A body that was recorded as text is already decoded.
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-encoding"));
        match (recorded.body_text, recorded.body) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(body)) => match serde_json::from_str::<String>(body.get()) {
                Ok(text) => text.into_bytes(),
                Err(_) => body.get().as_bytes().to_vec(),
            },
            (None, None) => Vec::new(),
        }
    };
    Ok(Call { method: recorded.method, path: recorded.path, headers, body })
}

/// Reads a request in the form of HTTP/1.1: `POST /v1/track HTTP/1.1`, headers, an empty line, the
/// body.
fn parse_http(text: &str) -> Option<Call> {
    let (head, body) =
        text.split_once("\r\n\r\n").or_else(|| text.split_once("\n\n")).unwrap_or((text, ""));
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/") || !path.starts_with('/') {
        return None;
    }
    let headers = lines.filter_map(|line| line.split_once(':'));
    Some(Call {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect(),
        body: body.as_bytes().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(text: &str) -> (String, String, String) {
        let calls = parse(text).unwrap();
        assert_eq!(calls.len(), 1, "{text}");
        let body = String::from_utf8(calls[0].body.clone()).unwrap();
        (calls[0].method.clone(), calls[0].path.clone(), body)
    }

    #[test]
    fn each_form_is_recognized() {
        for (text, path, body) in [
            (r#"{"type": "page", "name": "x"}"#, "/v1/page", r#"{"type": "page", "name": "x"}"#),
            (r#"{"event": "x", "n": 1.10}"#, "/v1/track", r#"{"event": "x", "n": 1.10}"#),
            (r#"{"type": "x"}"#, "/v1/batch", r#"{"batch":[{"type": "x"}]}"#),
            (r#"{"batch": []}"#, "/v1/batch", r#"{"batch": []}"#),
            (r#"{"messages": []}"#, "/v1/batch", r#"{"messages": []}"#),
            (r#"[{"type": "page"}]"#, "/v1/batch", r#"{"batch":[{"type": "page"}]}"#),
            (
                r#"{"method": "POST", "path": "/v1/t", "body": {"a": 1.0}}"#,
                "/v1/t",
                r#"{"a": 1.0}"#,
            ),
            (r#"{"path": "/v1/t", "body": "{}"}"#, "/v1/t", "{}"),
            (r#"[{"path": "/v1/t", "body_text": "{}"}]"#, "/v1/t", "{}"),
            (r#"{"path": "/v1/t", "body_base64": "e30="}"#, "/v1/t", "{}"),
            ("POST /v1/t HTTP/1.1\r\nhost: a\r\n\r\n{}", "/v1/t", "{}"),
        ] {
            assert_eq!(single(text), ("POST".to_owned(), path.to_owned(), body.to_owned()));
        }
    }

    #[test]
    fn headers_are_pairs_or_an_object() {
        let pairs = r#"{"path": "/v1/t", "method": "POST", "headers": [["User-Agent", "a"]]}"#;
        let object = r#"{"path": "/v1/t", "method": "POST", "headers": {"User-Agent": "a"}}"#;
        let text = "POST /v1/t HTTP/1.1\nUser-Agent: a\n\n{}";
        for text in [pairs, object, text] {
            assert_eq!(parse(text).unwrap()[0].header("user-agent"), b"a", "{text}");
        }
    }

    #[test]
    fn body_in_text_has_no_content_encoding() {
        let gzip = |body| {
            format!(r#"{{"path": "/v1/b", "headers": {{"Content-Encoding": "gzip"}}, {body}}}"#)
        };
        let encoding = |text: &str| parse(text).unwrap()[0].header("content-encoding").to_vec();
        assert_eq!(encoding(&gzip(r#""body_base64": "e30=""#)), b"gzip");
        assert_eq!(encoding(&gzip(r#""body_text": "{}""#)), b"");
    }

    #[test]
    fn other_input_is_refused_with_what_is_expected() {
        for (text, want) in [
            ("{", "not valid JSON"),
            ("", "not valid JSON"),
            ("1", "not what explain reads"),
            ("[]", "an empty array"),
            ("{}", "a message has a \"type\""),
            (r#"{"path": "/v1/t", "body_base64": "*"}"#, "body_base64"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
