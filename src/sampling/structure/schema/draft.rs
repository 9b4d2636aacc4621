//! Drafts of JSON Schema, and what changes the meaning of a reference.

use serde_json::{Map, Value};

use super::known::ANNOTATIONS;
use super::{Compiler, Place};
use crate::error::Result;

/// A draft, by what makes it different from draft 2020-12 in what is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draft {
    /// 6 and 7: what is beside `$ref` means nothing.
    Old,
    /// 2019-09: no `prefixItems` yet.
    Recent,
    Newest,
}

fn draft(name: &str) -> Option<Draft> {
    let name = name.strip_suffix('#').unwrap_or(name);
    let name = name.strip_prefix("http://").or_else(|| name.strip_prefix("https://"))?;
    match name.strip_prefix("json-schema.org/")? {
        "draft-06/schema" | "draft-07/schema" => Some(Draft::Old),
        "draft/2019-09/schema" => Some(Draft::Recent),
        "draft/2020-12/schema" => Some(Draft::Newest),
        _ => None,
    }
}

/// Beside `$ref`, these mean the same in all drafts.
fn is_neutral(keyword: &str) -> bool {
    ANNOTATIONS.contains(&keyword)
        || ["$ref", "$defs", "definitions"].contains(&keyword)
        || keyword.starts_with("x-")
}

impl<'a> Compiler<'a> {
    /// Refuses what another draft, or another base of references, would give another meaning.
    pub(super) fn check_draft(
        &self,
        place: &Place<'a>,
        fields: &'a Map<String, Value>,
    ) -> Result<()> {
        if !std::ptr::eq(place.value, self.root) {
            for keyword in ["$id", "id", "$schema"] {
                if fields.contains_key(keyword) {
                    return place
                        .refuse(keyword, "is enforced only at the root; leave it out here");
                }
            }
        }
        let draft = match self.root.get("$schema") {
            None => Some(Draft::Newest),
            Some(name) => name.as_str().and_then(draft),
        };
        let Some(draft) = draft else {
            return place.refuse(
                "$schema",
                "names a draft that cannot be enforced; leave `$schema` out, or write the schema for draft 2020-12",
            );
        };
        if draft != Draft::Newest && fields.contains_key("prefixItems") {
            return place.refuse(
                "prefixItems",
                "means nothing in the draft that `$schema` names; name draft 2020-12",
            );
        }
        let sibling = fields.keys().find(|keyword| !is_neutral(keyword));
        match sibling.filter(|_| draft == Draft::Old && fields.contains_key("$ref")) {
            Some(sibling) => place.refuse(
                "$ref",
                format!(
                    "makes `{sibling}` beside it mean nothing in the draft that `$schema` names; put both into `allOf`, or name draft 2020-12"
                ),
            ),
            None => Ok(()),
        }
    }
}
