//! Regular expressions of JSON Schema (ECMA 262), as far as they say what a whole text looks like.

use regex_syntax::ast::{
    AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem, GroupKind,
    HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange, Span,
    SpecialLiteralKind, parse::ParserBuilder,
};
use regex_syntax::hir::{Class, HirKind};

use super::escapes::Source;
use super::simplify::simplified;
use crate::sampling::structure::chars::CharSet;
use crate::sampling::structure::grammar::Expr;

/// Groups nest at most so deeply.
const MAX_DEPTH: u32 = 50;

type Read<T> = Result<T, String>;

/// The texts that a pattern finds itself in, as an expression for the whole text.
pub(super) fn pattern(text: &str) -> Read<Expr> {
    let source = Source::of(text)?;
    let parsed = ParserBuilder::new().nest_limit(MAX_DEPTH).build().parse(source.text());
    let ast = parsed.map_err(|error| source.fault(&error))?;
    let pattern = Pattern { source: &source, is_negated: false };
    Ok(simplified(Expr::Choice(pattern.branches(&ast)?)))
}

/// A pattern that is an alternative by itself: between `^` and `$`, or with anything around it.
fn anywhere(parts: Vec<Expr>, begins: bool, ends: bool) -> Expr {
    let any = || Expr::Chars(CharSet::any()).repeat(0, None);
    let before = (!begins).then(any);
    let after = (!ends).then(any);
    Expr::Sequence(before.into_iter().chain(parts).chain(after).collect())
}

struct Pattern<'a> {
    source: &'a Source,
    /// Inside of `[^…]`.
    is_negated: bool,
}

impl Pattern<'_> {
    /// Each alternative with its own anchors.
    fn branches(&self, ast: &Ast) -> Read<Vec<Expr>> {
        let one;
        let mut parts = match ast {
            Ast::Alternation(alternation) => {
                let branches = alternation.asts.iter().map(|ast| self.branches(ast));
                return Ok(branches.collect::<Read<Vec<_>>>()?.into_iter().flatten().collect());
            }
            Ast::Group(group) if is_plain(&group.kind) => return self.branches(&group.ast),
            Ast::Concat(concat) => &concat.asts[..],
            other => {
                one = std::slice::from_ref(other);
                one
            }
        };
        let is_anchor = |ast: Option<&Ast>, kind: AssertionKind| matches!(ast, Some(Ast::Assertion(found)) if found.kind == kind);
        let begins = is_anchor(parts.first(), AssertionKind::StartLine);
        parts = &parts[usize::from(begins)..];
        let ends = is_anchor(parts.last(), AssertionKind::EndLine);
        parts = &parts[..parts.len() - usize::from(ends)];
        let exprs = parts.iter().map(|ast| self.expr(ast)).collect::<Read<_>>()?;
        Ok(vec![anywhere(exprs, begins, ends)])
    }

    fn expr(&self, ast: &Ast) -> Read<Expr> {
        Ok(match ast {
            Ast::Empty(_) => Expr::empty(),
            Ast::Literal(literal) => Expr::Chars(CharSet::one(self.literal(literal)?)),
            Ast::Dot(_) => Expr::Chars(CharSet::of_chars("\n\r\u{2028}\u{2029}").complement()),
            Ast::ClassPerl(class) => Expr::Chars(self.perl(class)),
            Ast::ClassUnicode(class) => Expr::Chars(self.unicode(class.span)?),
            Ast::ClassBracketed(class) => {
                let text = self.text(class.span);
                if text.starts_with("[]") || text.starts_with("[^]") {
                    return Err("holds a class that begins with `]`; write `\\]`".to_owned());
                }
                let inside = Self { source: self.source, is_negated: class.negated };
                let set = inside.set(&class.kind)?;
                Expr::Chars(if class.negated { set.complement() } else { set })
            }
            Ast::Repetition(repetition) => {
                if let Ast::Repetition(_) = *repetition.ast {
                    let twice = self.text(repetition.span);
                    return Err(format!(
                        "repeats twice in `{twice}`; put the inner part into `(…)`"
                    ));
                }
                let (least, most) = self.bounds(&repetition.op.kind, repetition.op.span)?;
                self.expr(&repetition.ast)?.repeat(least, most)
            }
            Ast::Group(group) if is_plain(&group.kind) => self.expr(&group.ast)?,
            Ast::Alternation(alternation) => Expr::Choice(
                alternation.asts.iter().map(|ast| self.expr(ast)).collect::<Read<_>>()?,
            ),
            Ast::Concat(concat) => {
                Expr::Sequence(concat.asts.iter().map(|ast| self.expr(ast)).collect::<Read<_>>()?)
            }
            Ast::Assertion(found) => {
                let anchor = self.source.shown(found.span);
                return Err(format!(
                    "holds {anchor}; only `^` at the beginning and `$` at the end can be enforced"
                ));
            }
            other => return Err(self.cannot(*other.span())),
        })
    }

    fn text(&self, span: Span) -> &str {
        &self.source.text()[span.start.offset..span.end.offset]
    }

    fn cannot(&self, span: Span) -> String {
        format!(
            "holds {}, which cannot be enforced; write what the text looks like without it",
            self.source.shown(span)
        )
    }

    fn bounds(&self, kind: &RepetitionKind, span: Span) -> Read<(usize, Option<usize>)> {
        if self.text(span).contains(char::is_whitespace) {
            return Err(self.cannot(span));
        }
        Ok(match kind {
            RepetitionKind::ZeroOrOne => (0, Some(1)),
            RepetitionKind::ZeroOrMore => (0, None),
            RepetitionKind::OneOrMore => (1, None),
            RepetitionKind::Range(RepetitionRange::Exactly(n)) => (*n as usize, Some(*n as usize)),
            RepetitionKind::Range(RepetitionRange::AtLeast(n)) => (*n as usize, None),
            RepetitionKind::Range(RepetitionRange::Bounded(n, m)) => {
                (*n as usize, Some(*m as usize))
            }
        })
    }

    fn literal(&self, literal: &Literal) -> Read<char> {
        match &literal.kind {
            LiteralKind::Verbatim
            | LiteralKind::Meta
            | LiteralKind::Superfluous
            | LiteralKind::HexFixed(HexLiteralKind::X | HexLiteralKind::UnicodeShort)
            | LiteralKind::Special(
                SpecialLiteralKind::FormFeed
                | SpecialLiteralKind::Tab
                | SpecialLiteralKind::LineFeed
                | SpecialLiteralKind::CarriageReturn
                | SpecialLiteralKind::VerticalTab,
            ) => Ok(literal.c),
            _ => Err(self.cannot(literal.span)),
        }
    }

    fn set(&self, set: &ClassSet) -> Read<CharSet> {
        match set {
            ClassSet::Item(item) => self.item(item),
            ClassSet::BinaryOp(op) => Err(self.cannot(op.span)),
        }
    }

    fn item(&self, item: &ClassSetItem) -> Read<CharSet> {
        Ok(match item {
            ClassSetItem::Empty(_) => CharSet::default(),
            ClassSetItem::Literal(literal) => CharSet::one(self.literal(literal)?),
            ClassSetItem::Range(range) => {
                let (from, to) = (self.literal(&range.start)?, self.literal(&range.end)?);
                CharSet::of([(from.into(), to.into())])
            }
            ClassSetItem::Perl(class) => self.perl(class),
            ClassSetItem::Unicode(class) => self.unicode(class.span)?,
            ClassSetItem::Union(union) => {
                let sets = union.items.iter().map(|item| self.item(item));
                let sets = sets.collect::<Read<Vec<_>>>()?;
                CharSet::of(sets.iter().flat_map(CharSet::ranges).copied())
            }
            ClassSetItem::Ascii(class) => return Err(self.cannot(class.span)),
            ClassSetItem::Bracketed(class) => return Err(self.cannot(class.span)),
        })
    }

    /// `\d`, `\s` and `\w` as ECMA 262 has them. Of white space, what all dialects agree on: the set
    /// is wide where it is taken away, by `\S` or by `[^…]`.
    fn perl(&self, class: &ClassPerl) -> CharSet {
        let set = match class.kind {
            ClassPerlKind::Digit => CharSet::of([(0x30, 0x39)]),
            ClassPerlKind::Word => {
                CharSet::of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
            }
            ClassPerlKind::Space if class.negated != self.is_negated => CharSet::of(ANY_SPACE),
            ClassPerlKind::Space => CharSet::of_chars(SPACE),
        };
        if class.negated { set.complement() } else { set }
    }

    /// `\p{…}`, by the tables of Unicode.
    fn unicode(&self, span: Span) -> Read<CharSet> {
        let text = self.text(span);
        let name = text.get(3..text.len() - 1).filter(|_| text.contains('{'));
        let class =
            name.filter(|name| is_property(name)).and_then(|_| regex_syntax::parse(text).ok());
        match class.map(regex_syntax::hir::Hir::into_kind) {
            Some(HirKind::Class(Class::Unicode(class))) => {
                let ranges = class.ranges().iter();
                Ok(CharSet::of(ranges.map(|range| (range.start().into(), range.end().into()))))
            }
            _ => Err(self.cannot(span)),
        }
    }
}

/// Names of `\p{…}` that ECMA 262 and the tables here have alike.
fn is_property(name: &str) -> bool {
    let script = ["Script=", "sc=", "Script_Extensions=", "scx="]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    let category = ["General_Category=", "gc="].iter().find_map(|prefix| name.strip_prefix(prefix));
    match script {
        Some(script) => SCRIPTS.contains(&script),
        None => CATEGORIES.contains(&category.unwrap_or(name)),
    }
}

/// Without those that hold code points that stand for no character, or for none yet.
#[rustfmt::skip]
const CATEGORIES: [&str; 67] = [
    "L", "Letter", "LC", "Cased_Letter", "Lu", "Uppercase_Letter", "Ll", "Lowercase_Letter",
    "Lt", "Titlecase_Letter", "Lm", "Modifier_Letter", "Lo", "Other_Letter",
    "M", "Mark", "Mn", "Nonspacing_Mark", "Mc", "Spacing_Mark", "Me", "Enclosing_Mark",
    "N", "Number", "Nd", "Decimal_Number", "Nl", "Letter_Number", "No", "Other_Number",
    "P", "Punctuation", "Pc", "Connector_Punctuation", "Pd", "Dash_Punctuation",
    "Ps", "Open_Punctuation", "Pe", "Close_Punctuation", "Pi", "Initial_Punctuation",
    "Pf", "Final_Punctuation", "Po", "Other_Punctuation",
    "S", "Symbol", "Sm", "Math_Symbol", "Sc", "Currency_Symbol", "Sk", "Modifier_Symbol",
    "So", "Other_Symbol",
    "Z", "Separator", "Zs", "Space_Separator", "Zl", "Line_Separator", "Zp", "Paragraph_Separator",
    "Cc", "Control", "Cf",
];

#[rustfmt::skip]
const SCRIPTS: [&str; 20] = [
    "Arabic", "Armenian", "Bengali", "Common", "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek", "Han", "Hangul", "Hebrew", "Hiragana", "Katakana", "Khmer", "Latin", "Mongolian",
    "Tamil", "Telugu", "Thai",
];

fn is_plain(kind: &GroupKind) -> bool {
    match kind {
        GroupKind::CaptureIndex(_) => true,
        GroupKind::CaptureName { starts_with_p, .. } => !starts_with_p,
        GroupKind::NonCapturing(flags) => flags.items.is_empty(),
    }
}

/// White space in all dialects.
const SPACE: &str = "\t\n\u{b}\u{c}\r \u{a0}\u{2003}\u{3000}";

/// White space in any dialect.
const ANY_SPACE: [(u32, u32); 11] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];

/// Whether dialects may differ on a text that the pattern, as it is read here, does not have.
pub(super) fn is_disputed(pattern: &str, text: &str) -> bool {
    let disputed = CharSet::of(ANY_SPACE).without(&CharSet::of_chars(SPACE));
    let has_space = pattern.contains("\\s") || pattern.contains("\\S");
    has_space && text.chars().any(|c| disputed.contains(c.into()))
}

/// How many characters texts of an expression have, at least and at most.
pub(super) fn lengths(expr: &Expr) -> (usize, Option<usize>) {
    let add = |a: Option<usize>, b: Option<usize>| Some(a?.saturating_add(b?));
    match expr {
        Expr::Chars(_) | Expr::Token { .. } => (1, Some(1)),
        Expr::Text(text) => (text.chars().count(), Some(text.chars().count())),
        Expr::Rule(_) => (0, None),
        Expr::TextEnd(_) => (0, Some(0)),
        Expr::Sequence(parts) => parts
            .iter()
            .map(lengths)
            .fold((0, Some(0)), |sum, part| (sum.0.saturating_add(part.0), add(sum.1, part.1))),
        Expr::Choice(parts) => {
            let all: Vec<_> = parts.iter().map(lengths).collect();
            let least = all.iter().map(|part| part.0).min().unwrap_or(0);
            let most = all.iter().try_fold(0, |most, part| part.1.map(|part| part.max(most)));
            (least, most)
        }
        Expr::Repeat(unit, least, most) => {
            let (shortest, longest) = lengths(unit);
            let most = match (longest, most) {
                (Some(0), _) => Some(0),
                (longest, most) => longest.zip(*most).map(|(a, b)| a.saturating_mul(b)),
            };
            (shortest.saturating_mul(*least), most)
        }
    }
}

/// An expression for those texts that have these lengths too, if it is plain how.
pub(super) fn with_lengths(expr: Expr, least: usize, most: Option<usize>) -> Option<Expr> {
    let (shortest, longest) = lengths(&expr);
    let is_short = most.is_none_or(|most| longest.is_some_and(|longest| longest <= most));
    if shortest >= least && is_short {
        return Some(expr);
    }
    match expr {
        Expr::Sequence(mut parts) | Expr::Choice(mut parts) if parts.len() == 1 => {
            with_lengths(parts.pop()?, least, most)
        }
        Expr::Choice(parts) => {
            let parts = parts.into_iter().map(|part| with_lengths(part, least, most));
            Some(Expr::Choice(parts.collect::<Option<_>>()?))
        }
        // One part gives way: what is before and after it has a length that does not change.
        Expr::Sequence(mut parts) => {
            let is_open = |part: &Expr| {
                let (shortest, longest) = lengths(part);
                longest != Some(shortest)
            };
            let mut open = (0..parts.len()).filter(|&index| is_open(&parts[index]));
            let index = open.next()?;
            if open.next().is_some() {
                return None;
            }
            let fixed: usize = parts
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != index)
                .map(|(_, p)| lengths(p).0)
                .sum();
            let most = match most {
                Some(most) => Some(most.checked_sub(fixed)?),
                None => None,
            };
            let part = std::mem::replace(&mut parts[index], Expr::empty());
            parts[index] = with_lengths(part, least.saturating_sub(fixed), most)?;
            Some(Expr::Sequence(parts))
        }
        Expr::Repeat(unit, fewest, highest) if matches!(*unit, Expr::Chars(_)) => {
            let fewest = fewest.max(least);
            let highest = [highest, most].into_iter().flatten().min();
            let is_possible = highest.is_none_or(|highest| highest >= fewest);
            is_possible.then_some(Expr::Repeat(unit, fewest, highest))
        }
        _ => None,
    }
}
