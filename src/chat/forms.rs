//! The forms in which chat templates take tool calls: they differ in what they expect.

use serde_json::Value;

use super::python;

/// How tool calls are handed to a template.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Arguments are a text, not an object.
    arguments_as_text: bool,
    /// Absent content is an empty text, not `null`.
    content_as_empty: bool,
}

impl Form {
    /// All forms, in the order in which they are tried.
    pub(super) const ALL: [Self; 4] = [
        Self { arguments_as_text: false, content_as_empty: false },
        Self { arguments_as_text: true, content_as_empty: false },
        Self { arguments_as_text: false, content_as_empty: true },
        Self { arguments_as_text: true, content_as_empty: true },
    ];

    /// The same form with absent content as an empty text; `None` if it is that form already.
    pub(super) fn with_empty_content(self) -> Option<Self> {
        (!self.content_as_empty).then_some(Self { content_as_empty: true, ..self })
    }

    /// The messages in this form.
    pub(super) fn apply(self, messages: &Value) -> Value {
        let mut messages = messages.clone();
        for message in messages.as_array_mut().into_iter().flatten() {
            if self.content_as_empty && message["content"].is_null() {
                message["content"] = "".into();
            }
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten().filter(|_| self.arguments_as_text) {
                let arguments = &mut call["function"]["arguments"];
                if !arguments.is_string() {
                    *arguments = spaced(arguments).into();
                }
            }
        }
        messages
    }
}

/// How often a text says that something is absent, as Python and JSON write it.
///
/// One text proves nothing, since people write these words as well. But where a template writes out
/// that there is no content, the text has more of them than with empty content.
pub(super) fn count_absent(text: &str) -> usize {
    text.matches("None").count() + text.matches("null").count()
}

/// JSON as Python writes it.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(spaced).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), spaced(value))
            };
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(|| number.to_string(), python::float)
        }
        plain => plain.to_string(),
    }
}
