//! Conversations: their messages, and the one text that a model reads them as.

mod clock;
mod forms;
mod jinja;
mod left_out;
mod python;
mod template;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::template::{ChatTemplate, TemplateOptions};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// Instructions of the program's author; only some models know this role.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// What a tool returned.
    Tool,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        })
    }
}

/// One message of a conversation, in serde the form that chat APIs use.
///
/// ```
/// use moe_offload::{Message, ToolCall};
/// let talk = [
///     Message::system("Be brief."),
///     Message::user("How warm is it in Bern?"),
///     Message::tool_calls([ToolCall::new("weather", serde_json::json!({"city": "Bern"}))]),
///     Message::tool("18 °C").name("weather"),
///     Message::assistant("18 °C.").reasoning("The tool says so."),
/// ];
/// assert_eq!(talk[1].content, "How warm is it in Bern?");
///
/// let stored = serde_json::to_string(&talk[..2])?;
/// assert_eq!(serde_json::from_str::<Vec<Message>>(&stored)?, talk[..2]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
#[non_exhaustive]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said. Empty beside tool calls counts as absent (`null`).
    pub content: String,
    /// What the model thought before it said it (`reasoning_content`).
    pub reasoning: Option<String>,
    /// The tools that the model calls.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result, the call that it answers.
    pub tool_call_id: Option<String>,
    /// Who exactly says it; of a tool's result, the tool.
    pub name: Option<String>,
}

impl Message {
    /// A message in any role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// The tools that the model called.
    pub fn tool_calls(calls: impl Into<Vec<ToolCall>>) -> Self {
        Self { tool_calls: calls.into(), ..Self::assistant("") }
    }

    /// What a tool returned.
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new(Role::Tool, content)
    }

    /// Sets [`reasoning`](field@Self::reasoning).
    #[must_use]
    pub fn reasoning(self, reasoning: impl Into<String>) -> Self {
        Self { reasoning: Some(reasoning.into()), ..self }
    }

    /// Sets [`tool_call_id`](field@Self::tool_call_id).
    #[must_use]
    pub fn tool_call_id(self, id: impl Into<String>) -> Self {
        Self { tool_call_id: Some(id.into()), ..self }
    }

    /// Sets [`name`](field@Self::name).
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

/// A call of a tool by the model.
///
/// ```
/// use moe_offload::ToolCall;
/// let call = ToolCall::new("add", serde_json::json!({"a": 1, "b": 2})).id("call_1");
/// // Chat APIs write the arguments as a text; both forms are read.
/// let read: ToolCall = serde_json::from_str(
///     r#"{"id": "call_1", "function": {"name": "add", "arguments": "{\"a\": 1, \"b\": 2}"}}"#,
/// )?;
/// assert_eq!(read, call);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "WireCall", into = "WireCall")]
#[non_exhaustive]
pub struct ToolCall {
    /// What its result refers to.
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// Usually an object.
    pub arguments: Value,
}

impl ToolCall {
    /// A call without an id. A text that is JSON counts as what it says; `null` and an empty text
    /// count as an object without fields.
    pub fn new(name: impl Into<String>, arguments: impl Into<Value>) -> Self {
        let arguments = match arguments.into() {
            Value::String(text) if text.is_empty() => Value::Null,
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            value => value,
        };
        let arguments = if arguments.is_null() { serde_json::json!({}) } else { arguments };
        Self { id: None, name: name.into(), arguments }
    }

    /// Sets [`id`](field@Self::id).
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }
}

/// A message as chat APIs write it.
#[derive(Serialize, Deserialize)]
struct Wire {
    role: Role,
    #[serde(default)]
    content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl From<Wire> for Message {
    fn from(wire: Wire) -> Self {
        Self {
            role: wire.role,
            content: wire.content.unwrap_or_default(),
            reasoning: wire.reasoning_content,
            tool_calls: wire.tool_calls.unwrap_or_default(),
            tool_call_id: wire.tool_call_id,
            name: wire.name,
        }
    }
}

impl From<Message> for Wire {
    fn from(message: Message) -> Self {
        let absent = message.content.is_empty() && !message.tool_calls.is_empty();
        Self {
            role: message.role,
            content: (!absent).then_some(message.content),
            reasoning_content: message.reasoning,
            tool_calls: Some(message.tool_calls).filter(|calls| !calls.is_empty()),
            tool_call_id: message.tool_call_id,
            name: message.name,
        }
    }
}

/// A tool call as chat APIs write it, but with the arguments as they are.
#[derive(Serialize, Deserialize)]
struct WireCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default = "function", rename = "type")]
    kind: String,
    function: WireFunction,
}

#[derive(Serialize, Deserialize)]
struct WireFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

fn function() -> String {
    "function".to_owned()
}

impl From<WireCall> for ToolCall {
    fn from(wire: WireCall) -> Self {
        Self { id: wire.id, ..Self::new(wire.function.name, wire.function.arguments) }
    }
}

impl From<ToolCall> for WireCall {
    fn from(call: ToolCall) -> Self {
        let function = WireFunction { name: call.name, arguments: call.arguments };
        Self { id: call.id, kind: self::function(), function }
    }
}

/// Where questions are.
#[cfg(feature = "llama")]
fn questions(messages: &[Message]) -> impl Iterator<Item = usize> {
    let asks = |(_, message): &(usize, &Message)| message.role == Role::User;
    messages.iter().enumerate().filter(asks).map(|(i, _)| i)
}

/// How many turns may be left out, each a question with all that answers it: all but the last.
#[cfg(feature = "llama")]
pub(crate) fn turns_to_drop(messages: &[Message]) -> usize {
    questions(messages).count().saturating_sub(1)
}

/// Without so many of the oldest turns, at most those that may be left out.
#[cfg(feature = "llama")]
pub(crate) fn without_oldest_turns(messages: &[Message], turns: usize) -> Vec<Message> {
    let turns = turns.min(turns_to_drop(messages));
    let Some(first) = questions(messages).next() else { return messages.to_vec() };
    let end = questions(messages).nth(turns).unwrap_or(first);
    let stays = |(i, message): &(usize, &Message)| {
        !(first..end).contains(i) || matches!(message.role, Role::System | Role::Developer)
    };
    messages.iter().enumerate().filter(stays).map(|(_, message)| message.clone()).collect()
}
