//! The types of messages (segment.com/docs/connections/spec).

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// A user's action.
    Track,
    /// A page view.
    Page,
    /// A screen view.
    Screen,
    /// A user's id and traits.
    Identify,
    /// A group that a user belongs to.
    Group,
    /// Another id of a user.
    Alias,
}

impl MessageType {
    /// Returns the value of `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Identify => "identify",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }

    /// Parses a message's `type`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.as_bytes() {
            b"track" => Self::Track,
            b"page" => Self::Page,
            b"screen" => Self::Screen,
            b"identify" => Self::Identify,
            b"group" => Self::Group,
            b"alias" => Self::Alias,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_each_name_gives_its_type() {
        for (name, message_type) in [
            ("track", MessageType::Track),
            ("page", MessageType::Page),
            ("screen", MessageType::Screen),
            ("identify", MessageType::Identify),
            ("group", MessageType::Group),
            ("alias", MessageType::Alias),
        ] {
            assert_eq!(MessageType::parse(name), Some(message_type));
            assert_eq!(message_type.name(), name);
        }
        assert_eq!(MessageType::parse("Track"), None);
    }
}
