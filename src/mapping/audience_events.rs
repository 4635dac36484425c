//! Converts the audiences in identify messages to the track messages that Engage can send instead
//! (segment.com/docs/engage/audiences, "Track events").

use crate::json::write_string;

/// The track message for a user who has entered or left an audience.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AudienceChange {
    /// The track message's name.
    pub(super) event: &'static str,
    /// The track message's properties, as JSON.
    pub(super) properties: String,
}

/// Returns the track message for an audience of an identify message.
pub(super) fn audience_change(name: &str, entered: bool) -> AudienceChange {
    let mut out = b"{\"audience_key\":".to_vec();
    write_string(&mut out, name);
    out.push(b',');
    write_string(&mut out, name);
    out.extend_from_slice(if entered { b":true}" } else { b":false}" });
    let properties = String::from_utf8(out).unwrap_or_default();
    let event = if entered { "Audience Entered" } else { "Audience Exited" };
    AudienceChange { event, properties }
}
