//! The fields that the mapping itself adds to an event's properties.

use super::own_field::{OwnField, PerField};
use super::properties::Properties;
use crate::json::{Value, quoted, read_value};
use crate::keen::sanitize::{Sanitized, is_valid, sanitize};
use std::borrow::Cow;

/// Our fields of one event, as valid JSON.
#[derive(Debug, Default)]
pub(super) struct EventFields<'m> {
    json: PerField<Option<Cow<'m, str>>>,
    /// Number of names and values that were changed.
    pub(super) sanitized: u32,
}

impl<'m> EventFields<'m> {
    /// Sets a field to a sanitized value.
    pub(super) fn set(&mut self, field: OwnField, value: Sanitized<'m>) {
        self.sanitized = self.sanitized.saturating_add(value.changes);
        self.set_json(field, value.json);
    }

    /// Sets a field to valid JSON.
    pub(super) fn set_json(&mut self, field: OwnField, json: impl Into<Cow<'m, str>>) {
        if let Some(slot) = self.json.get_mut(field as usize) {
            *slot = Some(json.into());
        }
    }

    /// Sets a field to a text.
    pub(super) fn set_text(&mut self, field: OwnField, text: &str) {
        let json = quoted(text);
        let value = read_value(&json).map(|value| sanitize(value, 1));
        let (json, changes) =
            value.map(|value| (value.json.into_owned(), value.changes)).unwrap_or_default();
        self.set(field, Sanitized { json: Cow::Owned(json), changes });
    }

    /// Sets a field. A `null` is ignored if a property has the field's name.
    pub(super) fn overlay(
        &mut self,
        field: OwnField,
        value: Option<Sanitized<'m>>,
        properties: &Properties<'_>,
    ) {
        if let Some(value) = value.filter(|value| value.json != "null" || !properties.has(field)) {
            self.set(field, value);
        }
    }

    /// Returns the value of a field, if it is set.
    pub(super) fn get(&self, field: OwnField) -> Option<&str> {
        self.json.get(field as usize)?.as_deref()
    }

    /// Returns the fields that are set, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (OwnField, &str)> {
        OwnField::ALL.into_iter().filter_map(|field| Some((field, self.get(field)?)))
    }

    /// Whether the event will have a non-empty string under the field's name, from the field or
    /// else from a property.
    pub(super) fn is_filled(&self, field: OwnField, properties: &Properties<'_>) -> bool {
        match self.get(field) {
            Some(json) => json.len() > 2 && json.starts_with('"'),
            None => match properties.get(field) {
                Value::String(text) => !text.raw().is_empty(),
                // A number that Keen cannot store becomes a string.
                number @ Value::Number(_) => !is_valid(number),
                _ => false,
            },
        }
    }

    /// Returns the string that the event will have under the field's name, if it has at most
    /// `max_bytes` bytes.
    pub(super) fn short_text<'f>(
        &'f self,
        field: OwnField,
        properties: &'f Properties<'_>,
        max_bytes: usize,
    ) -> Option<Cow<'f, str>> {
        match self.get(field) {
            Some(json) if json.len() > max_bytes.saturating_add(2) => None,
            Some(json) if json.contains('\\') => read_value(json)?.short_str(max_bytes),
            Some(json) => json.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed),
            None => properties.get(field).short_str(max_bytes),
        }
    }
}
