//! The environment that published templates expect, that of Hugging Face transformers, within
//! bounds: a template comes with a model file, from anyone.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::python;

/// Work that a template may do in any case: about as many steps, or 64 bytes of text for each.
const BASE_FUEL: u64 = 200_000;
/// Work for each message; published templates take up to 300 steps.
const FUEL_PER_MESSAGE: u64 = 2_000;
/// Most work. It also bounds how deeply a template can nest values.
const MAX_FUEL: u64 = 2_000_000;
/// Templates are compiled and rendered on a stack of their own: the engine's recursion follows
/// the nesting of expressions and values, which a hostile template can drive up to its fuel. The
/// memory is only reserved.
const STACK_BYTES: usize = if cfg!(target_pointer_width = "64") { 1 << 30 } else { 64 << 20 };
/// Most nesting: a macro call costs 4, an include 10, a loop or block 1. It is the most that the
/// engine allows without growing the stack by itself. A published template follows a tool's
/// parameters by two macro calls for each level.
const MAX_RECURSION: usize = 500;

/// What a template said by `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment with everything but the template, the clock and the conversation.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(method);
    env.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&python::str(state, value)?).map_err(Error::from),
    });
    env.add_filter("tojson", python::tojson);
    env.add_filter("indent", python::indent);
    env.add_filter("string", |state: &mut State, value: &Value| python::str(state, value));
    env.add_test("iterable", is_iterable);
    env.add_function("raise_exception", raise_exception);
    Ok(env)
}

/// `none` is not, other than for the engine.
fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Methods of Python's types. Some could do work out of proportion to what the engine charges for,
/// which is the size of the result.
fn method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(glue), "join") => return join(state, glue, arguments),
        (Some(text), "replace") => charge_replace(state, text, arguments)?,
        (Some(text), "format") => charge_format(state, text, arguments)?,
        (None, "count") if !arguments.iter().all(is_scalar) => {
            return Err(refused("count() of lists or maps"));
        }
        _ => state.consume_fuel(value.len().unwrap_or(0) as u64 / 16)?,
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// Takes only texts, as Python's does.
fn join(state: &State, glue: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(arguments)?;
    let mut out = String::new();
    for (i, value) in values.try_iter()?.checked().enumerate() {
        let value = value?;
        let text = value.as_str().ok_or_else(|| refused("join() of other things than texts"))?;
        state.consume_fuel(1 + (glue.len() + text.len()) as u64 / 64)?;
        if i > 0 {
            out += glue;
        }
        out += text;
    }
    Ok(Value::from(out))
}

fn charge_replace(state: &State, text: &str, arguments: &[Value]) -> Result<(), Error> {
    let size = |i: usize| arguments.get(i).and_then(Value::as_str).map_or(0, str::len);
    let places = text.len().checked_div(size(0)).unwrap_or(text.len()) + 1;
    let most = text.len().saturating_add(places.saturating_mul(size(1)));
    state.consume_fuel(most as u64 / 64)
}

/// Widths are refused beyond three digits, and what is formatted must have a bounded text.
fn charge_format(state: &State, text: &str, arguments: &[Value]) -> Result<(), Error> {
    let long = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3);
    if long || !arguments.iter().all(is_scalar) {
        return Err(refused("format() of lists or maps, or with a width over 999"));
    }
    let longest = arguments.iter().filter_map(Value::len).max().unwrap_or(0) + 1000;
    let fields = text.matches('{').count() as u64;
    state.consume_fuel(fields.saturating_mul(longest as u64) / 16)
}

fn is_scalar(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::String
    )
}

fn refused(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} is not supported"))
}

/// `{% generation %}` marks what the model says, for training; here it only groups.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out += before;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[2..end];
        let name = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match name {
            "generation" => out += &["{%", &inner.replace("generation", "with"), "%}"].concat(),
            "endgeneration" => {
                out += &["{%", &inner.replace("endgeneration", "endwith"), "%}"].concat();
            }
            _ => out += &tag[..end + 2],
        }
        rest = &tag[end + 2..];
    }
    out + rest
}

/// What a template may do with a conversation.
pub(super) fn fuel(messages: usize, bytes: usize) -> u64 {
    let input = (messages as u64).saturating_mul(FUEL_PER_MESSAGE).saturating_add(bytes as u64);
    BASE_FUEL.saturating_add(input).min(MAX_FUEL)
}

/// Runs `work` where deep recursion does no harm.
pub(super) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let result = thread.spawn_scoped(scope, work)?.join();
        result.or_else(|panic| std::panic::resume_unwind(panic))
    })
}
