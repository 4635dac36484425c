//! Writes a `google.protobuf.Struct` in its wire form.

use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::Value as Json;

pub(crate) fn encode(value: &Json) -> Vec<u8> {
    structure(value).encode_to_vec()
}

fn structure(value: &Json) -> Struct {
    let fields = value.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(name, member)| (name.clone(), one(member))).collect() }
}

fn one(value: &Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(*flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(one).collect() }),
        Json::Object(_) => Kind::StructValue(structure(value)),
    };
    Value { kind: Some(kind) }
}
