//! [`ChatTemplate`]: from messages to the text that the model was trained on.

use std::collections::BTreeMap;
use std::time::SystemTime;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::forms::{self, Form};
use super::jinja::{self, Raised};
use super::{Message, clock, left_out};
use crate::error::{Error, Result, TemplateFault};
use crate::gguf::{self, GgufFile};

/// Larger ones are refused; published templates have up to 30 kB.
const MAX_SOURCE_BYTES: usize = 128 << 10;

/// Token texts that templates use, and the metadata that names the token.
const TOKENS: [(&str, &str); 6] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];

/// What a template is given anyway, under these names.
const GIVEN: [&str; 4] = ["messages", "tools", "add_generation_prompt", "strftime_now"];

/// What a chat template is given besides the messages.
///
/// ```
/// use moe_offload::TemplateOptions;
/// let options = TemplateOptions::default()
///     .tool(serde_json::json!({"type": "function", "function": {"name": "now"}}))
///     .variable("enable_thinking", false);
/// assert!(options.generation_prompt);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TemplateOptions {
    /// The tools that the model may call, as chat APIs describe them.
    pub tools: Vec<Value>,
    /// Whether the text ends where the model's answer begins.
    pub generation_prompt: bool,
    /// What a template may ask for by name, such as `enable_thinking` or `reasoning_effort`; not what it is
    /// given anyway (`messages`, `tools`, `add_generation_prompt` and `strftime_now`).
    pub variables: BTreeMap<String, Value>,
    /// The time that templates are told, in UTC; `None` for the time at which it is asked for.
    pub now: Option<SystemTime>,
}

impl Default for TemplateOptions {
    fn default() -> Self {
        Self { tools: Vec::new(), generation_prompt: true, variables: BTreeMap::new(), now: None }
    }
}

impl TemplateOptions {
    /// Adds a tool that the model may call.
    #[must_use]
    pub fn tool(mut self, tool: impl Into<Value>) -> Self {
        self.tools.push(tool.into());
        self
    }

    /// Sets a variable of the template.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Checks the names of the variables, as every use of them does.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for one that no template can ask for, or that has another meaning.
    pub fn validate(&self) -> Result<()> {
        let is_name = |name: &str| {
            let mut letters = name.chars();
            letters.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && letters.all(|c| c == '_' || c.is_alphanumeric())
        };
        for name in self.variables.keys() {
            let expected = if GIVEN.contains(&name.as_str()) {
                "another name: templates are given this one by the conversation itself (`tools` and `generation_prompt` are options of their own)"
            } else if is_name(name) {
                continue;
            } else {
                "a name of letters, digits and `_`"
            };
            let (option, value) = ("a variable of the template", format!("`{name}`"));
            return Err(Error::InvalidOption { option, value, expected });
        }
        Ok(())
    }

    /// Sets [`generation_prompt`](field@Self::generation_prompt).
    #[must_use]
    pub fn generation_prompt(self, generation_prompt: bool) -> Self {
        Self { generation_prompt, ..self }
    }

    /// Sets [`now`](field@Self::now).
    #[must_use]
    pub fn now(self, now: SystemTime) -> Self {
        Self { now: Some(now), ..self }
    }
}

/// A model's own chat template, a Jinja program, rendered as Hugging Face transformers does.
///
/// Since it comes with the model file, its steps, the size of what it writes, its recursion and its
/// stack are bounded. One thing is not: a template made to attack can nest lists so that turning
/// them into a text (`~`, `upper`, `join` and the like) takes all memory. Use files that you trust.
///
/// ```
/// use moe_offload::{ChatTemplate, Message};
/// let template = ChatTemplate::new(
///     "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}\
///      {% if add_generation_prompt %}<assistant>{% endif %}",
/// )?;
/// let prompt = template.render(&[Message::user("Hello")], &Default::default())?;
/// assert_eq!(prompt, "<user>Hello<assistant>");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The template has a form of its own for conversations with tools.
    for_tools: bool,
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// A template of this text. `bos_token` and the like are empty; see
    /// [`ChatTemplate::token`].
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it does not parse.
    pub fn new(source: &str) -> Result<Self> {
        let environment = jinja::environment().map_err(|error| fault(&error))?;
        let mut template = Self { environment, for_tools: false, tokens: BTreeMap::new() };
        template.add("default", source)?;
        Ok(template)
    }

    /// The template that a model file carries, with the texts of its special tokens. If there is
    /// one for tools as well (`tool_use`), it is used where tools are given.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is none, or an empty one; as [`ChatTemplate::new`].
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self> {
        let mut template = Self::new(source(gguf, None)?)?;
        if let Ok(source) = source(gguf, Some("tool_use")) {
            template.add("tool_use", source)?;
            template.for_tools = true;
        }
        template.add_tokens(gguf);
        Ok(template)
    }

    /// One of the named templates that some model files carry, such as `rag`
    /// (`tokenizer.chat_template.rag`).
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`].
    pub fn named(gguf: &GgufFile, name: &str) -> Result<Self> {
        let mut template = Self::new(source(gguf, Some(name))?)?;
        template.add_tokens(gguf);
        Ok(template)
    }

    /// Sets the text of a special token, such as `bos_token`.
    #[must_use]
    pub fn token(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.tokens.insert(name.into(), text.into());
        self
    }

    /// The messages as one text.
    ///
    /// Templates differ in how they want tool calls: the arguments as an object or as a text, the
    /// absent content as `null` or as empty. They are tried in this order. Content that is absent is
    /// never written out as `None` or `null` where the template has a form without.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with what the template itself raised, where it failed, that it
    /// takes too long, or that it leaves out the question with which the conversation ends; as
    /// [`TemplateOptions::validate`].
    pub fn render(&self, messages: &[Message], options: &TemplateOptions) -> Result<String> {
        options.validate()?;
        let text = self.text_of(messages, options)?;
        if left_out::leaves_out_question(messages, &text, |other| self.text_of(other, options)) {
            return Err(Error::ChatTemplate { fault: TemplateFault::WithoutQuestion });
        }
        Ok(text)
    }

    /// The messages, by their index, whose words have no part in the conversation's text: instructions for which a
    /// template has no place, say. Of messages without words there are none.
    ///
    /// ```
    /// use moe_offload::{ChatTemplate, Message};
    /// let template = ChatTemplate::new("{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}")?;
    /// let talk = [Message::system("Be brief."), Message::user("Hello")];
    /// assert_eq!(template.left_out(&talk, &Default::default())?, [0]);
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], but for a question that is left out.
    pub fn left_out(&self, messages: &[Message], options: &TemplateOptions) -> Result<Vec<usize>> {
        options.validate()?;
        let text = self.text_of(messages, options)?;
        Ok(left_out::left_out(messages, &text, |messages| self.text_of(messages, options)))
    }

    /// Whether the template may ask for a variable of this name; see [`TemplateOptions::variables`].
    ///
    /// ```
    /// use moe_offload::ChatTemplate;
    /// let template = ChatTemplate::new("{% if enable_thinking %}<think>{% endif %}")?;
    /// assert!(template.asks_for("enable_thinking"));
    /// assert!(!template.asks_for("enable_thinkin"));
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    pub fn asks_for(&self, variable: &str) -> bool {
        let asks = |name: &str| {
            let find = || Ok(self.environment.get_template(name)?.undeclared_variables(false));
            // What cannot be found out is no reason to deny it.
            deep(find).map_or(true, |names| names.contains(variable))
        };
        asks("default") || (self.for_tools && asks("tool_use"))
    }

    fn text_of(&self, messages: &[Message], options: &TemplateOptions) -> Result<String> {
        let calls = messages.iter().any(|message| !message.tool_calls.is_empty());
        let messages = serde_json::to_value(messages).unwrap_or_default();
        if !calls {
            return self.render_json(&messages, options);
        }
        let attempt = |form: Form| {
            let text = self.render_json(&form.apply(&messages), options)?;
            Ok(self.without_absent(text, form, &messages, options))
        };
        let [first, others @ ..] = Form::ALL;
        attempt(first)
            .or_else(|error| others.into_iter().find_map(|form| attempt(form).ok()).ok_or(error))
    }

    /// The text, or the one with empty content if the template wrote out that there is none.
    fn without_absent(
        &self,
        text: String,
        form: Form,
        messages: &Value,
        options: &TemplateOptions,
    ) -> String {
        let count = forms::count_absent(&text);
        let Some(empty) = form.with_empty_content().filter(|_| count > 0) else { return text };
        match self.render_json(&empty.apply(messages), options) {
            Ok(other) if forms::count_absent(&other) < count => other,
            _ => text,
        }
    }

    fn render_json(&self, messages: &Value, options: &TemplateOptions) -> Result<String> {
        let mut context: BTreeMap<String, Jinja> = BTreeMap::new();
        let tokens = self.tokens.iter().map(|(name, text)| (name.clone(), Jinja::from(text)));
        context.extend(tokens);
        let variables = options.variables.iter();
        context.extend(variables.map(|(name, value)| (name.clone(), Jinja::from(Serde(value)))));
        let tools = Some(&options.tools).filter(|tools| !tools.is_empty());
        context.insert("messages".into(), Jinja::from(Serde(messages)));
        context.insert("tools".into(), Jinja::from(Serde(tools)));
        context.entry("documents".into()).or_insert(Jinja::from(()));
        context.insert("add_generation_prompt".into(), options.generation_prompt.into());
        let now = options.now;
        context.insert(
            "strftime_now".into(),
            Jinja::from_function(move |format: String| {
                let time = now.unwrap_or_else(SystemTime::now);
                clock::strftime(time, &format).map_err(|letter| {
                    let reason = format!("strftime_now does not know %{letter}");
                    minijinja::Error::new(ErrorKind::InvalidOperation, reason)
                })
            }),
        );
        let bytes =
            messages.to_string().len() + serde_json::to_string(options).map_or(0, |s| s.len());
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(jinja::fuel(messages.as_array().map_or(0, Vec::len), bytes)));
        let name = if self.for_tools && tools.is_some() { "tool_use" } else { "default" };
        deep(|| environment.get_template(name)?.render(Jinja::from(context)))
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        if source.len() > MAX_SOURCE_BYTES {
            let fault = TemplateFault::TooLarge { bytes: source.len(), max: MAX_SOURCE_BYTES };
            return Err(Error::ChatTemplate { fault });
        }
        let source = jinja::without_generation_tags(source);
        deep(|| self.environment.add_template_owned(name, source))
    }

    fn add_tokens(&mut self, gguf: &GgufFile) {
        let words = gguf.metadata().get("tokenizer.ggml.tokens").and_then(gguf::Value::as_array);
        for (name, key) in TOKENS {
            let id = gguf.metadata().get(key).and_then(gguf::Value::as_u64);
            let id = id.and_then(|id| usize::try_from(id).ok());
            let word = words.zip(id).and_then(|(words, id)| words.iter().nth(id));
            if let Some(word) = word.as_ref().and_then(gguf::Value::as_str) {
                self.tokens.insert(name.to_owned(), word.to_owned());
            }
        }
    }
}

fn source<'a>(gguf: &'a GgufFile, name: Option<&str>) -> Result<&'a str> {
    let mut key = "tokenizer.chat_template".to_owned();
    if let Some(name) = name {
        key = format!("{key}.{name}");
    }
    let text = gguf.metadata().get(&key).and_then(gguf::Value::as_str);
    // One of white space would make every conversation empty.
    text.filter(|text| !text.trim().is_empty()).ok_or(Error::NoChatTemplate)
}

/// Runs the template engine.
fn deep<T: Send>(work: impl FnOnce() -> Result<T, minijinja::Error> + Send) -> Result<T> {
    match jinja::on_deep_stack(|| work().map_err(|error| fault(&error))) {
        Ok(result) => result,
        Err(source) => {
            let reason = format!("there is no memory for its stack: {source}");
            Err(Error::ChatTemplate { fault: TemplateFault::Failed { line: None, reason } })
        }
    }
}

/// What went wrong in the template's own terms.
fn fault(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut innermost = error;
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return Error::ChatTemplate {
                fault: TemplateFault::Raised { message: message.clone() },
            };
        }
        if let Some(current) = current.downcast_ref::<minijinja::Error>() {
            innermost = current;
        }
        cause = current.source();
    }
    let line = innermost.line().or(error.line());
    let reason = innermost.detail().map_or_else(|| innermost.kind().to_string(), str::to_owned);
    let fault = match innermost.kind() {
        ErrorKind::OutOfFuel => TemplateFault::TooMuchWork,
        ErrorKind::SyntaxError => TemplateFault::Syntax { line, reason },
        _ => TemplateFault::Failed { line, reason },
    };
    Error::ChatTemplate { fault }
}
