//! Alternatives as rules for JSON texts.

use std::collections::{BTreeMap, HashSet};

use super::alternative::{All, Alternative, Array, Object, Text};
use super::number::Numbers;
use super::{Compiler, format, pattern, unusable_grammar};
use crate::error::Result;
use crate::sampling::structure::chars::CharSet;
use crate::sampling::structure::grammar::{Builder, Expr, RuleId, Unusable};

/// Characters that a JSON string may hold only as an escape, with the letter of a short one.
const SHORT_ESCAPES: [(char, char); 7] = [
    ('"', '"'),
    ('\\', '\\'),
    ('\u{8}', 'b'),
    ('\u{c}', 'f'),
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
];

/// Rules that all schemas use.
pub(super) struct Json {
    space: RuleId,
    /// A character of a string, of any.
    character: RuleId,
    /// The rest of a string of plain characters, with the quotation mark that ends it.
    plain_rest: RuleId,
}

/// What a string may hold as it is.
fn plain() -> CharSet {
    CharSet::of([(0, 0x1F)]).union(&CharSet::of_chars("\"\\")).complement()
}

/// A character of this set, inside a JSON string.
fn in_string(set: &CharSet) -> Expr {
    let mut forms = vec![Expr::Chars(set.intersection(&plain()))];
    let short = SHORT_ESCAPES.iter().filter(|(c, _)| set.contains((*c).into()));
    let letters: String = short.map(|(_, letter)| letter).collect();
    if !letters.is_empty() {
        let letter = Expr::Chars(CharSet::of_chars(&letters));
        forms.push(Expr::Sequence(vec![Expr::text("\\"), letter]));
    } else if set.intersection(&plain()).is_empty() {
        // Others are written only where nothing else will do.
        let controls = (0..0x20).filter(|&c| set.contains(c));
        forms.extend(controls.map(|c| Expr::Text(format!("\\u{c:04x}"))));
    }
    Expr::Choice(forms)
}

/// A text's form, inside a JSON string.
fn quoted(expr: &Expr) -> Expr {
    match expr {
        Expr::Chars(set) => in_string(set),
        Expr::Sequence(parts) => Expr::Sequence(parts.iter().map(quoted).collect()),
        Expr::Choice(parts) => Expr::Choice(parts.iter().map(quoted).collect()),
        Expr::Repeat(unit, least, most) => quoted(unit).repeat(*least, *most),
        other => other.clone(),
    }
}

impl Json {
    pub(super) fn new(builder: &mut Builder) -> Result<Self, Unusable> {
        let blank = Expr::Chars(CharSet::of_chars(" \t"));
        let lines = vec![Expr::text("\n").repeat(1, Some(2)), blank.repeat(0, Some(20))];
        let space = Expr::Choice(vec![Expr::empty(), Expr::text(" "), Expr::Sequence(lines)]);
        let plain_rest = vec![Expr::Chars(plain()).repeat(0, None), Expr::text("\"")];
        Ok(Self {
            space: builder.rule_of(&space)?,
            character: builder.rule_of(&in_string(&CharSet::any()))?,
            plain_rest: builder.rule_of(&Expr::Sequence(plain_rest))?,
        })
    }

    fn space(&self) -> Expr {
        Expr::Rule(self.space)
    }

    fn comma(&self) -> Expr {
        Expr::Sequence(vec![Expr::text(","), self.space()])
    }
}

impl Compiler<'_> {
    /// The texts of an alternative of these schemas.
    pub(super) fn form(
        &mut self,
        json: &Json,
        schemas: &All,
        alternative: &Alternative,
    ) -> Result<Expr> {
        Ok(match alternative {
            Alternative::Null => Expr::text("null"),
            Alternative::Boolean => Expr::Choice(vec![Expr::text("true"), Expr::text("false")]),
            Alternative::Value(value) => Expr::Text(value.to_string()),
            Alternative::Number(numbers) => self.number(schemas, *numbers)?,
            Alternative::Text(text) => self.text(json, schemas, text)?,
            Alternative::Array(array) => self.array_form(json, array),
            Alternative::Object(object) => {
                self.object_form(json, object).map_err(unusable_grammar)?
            }
        })
    }

    fn refuse<T>(&self, schemas: &All, keyword: &str, reason: &str) -> Result<T> {
        let has = |place: &&super::Place<'_>| place.value.get(keyword).is_some();
        let mut places = schemas.iter().map(|&schema| &self.places[schema]);
        let first = places.clone().next();
        match places.find(has).or(first) {
            Some(place) => place.refuse(keyword, reason),
            None => Err(super::unusable(format!("`{keyword}` {reason}"))),
        }
    }

    fn number(&mut self, schemas: &All, numbers: Numbers) -> Result<Expr> {
        if let Some(&rule) = self.number_rules.get(&numbers) {
            return Ok(Expr::Rule(rule));
        }
        let Some(expr) = numbers.expr() else {
            let reason =
                "is too large or too fine for a number of 15 digits, or an integer of 18; round it";
            let [keyword, other] = numbers.hardest();
            let has_other = schemas.iter().any(|&at| self.places[at].value.get(other).is_some());
            return self.refuse(schemas, if has_other { other } else { keyword }, reason);
        };
        let rule = self.builder.rule_of(&expr).map_err(unusable_grammar)?;
        self.number_rules.insert(numbers, rule);
        Ok(Expr::Rule(rule))
    }

    fn text(&mut self, json: &Json, schemas: &All, text: &Text) -> Result<Expr> {
        if let Some(&rule) = self.text_rules.get(text) {
            return Ok(Expr::Rule(rule));
        }
        let expr = self.text_form(json, schemas, text)?;
        let rule = self.builder.rule_of(&expr).map_err(unusable_grammar)?;
        self.text_rules.insert(text.clone(), rule);
        Ok(Expr::Rule(rule))
    }

    fn text_form(&self, json: &Json, schemas: &All, text: &Text) -> Result<Expr> {
        let formats = text.formats.iter().filter_map(|name| format::pattern(name));
        let mut patterns = text.patterns.iter().cloned().chain(formats);
        let content = match (patterns.next(), patterns.next()) {
            (None, _) => Expr::Rule(json.character).repeat(text.least, text.most),
            (Some(found), None) => {
                let expr = match pattern::pattern(&found) {
                    Ok(expr) => expr,
                    Err(reason) => return self.refuse(schemas, "pattern", &reason),
                };
                let Some(expr) = pattern::with_lengths(expr, text.least, text.most) else {
                    let keyword = if text.least > 0 { "minLength" } else { "maxLength" };
                    let reason = if text.formats.is_empty() {
                        "beside `pattern` cannot be enforced here; write the length into the pattern, as `{1,20}`"
                    } else {
                        "beside `format` cannot be enforced; leave it out, or replace `format` by a `pattern` with the length in it"
                    };
                    return self.refuse(schemas, keyword, reason);
                };
                quoted(&expr)
            }
            (Some(_), Some(_)) => {
                return self.refuse(schemas, "pattern", "is one of two patterns or formats for one text, which cannot be enforced together; write one pattern");
            }
        };
        Ok(Expr::Sequence(vec![Expr::text("\""), content, Expr::text("\"")]))
    }

    fn array_form(&mut self, json: &Json, array: &Array) -> Expr {
        let most = array.most.unwrap_or(usize::MAX);
        let described = array.first.len().min(most);
        // As many as are described, even if fewer would do.
        let least = array.least.max(described);
        let may_go_on = array.names_rest || array.first.is_empty();
        let most = if may_go_on { array.most } else { Some(least) };
        let mut parts = Vec::new();
        for index in 0..described {
            if index > 0 {
                parts.push(json.comma());
            }
            parts.push(Expr::Rule(self.rule(array.item(index))));
        }
        let rest = Expr::Rule(self.rule(&array.rest));
        let (mut least, mut most) = (least - described, most.map(|most| most - described));
        let is_optional = described == 0 && least == 0;
        if described == 0 {
            if most == Some(0) {
                return Expr::Sequence(vec![Expr::text("["), json.space(), Expr::text("]")]);
            }
            parts.push(rest.clone());
            (least, most) = (least.saturating_sub(1), most.map(|most| most - 1));
        }
        parts.push(Expr::Sequence(vec![json.comma(), rest]).repeat(least, most));
        parts.push(json.space());
        let items = Expr::Sequence(parts);
        let items = if is_optional { items.optional() } else { items };
        Expr::Sequence(vec![Expr::text("["), json.space(), items, Expr::text("]")])
    }

    /// Properties in their order, those that are optional or not. Two rules for each place tell whether
    /// one was written before, so that commas are where they belong.
    fn object_form(&mut self, json: &Json, object: &Object) -> Result<Expr, Unusable> {
        let declared = object.declared.iter().map(|(name, schemas)| (&**name, schemas));
        let known: HashSet<&str> = object.declared.iter().map(|(name, _)| &**name).collect();
        let undeclared = object.required.iter().filter(|name| !known.contains(&***name));
        let all: Vec<(&str, &All)> =
            declared.chain(undeclared.map(|name| (&**name, &object.others))).collect();
        let ends = Expr::text("}");
        let mut begun = Expr::Sequence(vec![json.space(), ends.clone()]);
        let mut fresh = ends;
        if object.is_open() {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let other = self.others(json, &names, &object.others)?;
            let more = Expr::Sequence(vec![json.comma(), other.clone()]).repeat(0, None);
            begun = Expr::Sequence(vec![more, begun]);
            fresh = Expr::Choice(vec![Expr::Sequence(vec![other, begun.clone()]), fresh]);
        }
        let mut begun = self.builder.rule_of(&begun)?;
        let mut fresh = self.builder.rule_of(&fresh)?;
        for (name, schemas) in all.into_iter().rev() {
            let value = self.rule(schemas);
            let name_text = Expr::Text(serde_json::Value::from(name).to_string());
            let colon = Expr::text(":");
            let pair = vec![name_text, colon, json.space(), Expr::Rule(value)];
            let pair = Expr::Rule(self.builder.rule_of(&Expr::Sequence(pair))?);
            let then = Expr::Rule(begun);
            let mut if_begun = vec![Expr::Sequence(vec![json.comma(), pair.clone(), then.clone()])];
            let mut if_fresh = vec![Expr::Sequence(vec![pair, then.clone()])];
            if !object.required.contains(name) {
                if_begun.push(then);
                if_fresh.push(Expr::Rule(fresh));
            }
            begun = self.builder.rule_of(&Expr::Choice(if_begun))?;
            fresh = self.builder.rule_of(&Expr::Choice(if_fresh))?;
        }
        Ok(Expr::Sequence(vec![Expr::text("{"), json.space(), Expr::Rule(fresh)]))
    }

    /// A property of another name than these, in plain characters.
    fn others(&mut self, json: &Json, names: &[&str], schemas: &All) -> Result<Expr, Unusable> {
        let value = Expr::Rule(self.rule(schemas));
        let key = self.other_key(json, names)?;
        let pair = [Expr::text("\""), Expr::Rule(key), Expr::text(":"), json.space(), value];
        Ok(Expr::Rule(self.builder.rule_of(&Expr::Sequence(pair.into()))?))
    }

    /// The rest of a key that is none of these names: a rule for each beginning of a name.
    fn other_key(&mut self, json: &Json, names: &[&str]) -> Result<RuleId, Unusable> {
        let mut beginnings: Vec<(BTreeMap<char, usize>, bool)> = vec![(BTreeMap::new(), false)];
        for name in names {
            let mut at = 0;
            for c in name.chars() {
                let next = beginnings.len();
                at = *beginnings[at].0.entry(c).or_insert(next);
                if at == next {
                    beginnings.push((BTreeMap::new(), false));
                }
            }
            beginnings[at].1 = true;
        }
        let rules: Vec<RuleId> = beginnings.iter().map(|_| self.builder.rule()).collect();
        for ((next, is_name), rule) in beginnings.iter().zip(&rules) {
            let known: String = next.keys().collect();
            let other = plain().without(&CharSet::of_chars(&known));
            let mut forms =
                vec![Expr::Sequence(vec![Expr::Chars(other), Expr::Rule(json.plain_rest)])];
            if !is_name {
                forms.push(Expr::text("\""));
            }
            for (c, next) in next {
                let c = CharSet::one(*c).intersection(&plain());
                forms.push(Expr::Sequence(vec![Expr::Chars(c), Expr::Rule(rules[*next])]));
            }
            self.builder.define(*rule, &Expr::Choice(forms))?;
        }
        Ok(rules[0])
    }
}
