//! What Engage (once Personas) computed of a user, as its identify calls say it.
//!
//! Such a call carries `context.personas` with `computation_class` and `computation_key`, and the value among `traits`
//! (segment.com/docs/engage/audiences, "Identify events").

use super::{Message, MessageType};
use crate::json::{Cursor, Value, write_string};

/// What an identify call of Engage's says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engage {
    /// Its traits as a JSON object; those that were computed under the snake_case of their names.
    pub traits: String,
    /// Audiences by such a name, and whether the user is in them.
    pub audiences: Vec<(String, bool)>,
}

/// Reads an identify call of Engage's. `None`: it is another's.
///
/// Computed is the trait that `computation_key` names, and whatever is true or false: Engage's other traits are ids.
#[must_use]
pub fn engage(message: &Message<'_>) -> Option<Engage> {
    let (Some(MessageType::Identify), Value::Object(personas)) =
        (message.kind, message.context.personas)
    else {
        return None;
    };
    let mut key = Value::Absent;
    // Both texts have been read once: they are objects.
    let _ = Cursor::new(personas).object(|name, cursor| {
        let value = cursor.value()?;
        if name.is("computation_key") {
            key = value;
        }
        Ok(())
    });
    let key = key.text().map(|key| snake_case(&key));
    let mut engage = Engage::default();
    let mut out = Vec::new();
    if let Value::Object(traits) = message.traits {
        let _ = Cursor::new(traits).object(|name, cursor| {
            let name = name.decode();
            let snake = snake_case(&name);
            let text = cursor.skip()?;
            let member = match text {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            };
            let computed = member.is_some() || key.as_ref() == Some(&snake);
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_string(&mut out, if computed { &snake } else { &name });
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
            engage.audiences.extend(member.map(|member| (snake, member)));
            Ok(())
        });
    }
    if !out.is_empty() {
        out.push(b'}');
        engage.traits = String::from_utf8(out).unwrap_or_default();
    }
    Some(engage)
}

/// The snake_case of a name: `Order Completed Last 30days` is `order_completed_last_30days`. Words end where a letter or
/// digit does, before a capital behind a small letter, and before the last of several capitals. Only ASCII's letters have a
/// case: Engage's own names have no others. A name without letters and digits stays as it is.
#[must_use]
pub fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len().saturating_add(8));
    for word in name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if !snake.is_empty() {
            snake.push('_');
        }
        let mut letters = word.chars().peekable();
        // Whether the last letter with a case was a capital; none since the last word ended.
        let mut capital = None;
        while let Some(letter) = letters.next() {
            let next = letters.peek().copied().unwrap_or_default();
            if capital == Some(true) && letter.is_ascii_uppercase() && next.is_ascii_lowercase() {
                snake.push('_');
                capital = None;
            } else if letter.is_ascii_alphabetic() {
                capital = Some(letter.is_ascii_uppercase());
            }
            snake.push(letter.to_ascii_lowercase());
            if capital == Some(false) && next.is_ascii_uppercase() {
                snake.push('_');
                capital = None;
            }
        }
    }
    if snake.is_empty() { name.to_owned() } else { snake }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use heck::ToSnakeCase;

    fn read(body: &str) -> Message<'_> {
        let mut message = Message::default();
        message
            .read(&mut Cursor::new(body), &mut Vec::new(), |_, cursor| cursor.skip().map(drop))
            .unwrap();
        message.kind = Some(MessageType::Identify);
        message
    }

    #[test]
    fn names() {
        for (name, want) in [
            ("order_completed_last_30days", "order_completed_last_30days"),
            ("Order Completed Last 30days", "order_completed_last_30days"),
            ("First-Time Shopper", "first_time_shopper"),
            ("BigSpenders", "big_spenders"),
            ("VIP", "vip"),
            ("Größe.ändern", "größe_ändern"),
            ("!?", "!?"),
        ] {
            assert_eq!(snake_case(name), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn ascii_names_are_read_as_the_crate_heck_reads_them(name in "[a-zA-Z0-9 _-]{0,24}") {
            let want = name.to_snake_case();
            proptest::prop_assert_eq!(snake_case(&name), if want.is_empty() { name } else { want });
        }
    }

    #[test]
    fn audiences_and_computed_traits() {
        let message = read(
            r#"{"context": {"personas": {"computation_class": "trait", "computation_key": "Total Spend"}},
                "traits": {"total_spend": 12.50, "Big Spender": true, "firstName": "a\"b"}}"#,
        );
        let engage = engage(&message).unwrap();
        assert_eq!(engage.traits, r#"{"total_spend":12.50,"big_spender":true,"firstName":"a\"b"}"#);
        assert_eq!(engage.audiences, [("big_spender".to_owned(), true)]);
    }

    #[test]
    fn other_calls_say_nothing_of_audiences() {
        for body in [
            r#"{"traits": {"a": true}}"#,
            r#"{"context": {"personas": null}, "traits": {"a": true}}"#,
        ] {
            assert_eq!(engage(&read(body)), None, "{body}");
        }
        let empty = read(r#"{"context": {"personas": {}}, "traits": []}"#);
        assert_eq!(engage(&empty), Some(Engage::default()));
    }
}
