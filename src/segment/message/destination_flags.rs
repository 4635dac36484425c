//! Whether a message is for Keen, and options for Keen, in one object: `integrations`, `context` or
//! `providers`.

use super::key_match::NormalizedKey;
use crate::json::{Name, Value, for_each_member, member};

/// Destination flags and options in one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DestinationFlags<'a> {
    pub(super) all: All,
    /// The value of `Keen IO` (exact name), else of `Keen`.
    pub(super) keen_flag: Value<'a>,
    /// Options in `keen_flag`, if it is an object.
    keen_options: KeenOptions<'a>,
    /// Whether `keen_flag` is the value of `Keen IO`.
    exact_name: bool,
    /// Options under the first spelling of the name found (`keenIo`, `keen_io`, `Keen IO`). Such a
    /// member never acts as a flag.
    pub(super) alias_options: KeenOptions<'a>,
    /// Whether one of those spellings has been seen.
    pub(super) alias_seen: bool,
    /// The `traits` of the batch's options, used if the message has none.
    pub(super) batch_traits: Value<'a>,
}

/// Options for Keen, in addition to the flag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum KeenOptions<'a> {
    /// No options here. Another location may have some.
    #[default]
    Unspecified,
    /// Options without members. They override all other locations.
    Empty,
    /// An object with options.
    Object {
        /// The member `traits`.
        traits: Value<'a>,
    },
}

impl<'a> KeenOptions<'a> {
    fn new(value: Value<'a>) -> Self {
        match value {
            Value::Object(options) => Self::Object { traits: member(options, "traits") },
            // They are objects in JavaScript.
            Value::Null | Value::Array(_) => Self::Empty,
            _ => Self::Unspecified,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        if self == Self::Unspecified { other } else { self }
    }

    pub(super) fn traits(self) -> Value<'a> {
        if let Self::Object { traits } = self { traits } else { Value::Absent }
    }
}

/// `All`, matched case-insensitively. The first one counts, and only if it is a boolean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum All {
    #[default]
    Absent,
    NonBool,
    Bool(bool),
}

impl<'a> DestinationFlags<'a> {
    pub(super) fn parse(value: Value<'a>) -> Self {
        let mut flags = Self::default();
        if let Value::Object(text) = value {
            for_each_member(text, &mut |name, value| {
                flags.member(name, NormalizedKey::new(&name.0).as_bytes(), value);
            });
        }
        flags
    }

    /// Whether a member with this normalized name may be a destination flag.
    pub(super) fn is_flag(normalized: &[u8]) -> bool {
        matches!(normalized, b"all" | b"keenio" | b"keen")
    }

    /// Reads a member that may be a flag or options for Keen.
    pub(super) fn member(&mut self, name: &Name<'a>, normalized: &[u8], value: Value<'a>) {
        match normalized {
            b"all" if self.all == All::Absent => {
                self.all = if let Value::Bool(all) = value { All::Bool(all) } else { All::NonBool };
            }
            b"keenio" => {
                let options = KeenOptions::new(value);
                if !self.alias_seen {
                    (self.alias_options, self.alias_seen) = (options, true);
                }
                if *name.0 == *b"Keen IO" {
                    (self.keen_flag, self.keen_options) = (value, options);
                    self.exact_name = true;
                }
            }
            b"keen" if !self.exact_name && *name.0 == *b"Keen" => {
                (self.keen_flag, self.keen_options) = (value, KeenOptions::new(value));
            }
            _ => {}
        }
    }

    pub(super) fn apply_batch_defaults(&mut self, batch: &Self) {
        if self.all == All::Absent {
            self.all = batch.all;
        }
        if self.keen_flag == Value::Absent {
            (self.keen_flag, self.keen_options) = (batch.keen_flag, batch.keen_options);
        } else if matches!(self.keen_flag, Value::Object(_)) {
            self.batch_traits = batch.keen_options.traits();
        }
        if !self.alias_seen {
            (self.alias_options, self.alias_seen) = (batch.alias_options, batch.alias_seen);
        }
    }

    /// Returns the options for Keen.
    pub(super) fn options(&self) -> KeenOptions<'a> {
        match self.keen_flag {
            Value::Object(_) => self.keen_options,
            value if self.exact_name && value.truthy() => self.keen_options,
            _ => self.alias_options,
        }
    }

    /// Returns the candidates for Keen's `traits` option, each once.
    pub(super) fn every_traits(&self) -> [Value<'a>; 2] {
        [self.keen_options.traits(), self.alias_options.traits()]
    }
}
