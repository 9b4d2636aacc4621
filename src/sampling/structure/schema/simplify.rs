//! The same texts by an expression that reads them in fewer ways.
//!
//! `.*.*` reads one text in as many ways as it has places, `.*` in one. Repetitions of characters that
//! stand beside each other, or in each other, become one where that is possible.

use crate::sampling::structure::chars::CharSet;
use crate::sampling::structure::grammar::Expr;

/// Repetitions in repetitions that would be written out at greater length than this stay as they are.
const MAX_WRITTEN_OUT: usize = 1000;

/// Characters of a set, at least and at most so many.
struct Run {
    set: CharSet,
    least: usize,
    most: Option<usize>,
}

impl Run {
    fn of(expr: Expr) -> Result<Self, Expr> {
        match expr {
            Expr::Chars(set) => Ok(Self { set, least: 1, most: Some(1) }),
            Expr::Repeat(unit, least, most) => match *unit {
                Expr::Chars(set) => Ok(Self { set, least, most }),
                unit => Err(unit.repeat(least, most)),
            },
            other => Err(other),
        }
    }

    fn expr(self) -> Expr {
        match (self.least, self.most) {
            (1, Some(1)) => Expr::Chars(self.set),
            (least, most) => Expr::Chars(self.set).repeat(least, most),
        }
    }

    /// With more of the same characters behind it.
    fn and(&mut self, more: &Self) {
        self.least = self.least.saturating_add(more.least);
        self.most = self.most.zip(more.most).map(|(a, b)| a.saturating_add(b));
    }

    /// Whether what another one may have beyond its least can be taken for a part of this.
    fn takes_in(&self, other: &Self) -> bool {
        self.most.is_none() && other.most != Some(other.least) && {
            other.set.without(&self.set).is_empty()
        }
    }

    fn is_empty(&self) -> bool {
        self.most == Some(0)
    }
}

/// The same texts, in fewer readings.
pub(super) fn simplified(expr: Expr) -> Expr {
    match expr {
        Expr::Sequence(parts) => sequence(parts),
        Expr::Choice(parts) => choice(parts),
        Expr::Repeat(unit, least, most) => repetition(simplified(*unit), least, most),
        other => other,
    }
}

fn sequence(parts: Vec<Expr>) -> Expr {
    let mut all = Vec::new();
    for part in parts {
        match simplified(part) {
            Expr::Sequence(inner) => inner.into_iter().for_each(|part| add(&mut all, part)),
            other => add(&mut all, other),
        }
    }
    let mut all: Vec<Expr> = all.into_iter().map(|part| part.unwrap_or_else(Run::expr)).collect();
    if all.len() == 1 { all.remove(0) } else { Expr::Sequence(all) }
}

/// Puts a part behind the others; an `Ok` is one that is no run of characters.
fn add(all: &mut Vec<Result<Expr, Run>>, part: Expr) {
    let mut run = match Run::of(part) {
        Ok(run) => run,
        Err(other) => return all.push(Ok(other)),
    };
    while !run.is_empty() {
        let Some(Err(last)) = all.last_mut() else { break };
        if last.set == run.set {
            last.and(&run);
            return;
        }
        if last.takes_in(&run) {
            run.most = Some(run.least);
            continue;
        }
        if !run.takes_in(last) {
            break;
        }
        last.most = Some(last.least);
        if !last.is_empty() {
            break;
        }
        all.pop();
    }
    if !run.is_empty() {
        all.push(Err(run));
    }
}

fn choice(parts: Vec<Expr>) -> Expr {
    let mut set: Option<CharSet> = None;
    let mut all = Vec::new();
    let flat = parts.into_iter().flat_map(|part| match simplified(part) {
        Expr::Choice(inner) => inner,
        other => vec![other],
    });
    for part in flat {
        match part {
            Expr::Chars(more) => {
                set = Some(set.map_or_else(|| more.clone(), |set| set.union(&more)));
            }
            other => all.push(other),
        }
    }
    all.extend(set.map(Expr::Chars));
    if all.len() == 1 { all.remove(0) } else { Expr::Choice(all) }
}

fn repetition(unit: Expr, least: usize, most: Option<usize>) -> Expr {
    if most == Some(0) {
        return Expr::empty();
    }
    let unit = if (least, most) == (0, None) { without_stars(unit) } else { unit };
    let run = match Run::of(unit) {
        Ok(run) => run,
        Err(unit) => return unit.repeat(least, most),
    };
    let all = run.most.zip(most).map(|(a, b)| a.saturating_mul(b));
    // With none or one at least, there is no gap between so many times and once more.
    let is_one = run.least <= 1 && !run.is_empty() && all.is_none_or(|all| all <= MAX_WRITTEN_OUT);
    let is_plain = run.least == 1 && run.most == Some(1);
    if !is_one && !is_plain {
        return run.expr().repeat(least, most);
    }
    Run { least: run.least.saturating_mul(least), most: all, ..run }.expr()
}

/// What is repeated at will: `(a*|b?)*` is `(a|b)*`.
fn without_stars(unit: Expr) -> Expr {
    let Expr::Choice(parts) = unit else { return unit };
    let parts = parts.into_iter().map(|part| match Run::of(part) {
        Ok(run) if run.least <= 1 && !run.is_empty() => Expr::Chars(run.set),
        Ok(run) => run.expr(),
        Err(other) => other,
    });
    choice(parts.collect())
}
