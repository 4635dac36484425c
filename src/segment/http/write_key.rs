//! The write key in `Authorization`.

use super::base64;

/// The user name of a Basic authorization. `None` for any other scheme (an OAuth `Bearer` comes with the key in the
/// body) and for anything unreadable.
#[must_use]
pub fn from_authorization(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = base64::decode(rest.trim_ascii())?;
    let text = String::from_utf8(decoded).ok()?;
    let key = text.split_once(':').map_or(text.as_str(), |(key, _)| key);
    (!key.is_empty()).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_in_all_forms_and_nothing_else() {
        for value in [
            "Basic d3JpdGVLZXk6",
            "basic d3JpdGVLZXk6",
            "Basic d3JpdGVLZXk",
            "Basic  d3JpdGVLZXk6cGFzcw== ",
        ] {
            assert_eq!(
                from_authorization(value.as_bytes()).as_deref(),
                Some("writeKey"),
                "{value}"
            );
        }
        for value in ["", "Basic", "Basic ", "Basic Og==", "Basic !!", "Bearer tok", "Basic /w=="] {
            assert_eq!(from_authorization(value.as_bytes()), None, "{value}");
        }
    }
}
