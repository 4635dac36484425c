//! Arbitrary JSON as text, with everything that readers treat differently: duplicate names, lone
//! surrogates, digits beyond a double, names and strings at Keen's limits, and names of keen-edge's
//! own fields.

use proptest::prelude::*;
use std::fmt::Write;

/// A value and its notation.
#[derive(Debug, Clone)]
pub enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(Text),
    /// The items, and the white space between them.
    Array(Vec<Json>, &'static str),
    Object(Vec<(Text, Json)>, &'static str),
    /// A number of arrays around a value.
    Deep(usize, Box<Json>),
}

/// A string and its notation.
#[derive(Debug, Clone, Default)]
pub struct Text(pub Vec<Piece>);

#[derive(Debug, Clone)]
pub enum Piece {
    /// Characters without escapes, where JSON allows that.
    Plain(String),
    /// A character as `\u` escapes.
    Escaped(char),
    /// Half of a surrogate pair. It is a lone surrogate unless the other half follows.
    Half(u16),
    /// A repeated character.
    Run(char, usize),
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(vec![Piece::Plain(text.to_owned())])
    }
}

impl Text {
    /// Returns the decoded text. A lone surrogate is U+FFFD.
    pub fn decoded(&self) -> String {
        let mut units = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => units.extend(text.encode_utf16()),
                Piece::Escaped(c) => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
                Piece::Half(unit) => units.push(*unit),
                Piece::Run(c, times) => {
                    (0..*times).for_each(|_| units.extend(c.encode_utf16(&mut [0; 2]).iter()));
                }
            }
        }
        String::from_utf16_lossy(&units)
    }

    /// Whether the text has a lone surrogate.
    pub fn has_lone_surrogate(&self) -> bool {
        let has_half = self.0.iter().any(|piece| matches!(piece, Piece::Half(_)));
        has_half && self.decoded().contains('\u{fffd}')
    }

    fn write(&self, out: &mut String) {
        out.push('"');
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => {
                    let quoted = serde_json::to_string(text).unwrap();
                    out.push_str(&quoted[1..quoted.len() - 1]);
                }
                Piece::Escaped(c) => {
                    c.encode_utf16(&mut [0; 2])
                        .iter()
                        .for_each(|unit| write!(out, "\\u{unit:04X}").unwrap());
                }
                Piece::Half(unit) => write!(out, "\\u{unit:04x}").unwrap(),
                Piece::Run(c, times) => (0..*times).for_each(|_| out.push(*c)),
            }
        }
        out.push('"');
    }
}

impl Json {
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(flag) => write!(out, "{flag}").unwrap(),
            Json::Number(digits) => out.push_str(digits),
            Json::String(text) => text.write(out),
            Json::Array(items, space) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    out.push_str(space);
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members, space) => {
                out.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    out.push_str(space);
                    name.write(out);
                    out.push_str(space);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Json::Deep(levels, inside) => {
                out.push_str(&"[".repeat(*levels));
                inside.write(out);
                out.push_str(&"]".repeat(*levels));
            }
        }
    }
}

pub fn text() -> impl Strategy<Value = Text> {
    let piece = prop_oneof![
        8 => "[a-z .$_é☃😀\u{1}\u{7f}\"\\\\/]{0,8}".prop_map(Piece::Plain),
        2 => any::<char>().prop_map(Piece::Escaped),
        1 => (0xd800_u16..0xe000).prop_map(Piece::Half),
    ];
    let limits = prop_oneof![254_usize..259, 9_995_usize..10_005];
    let run = (prop::sample::select(vec!['x', 'é', '😀', '.']), limits)
        .prop_map(|(c, n)| Piece::Run(c, n));
    prop_oneof![
        20 => prop::collection::vec(piece, 0..4).prop_map(Text),
        1 => run.prop_map(|run| Text(vec![run])),
        1 => prop::sample::select(vec!["${keen.ip}", "${keen.user_agent}", "keen.ip", "1.2.3.4"]).prop_map(Text::from),
    ]
}

/// Generates names that have a meaning, and any others.
pub fn name() -> impl Strategy<Value = Text> {
    const KNOWN: [&str; 22] = [
        "userId",
        "traits",
        "page_url",
        "referrer_url",
        "user_agent",
        "ip_address",
        "keen",
        "Keen",
        "KEEN",
        "k_een",
        "url",
        "URL",
        "segment_event",
        "segment_properties",
        "segment_keen",
        "location",
        "coordinates",
        "timestamp",
        "addons",
        "a",
        "a.b",
        "a_b",
    ];
    prop_oneof![3 => prop::sample::select(KNOWN.to_vec()).prop_map(Text::from), 2 => text()]
}

pub fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:?}")),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?",
        prop::sample::select(vec![
            "0",
            "-0",
            "0e5",
            "0.0",
            "1e400",
            "-1e400",
            "1e-400",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "9223372036854775807.0",
            "-9223372036854775808.0",
            "9.2e18",
            "9.3e18",
            "1E2",
        ])
        .prop_map(str::to_owned),
    ]
}

pub fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        1 => Just(Json::Null),
        1 => any::<bool>().prop_map(Json::Bool),
        3 => number().prop_map(Json::Number),
        4 => text().prop_map(Json::String),
    ];
    let space = || prop::sample::select(vec!["", "", " ", "\n\t "]);
    let tree = leaf.prop_recursive(4, 40, 8, move |inner| {
        let member = (name(), inner.clone());
        prop_oneof![
            (prop::collection::vec(inner, 0..6), space())
                .prop_map(|(items, s)| Json::Array(items, s)),
            (prop::collection::vec(member, 0..8), space())
                .prop_map(|(members, s)| Json::Object(members, s)),
        ]
    });
    prop_oneof![
        30 => tree.clone(),
        1 => (prop_oneof![1_usize..520, 500_usize..520], tree).prop_map(|(n, inside)| Json::Deep(n, Box::new(inside))),
    ]
}

pub fn object() -> impl Strategy<Value = Json> {
    prop::collection::vec((name(), json()), 0..24).prop_map(|members| Json::Object(members, ""))
}
