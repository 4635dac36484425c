//! Decodes a `google.protobuf.Struct` in its wire form, as Envoy passes it to the filter.

use serde_json::{Map, Number, Value};

/// Maximum nesting depth of Structs and lists. A configuration has five levels.
const MAX_DEPTH: usize = 128;

/// Decodes a Struct. `None` if the bytes are not a Struct.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    decode_struct(bytes, 0)
}

fn decode_struct(bytes: &[u8], depth: usize) -> Option<Value> {
    let mut members = Map::new();
    for_each_field(bytes, |field, payload| {
        let (1, Payload::Bytes(entry)) = (field, payload) else { return Some(()) };
        let mut name = String::new();
        let mut member = Value::Null;
        for_each_field(entry, |field, payload| {
            match (field, payload) {
                (1, Payload::Bytes(text)) => name = String::from_utf8(text.to_vec()).ok()?,
                (2, Payload::Bytes(bytes)) => member = decode_value(bytes, depth)?,
                _ => {}
            }
            Some(())
        })?;
        members.insert(name, member);
        Some(())
    })?;
    Some(Value::Object(members))
}

fn decode_value(bytes: &[u8], depth: usize) -> Option<Value> {
    let inner = depth.checked_add(1).filter(|depth| *depth < MAX_DEPTH)?;
    let mut decoded = Value::Null;
    for_each_field(bytes, |field, payload| {
        decoded = match (field, payload) {
            (2, Payload::Fixed64(bits)) => number(f64::from_bits(bits)),
            (3, Payload::Bytes(text)) => Value::String(String::from_utf8(text.to_vec()).ok()?),
            (4, Payload::Varint(flag)) => Value::Bool(flag != 0),
            (5, Payload::Bytes(bytes)) => decode_struct(bytes, inner)?,
            (6, Payload::Bytes(bytes)) => {
                let mut list = Vec::new();
                for_each_field(bytes, |field, payload| {
                    if let (1, Payload::Bytes(bytes)) = (field, payload) {
                        list.push(decode_value(bytes, inner)?);
                    }
                    Some(())
                })?;
                Value::Array(list)
            }
            _ => Value::Null,
        };
        Some(())
    })?;
    Some(decoded)
}

/// Converts a double, the only number type of a Struct. A whole number becomes an integer. NaN and
/// infinity become null.
fn number(number: f64) -> Value {
    /// Every smaller whole double is an exact `i64`.
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "whole, and below the limit")]
    if number.fract() == 0.0 && number.abs() <= LIMIT {
        return Value::Number((number as i64).into());
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

fn for_each_field<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u64, Payload<'a>) -> Option<()>,
) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let payload = match tag & 7 {
            0 => Payload::Varint(varint(&mut bytes)?),
            1 => {
                let (fixed, rest) = bytes.split_first_chunk::<8>()?;
                bytes = rest;
                Payload::Fixed64(u64::from_le_bytes(*fixed))
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
    fn struct_in_wire_form_becomes_json() {
        // {"keen": {"cluster": "keen"}, "n": [1.5, true]}, as protoc encodes it.
        let bytes = b"\x0a\x1d\x0a\x04keen\x12\x15\x2a\x13\x0a\x11\x0a\x07cluster\x12\x06\x1a\x04keen\
            \x0a\x18\x0a\x01n\x12\x132\x11\x0a\x09\x11\x00\x00\x00\x00\x00\x00\xf8?\x0a\x04\x20\x01\x20\x01";
        let want = serde_json::json!({"keen": {"cluster": "keen"}, "n": [1.5, true]});
        assert_eq!(decode(bytes), Some(want));
        for end in 1..bytes.len() {
            let _ = decode(bytes.get(..end).unwrap_or_default());
        }
        assert_eq!(decode(b"{}"), None);
    }

    #[test]
    fn whole_doubles_are_integers() {
        for (double, want) in [
            (7000.0, "7000"),
            (-1.0, "-1"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (2_592_000_000.0, "2592000000"),
            (1e300, "1e+300"),
            (f64::NAN, "null"),
            (f64::NEG_INFINITY, "null"),
        ] {
            assert_eq!(number(double).to_string(), want);
        }
    }
}
