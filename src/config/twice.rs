//! Members of one name in one object: a reader of JSON takes one of them, and says nothing of the other.

use super::node::{ConfigError, Node};
use crate::json::{Cursor, Malformed, Read};
use serde_json::Value;
use std::collections::BTreeSet;

/// What is wrong with a configuration that has such members. `text` has been read once: it is JSON, and not deep.
pub(super) fn refused(text: &[u8]) -> Option<ConfigError> {
    let mut found = None;
    let text = std::str::from_utf8(text).ok()?;
    let _ = walk(&mut Cursor::new(text), &Node::root(&Value::Null), &mut found);
    found
}

fn walk(cursor: &mut Cursor<'_>, node: &Node<'_>, found: &mut Option<ConfigError>) -> Read<()> {
    match cursor.peek() {
        Some(b'{') => {
            let mut names = BTreeSet::new();
            cursor.object(|key, cursor| {
                let name = key.decode();
                let member = node.member(&name, &Value::Null);
                if !names.insert(name) {
                    *found = Some(member.wrong("must stand once", "twice"));
                    return Err(Malformed);
                }
                walk(cursor, &member, found)
            })
        }
        Some(b'[') => {
            let mut place = 0_usize;
            cursor.array(|cursor| {
                let element = node.member(&place.to_string(), &Value::Null);
                place = place.saturating_add(1);
                walk(cursor, &element, found)
            })
        }
        _ => cursor.skip().map(drop),
    }
}
