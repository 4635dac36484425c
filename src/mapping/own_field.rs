//! The names of the fields that the mapping itself adds to an event.

/// Declares our fields, in the order in which they are written.
macro_rules! own_fields {
    ($($field:ident = $name:literal,)*) => {
        /// A field that the mapping writes. Its value overrides a property of the same name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum OwnField { $(#[doc = $name] $field,)* }

        impl OwnField {
            pub(super) const ALL: [Self; [$($name),*].len()] = [$(Self::$field),*];

            /// What precedes the field's value in an event: a comma, the name and a colon.
            pub(super) fn key(self) -> &'static str {
                match self { $(Self::$field => concat!(",\"", $name, "\":"),)* }
            }

            /// Returns the field with this name.
            #[inline]
            pub(super) fn from_name(name: &[u8]) -> Option<Self> {
                if name.len() > MAX_NAME_BYTES {
                    return None;
                }
                $(if name == $name.as_bytes() {
                    return Some(Self::$field);
                })*
                None
            }
        }
    };
}

own_fields! {
    SegmentProperties = "segment_properties",
    Category = "category",
    Name = "name",
    SegmentEvent = "segment_event",
    SegmentKeen = "segment_keen",
    UserId = "userId",
    PageUrl = "page_url",
    ReferrerUrl = "referrer_url",
    UserAgent = "user_agent",
    IpAddress = "ip_address",
    Traits = "traits",
    User = "user",
    Keen = "keen",
}

/// Length of the longest field name, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 18;

/// One value for each of our fields.
pub(super) type PerField<T> = [T; OwnField::ALL.len()];
