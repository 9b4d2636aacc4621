//! Values as Python writes them, which the models were trained on: `json.dumps`, `str`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Python gives up at about a thousand; templates and tools have a few.
const MAX_DEPTH: usize = 100;

/// The filter, with the options of Hugging Face transformers.
#[allow(clippy::needless_pass_by_value)] // as the engine calls filters
pub(super) fn tojson(state: &mut State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if !indent.is_none() => Some(indentation(&indent)?),
        _ => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(failed("separators must be two texts")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { state, out: String::new(), indent, item, key, ascii, sort };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// The filter: all lines but the first and the blank ones, unless asked. It keeps the line break at
/// the end, unlike the engine's own.
#[allow(clippy::needless_pass_by_value)] // as the engine calls filters
pub(super) fn indent(
    state: &mut State,
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = width.map_or_else(|| options.get("width"), |width| Ok(Some(width)))?;
    let step = width.map_or_else(|| Ok(" ".repeat(4)), |width| indentation(&width))?;
    let first = first.map_or_else(|| options.get("first"), |first| Ok(Some(first)))?;
    let blank: Option<bool> = options.get("blank")?;
    options.assert_all_used()?;
    let lines = text.replace("\r\n", "\n");
    let lines: Vec<&str> = lines.split(['\n', '\r']).collect();
    let most = text.len().saturating_add(lines.len().saturating_mul(step.len()));
    state.consume_fuel(most as u64 / 64)?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let indented = match i {
            0 => first.unwrap_or(false),
            _ => blank.unwrap_or(false) || !line.is_empty(),
        };
        out += if i > 0 { "\n" } else { "" };
        out += if indented { &step } else { "" };
        out += line;
    }
    Ok(out)
}

fn indentation(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(usize::try_from(value.clone())?.min(64))),
    }
}

fn failed(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

struct Writer<'a, 's, 'env> {
    state: &'a State<'s, 'env>,
    out: String,
    /// One step of indentation; `None` for all on one line.
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        // A small value can stand for an exponentially large text.
        let before = self.out.len();
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(failed("a value for tojson is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out += &number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => return Err(failed(format!("a value of kind {kind} is not JSON serializable"))),
        }
        self.state.consume_fuel((self.out.len() - before) as u64 / 64)
    }

    fn list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in list.try_iter()?.checked() {
            self.separate(&mut empty, depth);
            self.value(&item?, depth + 1)?;
        }
        self.close(empty, depth);
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('{');
        let mut keys: Vec<Value> = map.try_iter()?.checked().collect::<Result<_, _>>()?;
        if self.sort {
            keys.sort();
        }
        let mut empty = true;
        for key in keys {
            self.separate(&mut empty, depth);
            match key.kind() {
                ValueKind::String => self.text(key.as_str().unwrap_or_default()),
                ValueKind::Number => self.text(&number(&key)),
                ValueKind::Bool => self.text(if key.is_true() { "true" } else { "false" }),
                ValueKind::None => self.text("null"),
                kind => {
                    return Err(failed(format!("a key of kind {kind} is not JSON serializable")));
                }
            }
            self.out += &self.key;
            self.value(&map.get_item(&key)?, depth + 1)?;
        }
        self.close(empty, depth);
        self.out.push('}');
        Ok(())
    }

    fn separate(&mut self, empty: &mut bool, depth: usize) {
        if !std::mem::replace(empty, false) {
            self.out += &self.item;
        }
        self.new_line(depth + 1);
    }

    fn close(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(step) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(step));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                letter if letter < ' ' || (self.ascii && letter >= '\u{7f}') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> String {
    python_float(value).unwrap_or_else(|| value.to_string())
}

/// `None` for other values than floats.
fn python_float(value: &Value) -> Option<String> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok().filter(|float| float.is_finite()).map(float)
}

/// A finite number as Python's `repr` writes it: `1e+16`, `1e-05`.
pub(super) fn float(float: f64) -> String {
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, power)) => {
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
    }
}

/// As Python's `str`: a text as it is, everything else as its `repr`.
pub(super) fn str(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    if value.is_undefined() {
        return Ok(out);
    }
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => repr(state, value, 0, &mut out)?,
    }
    Ok(out)
}

fn repr(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    // A small value can stand for an exponentially large text.
    state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
    if depth > MAX_DEPTH {
        return Err(failed("a value to be written is nested too deeply"));
    }
    let (open, close) = match value.kind() {
        ValueKind::Map if value.is_kwargs() => return Err(failed("arguments cannot be written")),
        ValueKind::Map => ("{", "}"),
        ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => ("(", ")"),
        ValueKind::Seq | ValueKind::Iterable => ("[", "]"),
        ValueKind::Number => {
            *out += &number(value);
            return Ok(());
        }
        _ => {
            let _ = write!(out, "{value:?}");
            return Ok(());
        }
    };
    *out += open;
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let item = item?;
        *out += if i > 0 { ", " } else { "" };
        repr(state, &item, depth + 1, out)?;
        if open == "{" {
            *out += ": ";
            repr(state, &value.get_item(&item)?, depth + 1, out)?;
        }
    }
    *out += close;
    Ok(())
}
