//! What a schema allows, one kind of value at a time.

use std::collections::BTreeSet;

use serde_json::Value;

use super::number::Numbers;

/// Schemas that all hold for one value, by their number; none is no constraint.
pub(super) type All = BTreeSet<usize>;

/// Values of one kind. What a schema allows is a list of these.
#[derive(Clone, Debug)]
pub(super) enum Alternative {
    Null,
    Boolean,
    Number(Numbers),
    Text(Text),
    Array(Array),
    Object(Object),
    /// Just this one.
    Value(Value),
}

/// Texts by their characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Text {
    pub(super) least: usize,
    pub(super) most: Option<usize>,
    pub(super) patterns: BTreeSet<String>,
    /// Names of formats. Answers have them by narrower patterns.
    pub(super) formats: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Array {
    /// The schemas of the first items, by place.
    pub(super) first: Vec<All>,
    /// Those of the items that follow.
    pub(super) rest: All,
    /// Somebody said what follows, so some may.
    pub(super) names_rest: bool,
    pub(super) least: usize,
    pub(super) most: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// In the order in which they are written.
    pub(super) declared: Vec<(String, All)>,
    pub(super) required: BTreeSet<String>,
    /// The schemas of all others.
    pub(super) others: All,
    /// Somebody said what others are, so there may be some.
    pub(super) names_others: bool,
}

impl Alternative {
    /// Every value.
    pub(super) fn any() -> Vec<Self> {
        vec![
            Self::Null,
            Self::Boolean,
            Self::Number(Numbers::default()),
            Self::Text(Text::default()),
            Self::Array(Array::default()),
            Self::Object(Object::default()),
        ]
    }

    /// Values that are of both; `None` if there are none. Single values are the caller's.
    pub(super) fn both(&self, other: &Self) -> Option<Self> {
        let both = match (self, other) {
            (Self::Null, Self::Null) => Self::Null,
            (Self::Boolean, Self::Boolean) => Self::Boolean,
            (Self::Number(a), Self::Number(b)) => Self::Number(a.both(*b)),
            (Self::Text(a), Self::Text(b)) => Self::Text(a.both(b)),
            (Self::Array(a), Self::Array(b)) => Self::Array(a.both(b)),
            (Self::Object(a), Self::Object(b)) => Self::Object(a.both(b)),
            _ => return None,
        };
        (!both.is_empty()).then_some(both)
    }

    fn is_empty(&self) -> bool {
        let contradict = |least: usize, most: Option<usize>| most.is_some_and(|most| most < least);
        match self {
            Self::Number(numbers) => numbers.is_empty(),
            Self::Text(text) => contradict(text.least, text.most),
            Self::Array(array) => contradict(array.least, array.most),
            _ => false,
        }
    }
}

fn less(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    [a, b].into_iter().flatten().min()
}

fn union(a: &All, b: &All) -> All {
    a.union(b).copied().collect()
}

impl Text {
    fn both(&self, other: &Self) -> Self {
        Self {
            least: self.least.max(other.least),
            most: less(self.most, other.most),
            patterns: self.patterns.union(&other.patterns).cloned().collect(),
            formats: self.formats.union(&other.formats).cloned().collect(),
        }
    }
}

impl Array {
    pub(super) fn item(&self, index: usize) -> &All {
        self.first.get(index).unwrap_or(&self.rest)
    }

    fn both(&self, other: &Self) -> Self {
        let first = 0..self.first.len().max(other.first.len());
        Self {
            first: first.map(|index| union(self.item(index), other.item(index))).collect(),
            rest: union(&self.rest, &other.rest),
            names_rest: self.names_rest || other.names_rest,
            least: self.least.max(other.least),
            most: less(self.most, other.most),
        }
    }
}

impl Object {
    pub(super) fn property(&self, name: &str) -> &All {
        let declared = self.declared.iter().find(|(declared, _)| declared == name);
        declared.map_or(&self.others, |(_, schemas)| schemas)
    }

    /// Whether answers may have properties that nobody declared: if somebody said what they are,
    /// or nobody said anything.
    pub(super) fn is_open(&self) -> bool {
        self.names_others || self.declared.is_empty() && self.required.is_empty()
    }

    fn both(&self, other: &Self) -> Self {
        let known: BTreeSet<&str> = self.declared.iter().map(|(name, _)| &**name).collect();
        let new = other.declared.iter().filter(|(name, _)| !known.contains(&**name));
        let theirs: std::collections::HashMap<&str, &All> =
            other.declared.iter().map(|(name, schemas)| (&**name, schemas)).collect();
        let mut declared: Vec<(String, All)> = Vec::new();
        for (name, schemas) in &self.declared {
            let theirs = theirs.get(&**name).copied().unwrap_or(&other.others);
            declared.push((name.clone(), union(schemas, theirs)));
        }
        declared.extend(new.map(|(name, schemas)| (name.clone(), union(schemas, &self.others))));
        Self {
            declared,
            required: self.required.union(&other.required).cloned().collect(),
            others: union(&self.others, &other.others),
            names_others: self.names_others || other.names_others,
        }
    }
}
