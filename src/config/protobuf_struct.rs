//! `google.protobuf.Struct` as Envoy hands it over: its wire form, where the documentation promises JSON.

use crate::tree::{DEPTH, Members, Tree};

/// Reads a Struct. `None` where the bytes are none.
pub(super) fn structure(bytes: &[u8], depth: usize) -> Option<Tree> {
    let mut members = Members::new();
    each(bytes, |field, payload| {
        let (1, Payload::Bytes(entry)) = (field, payload) else { return Some(()) };
        let mut name = String::new();
        let mut member = Tree::Null;
        each(entry, |field, payload| {
            match (field, payload) {
                (1, Payload::Bytes(text)) => name = String::from_utf8(text.to_vec()).ok()?,
                (2, Payload::Bytes(bytes)) => member = value(bytes, depth)?,
                _ => {}
            }
            Some(())
        })?;
        members.insert(name, member);
        Some(())
    })?;
    Some(Tree::Object(members))
}

fn value(bytes: &[u8], depth: usize) -> Option<Tree> {
    let inner = depth.checked_add(1).filter(|depth| *depth < DEPTH)?;
    let mut found = Tree::Null;
    each(bytes, |field, payload| {
        found = match (field, payload) {
            (2, Payload::Eight(bits)) => number(f64::from_bits(bits)),
            (3, Payload::Bytes(text)) => Tree::Text(String::from_utf8(text.to_vec()).ok()?),
            (4, Payload::Varint(flag)) => Tree::Bool(flag != 0),
            (5, Payload::Bytes(bytes)) => structure(bytes, inner)?,
            (6, Payload::Bytes(bytes)) => {
                let mut list = Vec::new();
                each(bytes, |field, payload| {
                    if let (1, Payload::Bytes(bytes)) = (field, payload) {
                        list.push(value(bytes, inner)?);
                    }
                    Some(())
                })?;
                Tree::List(list)
            }
            _ => Tree::Null,
        };
        Some(())
    })?;
    Some(found)
}

/// A double, and as much of how it is written as an error needs.
fn number(number: f64) -> Tree {
    #[allow(clippy::cast_possible_truncation, reason = "a float's cast saturates")]
    let floor = number.floor() as i64;
    let whole = number.fract() == 0.0;
    Tree::Number(
        number,
        if whole { floor.to_string() } else { format!("a fraction above {floor}") },
    )
}

enum Payload<'a> {
    Varint(u64),
    Eight(u64),
    Bytes(&'a [u8]),
}

fn each<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u64, Payload<'a>) -> Option<()>,
) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let payload = match tag & 7 {
            0 => Payload::Varint(varint(&mut bytes)?),
            1 => {
                let (eight, rest) = bytes.split_first_chunk::<8>()?;
                bytes = rest;
                Payload::Eight(u64::from_le_bytes(*eight))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (payload, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Payload::Bytes(payload)
            }
            _ => return None,
        };
        field(tag >> 3, payload)?;
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for place in 0..10_u32 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(place.checked_mul(7)?)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_as_envoy_sends_it() {
        // {"keen": {"cluster": "keen"}, "n": [1.5, true]}, as protoc encodes it.
        let bytes = b"\x0a\x1d\x0a\x04keen\x12\x15\x2a\x13\x0a\x11\x0a\x07cluster\x12\x06\x1a\x04keen\
            \x0a\x18\x0a\x01n\x12\x132\x11\x0a\x09\x11\x00\x00\x00\x00\x00\x00\xf8?\x0a\x04\x20\x01\x20\x01";
        let want = Tree::object([
            ("keen", Tree::object([("cluster", "keen".into())])),
            (
                "n",
                Tree::List(vec![Tree::Number(1.5, "a fraction above 1".to_owned()), true.into()]),
            ),
        ]);
        assert_eq!(structure(bytes, 0), Some(want));
        for end in 1..bytes.len() {
            let _ = structure(bytes.get(..end).unwrap_or_default(), 0);
        }
        assert_eq!(structure(b"{}", 0), None);
    }
}
