//! References into the schema.

use serde_json::Value;

use super::{Compiler, Place, Pointer};
use crate::error::Result;

impl<'a> Compiler<'a> {
    /// The schema that `$ref` names.
    pub(super) fn referred(&mut self, place: &Place<'a>, reference: &Value) -> Result<usize> {
        let Some(reference) = reference.as_str() else {
            return place.refuse("$ref", format!("is {reference}, not a text"));
        };
        let pointer = reference.strip_prefix('#').and_then(decoded);
        let Some(pointer) = pointer.filter(|path| path.is_empty() || path.starts_with('/')) else {
            let reason = format!(
                "is `{reference}`; only places within the schema can be referred to, as `#/$defs/name`"
            );
            return place.refuse("$ref", reason);
        };
        self.check_base(place, reference, &pointer)?;
        match self.root.pointer(&pointer) {
            Some(target) => {
                let root = Pointer::default();
                let names = pointer.strip_prefix('/').map(|names| root.below(names.to_owned()));
                Ok(self.place(names.unwrap_or_default(), target))
            }
            None => place.refuse("$ref", format!("is `{reference}`, where there is nothing")),
        }
    }

    /// Refuses a reference through a schema with an `$id`: references in there mean other places.
    fn check_base(&self, place: &Place<'a>, reference: &str, pointer: &str) -> Result<()> {
        let ends = pointer.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0);
        for end in ends.chain([pointer.len()]).filter(|end| *end > 0) {
            let passed = self.root.pointer(&pointer[..end]);
            if passed.and_then(|value| value.get("$id")).is_some_and(Value::is_string) {
                let reason = format!(
                    "is `{reference}`, which leads through a schema with an `$id` of its own; leave that `$id` out"
                );
                return place.refuse("$ref", reason);
            }
        }
        Ok(())
    }
}

/// Without the percent-encoding of URIs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let code = 16 * digit(rest.first()?)? + digit(rest.get(1)?)?;
            bytes.push(u8::try_from(code).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
