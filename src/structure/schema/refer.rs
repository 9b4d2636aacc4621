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
        match self.root.pointer(&pointer) {
            Some(target) => {
                let root = Pointer::default();
                let names = pointer.strip_prefix('/').map(|names| root.below(names.to_owned()));
                Ok(self.place(names.unwrap_or_default(), target))
            }
            None => place.refuse("$ref", format!("is `{reference}`, where there is nothing")),
        }
    }
}

/// Without the percent-encoding of URIs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let code = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
