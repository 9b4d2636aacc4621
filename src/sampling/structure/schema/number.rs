//! Numbers within bounds, as digits.

use serde_json::Number;

use super::fit::Fit;
use crate::sampling::structure::chars::CharSet;
use crate::sampling::structure::grammar::Expr;

/// Bounds are kept as whole numbers of 10^-12.
const SCALE: u32 = 12;
const UNIT: i128 = 10_i128.pow(SCALE);
/// Digits of a whole number: every one is exact in 64 bits.
const MAX_DIGITS: u32 = 18;
/// Digits of a number that a double keeps apart from its neighbours.
pub(super) const EXACT_DIGITS: u32 = 15;
/// Digits behind the point, if bounds do not ask for more.
const DECIMALS: u32 = 6;

/// A number in units of 10^-12, and whether it is itself outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bound {
    units: i128,
    is_exclusive: bool,
}

/// Numbers between two bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) is_whole: bool,
    pub(super) least: Option<Bound>,
    pub(super) most: Option<Bound>,
    /// Whole numbers of a `format`. Answers have it; many checkers do not know it.
    pub(super) format: Option<Whole>,
}

/// Whole numbers of so many bits, by their least and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Whole {
    least: i128,
    most: i128,
}

impl Whole {
    /// Of a format's name: those of `OpenAPI`, and others that types of languages become.
    pub(super) fn of(format: &str) -> Option<Self> {
        let (is_signed, bits) = match format.strip_prefix('u') {
            Some(rest) => (false, rest.strip_prefix("int")?),
            None => (true, format.strip_prefix("int")?),
        };
        let bits = match bits {
            "8" => 8,
            "16" => 16,
            "32" => 32,
            "64" | "" => 64,
            _ => return None,
        };
        Some(if is_signed {
            Self { least: -(1 << (bits - 1)), most: (1 << (bits - 1)) - 1 }
        } else {
            Self { least: 0, most: (1 << bits) - 1 }
        })
    }

    fn both(self, other: Self) -> Self {
        Self { least: self.least.max(other.least), most: self.most.min(other.most) }
    }
}

impl Bound {
    /// `None` if it cannot be told exactly.
    pub(super) fn of(number: &Number, is_exclusive: bool) -> Option<Self> {
        Some(Self { units: units(number)?, is_exclusive })
    }

    fn decimals(self) -> u32 {
        (0..SCALE).find(|&k| self.units % 10_i128.pow(SCALE - k) == 0).unwrap_or(SCALE)
    }
}

/// A number in units of 10^-12, if it is a whole number of them and below 10^24.
fn units(number: &Number) -> Option<i128> {
    let text = match (number.as_i128(), number.as_f64()) {
        (Some(whole), _) => return whole.checked_mul(UNIT),
        (None, Some(float)) if float.abs() < 1e24 => format!("{float}"),
        _ => return None,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let missing = usize::try_from(SCALE).ok()?.checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    digits.parse().ok()
}

/// The tighter of two bounds.
pub(super) fn tighter(a: Option<Bound>, b: Option<Bound>, is_least: bool) -> Option<Bound> {
    let (Some(a), Some(b)) = (a, b) else { return a.or(b) };
    let first = match a.units.cmp(&b.units) {
        std::cmp::Ordering::Equal => a.is_exclusive,
        order => order.is_gt() == is_least,
    };
    Some(if first { a } else { b })
}

impl Numbers {
    pub(super) fn both(self, other: Self) -> Self {
        Self {
            is_whole: self.is_whole || other.is_whole,
            least: tighter(self.least, other.least, true),
            most: tighter(self.most, other.most, false),
            format: match (self.format, other.format) {
                (Some(a), Some(b)) => Some(a.both(b)),
                (a, b) => a.or(b),
            },
        }
    }

    /// The numbers that answers have.
    fn narrowed(self) -> Self {
        let Some(format) = self.format else { return self };
        let bound = |whole| Some(Bound { units: whole * UNIT, is_exclusive: false });
        let (least, most) = (bound(format.least), bound(format.most));
        self.both(Self { is_whole: true, least, most, format: None })
    }

    /// Whether no number is within the bounds, as far as they say.
    pub(super) fn is_empty(self) -> bool {
        let (Some(least), Some(most)) = (self.least, self.most) else { return false };
        if self.is_whole {
            return first(least, 0) > last(most, 0);
        }
        let is_open = least.is_exclusive || most.is_exclusive;
        least.units > most.units || least.units == most.units && is_open
    }

    pub(super) fn admits(self, number: &Number) -> Fit {
        let bare = Self { format: None, ..self };
        match bare.admits_bare(number) {
            Fit::Yes if self.narrowed().admits_bare(number) != Fit::Yes => Fit::Unknown,
            fit => fit,
        }
    }

    fn admits_bare(self, number: &Number) -> Fit {
        // What is no whole number of units is compared as a double.
        let Some(units) = units(number) else { return self.admits_double(number) };
        let is_above =
            |bound: Bound| units > bound.units || units == bound.units && !bound.is_exclusive;
        let is_below =
            |bound: Bound| units < bound.units || units == bound.units && !bound.is_exclusive;
        let is_within = self.least.is_none_or(is_above) && self.most.is_none_or(is_below);
        Fit::of(is_within && (!self.is_whole || units % UNIT == 0))
    }

    /// A number so fine or so large cannot be told from a bound close to it.
    fn admits_double(self, number: &Number) -> Fit {
        let Some(number) = number.as_f64() else { return Fit::Unknown };
        #[expect(clippy::cast_precision_loss)]
        let double = |bound: Bound| bound.units as f64 / UNIT as f64;
        let bounds = [self.least, self.most].into_iter().flatten();
        #[expect(clippy::float_cmp)]
        let is_at_bound = bounds.map(double).any(|bound| number == bound);
        let is_within = self.least.is_none_or(|bound| number >= double(bound))
            && self.most.is_none_or(|bound| number <= double(bound))
            && (!self.is_whole || number.fract() == 0.0);
        if is_within && is_at_bound { Fit::Unknown } else { Fit::of(is_within) }
    }

    /// Which of both bounds is too far or too fine, by its keywords.
    pub(super) fn hardest(self) -> [&'static str; 2] {
        let size = |bound: Option<Bound>| bound.map_or(0, |bound| bound.units.abs());
        let fine = |bound: Option<Bound>| bound.map_or(0, Bound::decimals);
        let is_far = size(self.most).max(size(self.least)) >= UNIT * 1_000_000;
        let is_most = if is_far {
            size(self.most) > size(self.least)
        } else {
            fine(self.most) > fine(self.least)
        };
        if is_most { ["maximum", "exclusiveMaximum"] } else { ["minimum", "exclusiveMinimum"] }
    }

    /// JSON's numbers within these bounds; `None` where they are too far or too fine to be told
    /// apart by a double.
    pub(super) fn expr(self) -> Option<Expr> {
        if self.format.is_some() {
            let narrowed = Self { format: None, ..self.narrowed() };
            // None, if they contradict the bounds.
            return if narrowed.is_empty() {
                Some(Expr::Choice(Vec::new()))
            } else {
                narrowed.expr()
            };
        }
        if self.is_whole {
            let limit = 10_i128.pow(MAX_DIGITS) - 1;
            return scaled(self, 0, limit);
        }
        match (self.least, self.most) {
            (None, None) => return Some(Expr::Sequence(vec![minus().optional(), unsigned()])),
            (Some(Bound { units: 0, is_exclusive: false }), None) => return Some(unsigned()),
            _ => {}
        }
        let bounds = || [self.least, self.most].into_iter().flatten();
        let fewest = bounds().map(Bound::decimals).max().unwrap_or(0);
        let farthest = bounds().map(|bound| bound.units.abs()).max().unwrap_or(0);
        let fits = |&decimals: &u32| farthest < UNIT * 10_i128.pow(EXACT_DIGITS - decimals);
        let has_some = |decimals: &u32| match (self.least, self.most) {
            (Some(least), Some(most)) => first(least, *decimals) <= last(most, *decimals),
            _ => true,
        };
        let fewest = (fewest..=SCALE).find(has_some)?;
        let decimals = (fewest..=fewest.max(DECIMALS)).rev().find(fits)?;
        let limit = 10_i128.pow(EXACT_DIGITS) - 1;
        // Of equal numbers one form will do, but people and models write 1.50 as well as 1.5.
        let forms = (0..=decimals).map(|decimals| scaled(self, decimals, limit));
        Some(Expr::Choice(forms.collect::<Option<_>>()?))
    }
}

/// The first whole number of 10^-decimals that a lower bound lets in.
fn first(bound: Bound, decimals: u32) -> i128 {
    let step = 10_i128.pow(SCALE - decimals);
    let at = bound.units.div_euclid(step);
    let is_exact = bound.units.rem_euclid(step) == 0;
    if is_exact && !bound.is_exclusive { at } else { at + 1 }
}

/// The last one that an upper bound lets in.
fn last(bound: Bound, decimals: u32) -> i128 {
    let mirrored = Bound { units: -bound.units, is_exclusive: bound.is_exclusive };
    -first(mirrored, decimals)
}

fn minus() -> Expr {
    Expr::text("-")
}

fn digit(from: u8, to: u8) -> Expr {
    Expr::Chars(CharSet::of([(from.into(), to.into())]))
}

fn digits(least: usize, most: usize) -> Expr {
    digit(b'0', b'9').repeat(least, Some(most))
}

/// A number without a sign, with as many digits as a double keeps, and an exponent that it can have.
fn unsigned() -> Expr {
    let whole = Expr::Choice(vec![
        Expr::text("0"),
        Expr::Sequence(vec![digit(b'1', b'9'), digits(0, EXACT_DIGITS as usize - 1)]),
    ]);
    let fraction = Expr::Sequence(vec![Expr::text("."), digits(1, EXACT_DIGITS as usize)]);
    let exponent = Expr::Sequence(vec![
        Expr::Chars(CharSet::of_chars("eE")),
        Expr::Chars(CharSet::of_chars("+-")).optional(),
        digits(1, 2),
    ]);
    Expr::Sequence(vec![whole, fraction.optional(), exponent.optional()])
}

/// Numbers with exactly so many decimals, up to `limit` of 10^-decimals.
fn scaled(numbers: Numbers, decimals: u32, limit: i128) -> Option<Expr> {
    let least = numbers.least.map_or(-limit, |bound| first(bound, decimals));
    let most = numbers.most.map_or(limit, |bound| last(bound, decimals));
    if least > limit || most < -limit {
        return None;
    }
    let (least, most) = (least.max(-limit), most.min(limit));
    let mut forms = natural(least.max(0), most, decimals as usize);
    let negative = natural((-most).max(1), -least, decimals as usize);
    forms.extend(negative.into_iter().map(|form| Expr::Sequence(vec![minus(), form])));
    Some(Expr::Choice(forms))
}

/// From `least` to `most`, by length.
fn natural(least: i128, most: i128, decimals: usize) -> Vec<Expr> {
    let mut forms = Vec::new();
    let mut from = 0;
    for length in decimals + 1.. {
        if from > most {
            break;
        }
        let to = 10_i128.pow(u32::try_from(length).unwrap_or(u32::MAX)) - 1;
        let (low, high) = (least.max(from), most.min(to));
        if low <= high {
            let text = |number| format!("{number:0length$}").into_bytes();
            forms.push(between(&text(low), &text(high), decimals));
        }
        from = to + 1;
    }
    forms
}

/// Digits from `low` to `high`, which are of one length; the point is before the last `decimals`.
fn between(low: &[u8], high: &[u8], decimals: usize) -> Expr {
    let (Some((&a, low_rest)), Some((&b, high_rest))) = (low.split_first(), high.split_first())
    else {
        return Expr::empty();
    };
    if decimals > 0 && low.len() == decimals {
        return Expr::Sequence(vec![Expr::text("."), between(low, high, 0)]);
    }
    let length = low_rest.len();
    if low.iter().all(|&d| d == b'0') && high.iter().all(|&d| d == b'9') {
        return any_digits(low.len(), decimals);
    }
    let with = |from, to, rest| Expr::Sequence(vec![digit(from, to), rest]);
    if a == b {
        return with(a, a, between(low_rest, high_rest, decimals));
    }
    let (zeros, nines) = (vec![b'0'; length], vec![b'9'; length]);
    let mut forms = vec![with(a, a, between(low_rest, &nines, decimals))];
    if a + 1 < b {
        forms.push(with(a + 1, b - 1, any_digits(length, decimals)));
    }
    forms.push(with(b, b, between(&zeros, high_rest, decimals)));
    Expr::Choice(forms)
}

fn any_digits(length: usize, decimals: usize) -> Expr {
    if decimals == 0 || length < decimals {
        return digits(length, length);
    }
    let whole = digits(length - decimals, length - decimals);
    Expr::Sequence(vec![whole, Expr::text("."), digits(decimals, decimals)])
}
