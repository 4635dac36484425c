//! The types of messages (segment.com/docs/connections/spec).

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// Something a user did.
    Track,
    /// A page seen.
    Page,
    /// A screen seen.
    Screen,
    /// Who a user is.
    Identify,
    /// What a user belongs to.
    Group,
    /// Another name of a user.
    Alias,
}

impl MessageType {
    /// The `type` that names it.
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

    /// The kind a message's `type` names.
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
