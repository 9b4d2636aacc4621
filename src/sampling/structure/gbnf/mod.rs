//! llama.cpp's notation for grammars.

mod words;

use std::collections::HashMap;

use self::words::{NOTHING_TO_REPEAT, hint, no_escape, unusable_grammar, visible};
use super::chars::CharSet;
use super::grammar::{Builder, Expr, Grammar, MAX_ELEMENTS, RuleId};
use crate::error::{Error, Result};

/// Groups nest at most so deeply, as they are read by recursion.
const MAX_DEPTH: usize = 200;
/// Characters of the place of a fault that are told.
const TOLD_CHARACTERS: usize = 30;
/// Repetitions of one thing, one after another.
const MAX_STACKED: usize = 50;

/// A token that a grammar names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) id: i32,
    /// It ends a text.
    pub(crate) is_end: bool,
}

/// The token that a grammar names, as `<text>` or `<[number]>`; `None` if there is none.
pub(crate) type TokenOf<'a> = &'a dyn Fn(&str) -> Option<Named>;

/// What it is called in errors.
pub(super) const KIND: &str = "grammar";
/// A longer text has more elements than are allowed, or says very little with them.
const MAX_BYTES: usize = 16 << 20;

/// Refuses a text that is too long to be read.
pub(super) fn check_size(text: &str) -> Result<()> {
    if text.len() > MAX_BYTES {
        let reason = format!(
            "its text has {} bytes, but at most {} MiB are read; leave out comments and rules that `root` does not need",
            text.len(),
            MAX_BYTES >> 20
        );
        return Err(unusable(reason));
    }
    Ok(())
}

/// Reads a grammar. `token` is asked for tokens named by their text.
pub(super) fn grammar(text: &str, token: TokenOf<'_>) -> Result<Grammar> {
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        builder: Builder::default(),
        rules: HashMap::new(),
        order: Vec::new(),
        ends: Vec::new(),
        token,
    };
    reader.take("\u{feff}"); // some editors put it before a text
    reader.space(true);
    while reader.peek().is_some() {
        reader.rule()?;
    }
    for name in &reader.order {
        if !reader.rules[name].1 {
            return Err(unusable(format!("there is no rule `{name}`")));
        }
    }
    let Some(&(root, _)) = reader.rules.get("root") else {
        return Err(unusable("there is no rule `root`, where it begins".to_owned()));
    };
    let has_end = !reader.ends.is_empty();
    if let Some(end) = has_end.then(|| reader.builder.misplaced_end()).flatten() {
        reader.at = reader.ends[end as usize];
        return reader.fail(
            "this token ends the text, so nothing can come after it; put it at the very end of the grammar, or leave it out, as an answer ends where its grammar does",
        );
    }
    reader.builder.finish(root).map_err(|why| unusable_grammar(why, text))
}

fn unusable(reason: String) -> Error {
    Error::InvalidStructure { what: KIND, reason }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    builder: Builder,
    /// By name, and whether it was defined yet.
    rules: HashMap<&'a str, (RuleId, bool)>,
    order: Vec<&'a str>,
    /// Where tokens that end a text are named.
    ends: Vec<usize>,
    token: TokenOf<'a>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn fail<T>(&self, what: &str) -> Result<T> {
        let line = self.text[..self.at].matches('\n').count() + 1;
        let rest = self.rest().chars().take_while(|&c| c != '\n').take(TOLD_CHARACTERS);
        let rest: String = rest.flat_map(|c| visible(c).collect::<Vec<_>>()).collect();
        let place = if rest.is_empty() { "its end".to_owned() } else { format!("`{rest}`") };
        Err(unusable(format!("line {line}, at {place}: {what}")))
    }

    /// Fails where something else is expected, and says what the character that stands here is not.
    fn fail_expecting<T>(&self, what: &str) -> Result<T> {
        let hint = hint(self.peek(), what);
        self.fail(&format!("expecting {what}{hint}"))
    }

    /// Spaces and comments, and ends of lines where a rule goes on.
    fn space(&mut self, over_lines: bool) {
        loop {
            self.take_while(|c| c == ' ' || c == '\t' || over_lines && (c == '\r' || c == '\n'));
            if self.peek() != Some('#') {
                return;
            }
            self.take_while(|c| c != '\r' && c != '\n');
        }
    }

    fn name(&mut self) -> Result<&'a str> {
        let name = self.take_while(is_of_name);
        if name.is_empty() { self.fail_expecting("the name of a rule") } else { Ok(name) }
    }

    fn id(&mut self, name: &'a str) -> RuleId {
        let (builder, order) = (&mut self.builder, &mut self.order);
        let (id, _) = self.rules.entry(name).or_insert_with(|| {
            order.push(name);
            (builder.rule(), false)
        });
        *id
    }

    fn rule(&mut self) -> Result<()> {
        let name = self.name()?;
        let id = self.id(name);
        if self.rules.insert(name, (id, true)).is_some_and(|(_, is_defined)| is_defined) {
            return self.fail(&format!("the rule `{name}` is defined twice"));
        }
        self.space(false);
        if !self.take("::=") {
            return self.fail_expecting("`::=`");
        }
        self.space(true);
        let expr = self.alternatives(false)?;
        self.builder.define(id, &expr).map_err(|why| unusable_grammar(why, self.text))?;
        if !matches!(self.peek(), None | Some('\r' | '\n')) {
            return self.fail_expecting("the end of the rule, as its line ends");
        }
        self.space(true);
        Ok(())
    }

    fn alternatives(&mut self, nested: bool) -> Result<Expr> {
        let mut all = vec![self.sequence(nested)?];
        while self.take("|") {
            self.space(true);
            all.push(self.sequence(nested)?);
        }
        Ok(Expr::Choice(all))
    }

    fn sequence(&mut self, nested: bool) -> Result<Expr> {
        let mut parts: Vec<Expr> = Vec::new();
        let mut stacked = 0;
        loop {
            let is_repetition = matches!(self.peek(), Some('*' | '+' | '?' | '{'));
            stacked = if is_repetition { stacked + 1 } else { 0 };
            if stacked > MAX_STACKED {
                return self
                    .fail(&format!("more than {MAX_STACKED} repetitions follow each other"));
            }
            let part = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('(') => self.group()?,
                Some('<' | '!') => self.named_token()?,
                Some('.') => {
                    self.next();
                    Expr::Chars(CharSet::any())
                }
                Some('*' | '+' | '?' | '{') => {
                    let Some(unit) = parts.pop() else {
                        return self.fail(NOTHING_TO_REPEAT);
                    };
                    self.repetition(unit, nested)?
                }
                Some(c) if is_of_name(c) => {
                    let name = self.name()?;
                    Expr::Rule(self.id(name))
                }
                _ => return Ok(Expr::Sequence(parts)),
            };
            parts.push(part);
            self.space(nested);
        }
    }

    fn group(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(&format!("more than {MAX_DEPTH} parentheses are open at once"));
        }
        self.next();
        self.space(true);
        let expr = self.alternatives(true)?;
        if !self.take(")") {
            return self.fail_expecting("`)`");
        }
        self.depth -= 1;
        Ok(expr)
    }

    fn literal(&mut self) -> Result<Expr> {
        self.next();
        let mut text = String::new();
        while !self.take("\"") {
            let c = self.char()?;
            match char::from_u32(c) {
                Some(c) => text.push(c),
                None => return self.fail(&format!("before this, {c:#x} is no character")),
            }
        }
        Ok(Expr::Text(text))
    }

    fn class(&mut self) -> Result<Expr> {
        self.next();
        let is_negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let from = self.char()?;
            let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let to = if is_range {
                self.next();
                self.char()?
            } else {
                from
            };
            if from > to {
                return self.fail("the range before this ends before it begins");
            }
            ranges.push((from, to));
        }
        let set = CharSet::of(ranges);
        let set = if is_negated { set.complement() } else { set };
        if set.is_empty() {
            return self.fail("the class before this has no characters");
        }
        Ok(Expr::Chars(set))
    }

    /// A character of a literal or a class, which need not be a scalar value.
    fn char(&mut self) -> Result<u32> {
        let start = self.at;
        let c = match self.next() {
            Some('\\') => match self.next() {
                Some('x') => return self.hex(2),
                Some('u') => return self.hex(4),
                Some('U') => return self.hex(8),
                Some('t') => '\t',
                Some('r') => '\r',
                Some('n') => '\n',
                Some(c @ ('\\' | '"' | '[' | ']' | '-')) => c,
                other => {
                    self.at = start;
                    return self.fail(no_escape(other));
                }
            },
            Some(c) => c,
            None => return self.fail("it ends too early, in a literal or class"),
        };
        Ok(c.into())
    }

    fn hex(&mut self, digits: usize) -> Result<u32> {
        let code = self.rest().get(..digits);
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u32::from_str_radix(code, 16).ok()) {
            Some(code) => {
                self.at += digits;
                Ok(code)
            }
            None => self.fail(&format!("expecting {digits} hexadecimal digits")),
        }
    }

    fn named_token(&mut self) -> Result<Expr> {
        let except = self.take("!");
        let start = self.at;
        if !self.take("<") {
            return self.fail("expecting `<`");
        }
        self.take_while(|c| c != '>');
        if !self.take(">") {
            return self.fail("expecting `>`");
        }
        match (self.token)(&self.text[start..self.at]) {
            Some(Named { is_end: true, .. }) if !except => {
                let end = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
                self.ends.push(start);
                return Ok(Expr::TextEnd(end));
            }
            Some(Named { id, .. }) => return Ok(Expr::Token { id, except }),
            None => self.at = start,
        }
        self.fail("this is no token of the model's vocabulary")
    }

    fn repetition(&mut self, unit: Expr, nested: bool) -> Result<Expr> {
        let (least, most) = match self.next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            _ => self.braces(nested)?,
        };
        // A repetition of a repetition calls a rule, so that a stack of them does not nest.
        let unit = match unit {
            Expr::Repeat(..) => {
                let rule = self.builder.rule_of(&unit);
                Expr::Rule(rule.map_err(|why| unusable_grammar(why, self.text))?)
            }
            one => one,
        };
        Ok(unit.repeat(least, most))
    }

    fn braces(&mut self, nested: bool) -> Result<(usize, Option<usize>)> {
        self.space(nested);
        let least = self.count()?;
        self.space(nested);
        let mut most = Some(least);
        if self.take(",") {
            self.space(nested);
            most = if self.peek() == Some('}') { None } else { Some(self.count()?) };
            self.space(nested);
        }
        if !self.take("}") {
            return self.fail("expecting `,` or `}`");
        }
        if most.is_some_and(|most| most < least) {
            let reason = format!(
                "at least {least} and at most {} times contradict each other",
                most.unwrap_or(0)
            );
            return self.fail(&reason);
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<usize> {
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse() {
            Ok(count) if count <= MAX_ELEMENTS => Ok(count),
            Err(_) if digits.is_empty() => self.fail("expecting a number"),
            _ => self.fail(&format!("{digits} repetitions are too many; at most {MAX_ELEMENTS}")),
        }
    }
}

/// The token of a name that is a number.
pub(crate) fn numbered(name: &str) -> Option<i32> {
    name.strip_prefix("<[")?.strip_suffix("]>")?.parse().ok()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}
