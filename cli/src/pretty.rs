//! Formats JSON for people: indented and coloured, with every digit and name unchanged.

use anstyle::{AnsiColor, Style};

/// Appends a valid JSON text. `indent`: the indentation of its last line.
pub(crate) fn push_json(out: &mut String, json: &str, indent: usize) {
    let name_style = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
    let mut depth = 0_usize;
    let mut rest = json.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest);
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let after = after.trim_start();
        match first {
            '{' | '[' => {
                out.push(first);
                if after.starts_with(['}', ']']) {
                    // An empty array or object is closed on the same line.
                    out.push_str(after.get(..1).unwrap_or_default());
                    rest = after.get(1..).unwrap_or_default().trim_start();
                    continue;
                }
                depth = depth.saturating_add(1);
                push_line_break(out, indent, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                push_line_break(out, indent, depth);
                out.push(first);
            }
            ',' => {
                out.push(',');
                push_line_break(out, indent, depth);
            }
            ':' => out.push_str(": "),
            '"' if after.starts_with(':') => {
                out.push_str(&format!("{name_style}{token}{name_style:#}"));
            }
            _ => out.push_str(token),
        }
        rest = after;
    }
}

/// Returns the length of the first token of a JSON text.
fn token_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => {
            let mut escaped = false;
            for (index, byte) in bytes.iter().enumerate().skip(1) {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => return index.saturating_add(1),
                    _ => {}
                }
            }
            bytes.len()
        }
        Some(b'{' | b'}' | b'[' | b']' | b',' | b':') => 1,
        _ => {
            let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
            bytes.iter().position(ends).unwrap_or(bytes.len()).max(1)
        }
    }
}

fn push_line_break(out: &mut String, indent: usize, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', depth.saturating_mul(2).saturating_add(indent)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_otherwise_unchanged() {
        let mut out = String::new();
        push_json(&mut out, r#"{"a":1.10,"b":[true,"x, \"y\": {"],"c":{},"d":[]}"#, 2);
        let plain = anstream::adapter::strip_str(&out).to_string();
        let want = "{\n    \"a\": 1.10,\n    \"b\": [\n      true,\n      \"x, \\\"y\\\": {\"\n    ],\n    \"c\": {},\n    \"d\": []\n  }";
        assert_eq!(plain, want);
    }
}
