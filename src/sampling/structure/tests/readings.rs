//! Readings of a text: all of them count, and equal ones are followed once.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::*;

/// A rule, an `a` or a `b`.
#[derive(Clone, Copy)]
enum Symbol {
    Letter(char),
    Rule(usize),
}

/// By rule, by alternative.
type Rules = Vec<Vec<Vec<Symbol>>>;

/// Any few rules, most of which call each other and themselves.
fn rules(dice: &mut Dice) -> Rules {
    let count = 2 + dice.below(3);
    let symbol = |dice: &mut Dice| match dice.below(5) {
        0 => Symbol::Letter('a'),
        1 => Symbol::Letter('b'),
        _ => Symbol::Rule(dice.below(count)),
    };
    let alternative = |dice: &mut Dice| {
        let length = dice.below(4);
        (0..length).map(|_| symbol(dice)).collect()
    };
    let rule = |dice: &mut Dice| {
        let alternatives = 1 + dice.below(5);
        (0..alternatives).map(|_| alternative(dice)).collect()
    };
    (0..count).map(|_| rule(dice)).collect()
}

fn written(rules: &Rules) -> String {
    let mut text = "root ::= r0\n".to_owned();
    for (index, alternatives) in rules.iter().enumerate() {
        let one = |alternative: &Vec<Symbol>| {
            let part = |symbol: &Symbol| match symbol {
                Symbol::Letter(c) => format!("\"{c}\" "),
                Symbol::Rule(rule) => format!("r{rule} "),
            };
            format!("\"\" {}", alternative.iter().map(part).collect::<String>())
        };
        let all: Vec<String> = alternatives.iter().map(one).collect();
        writeln!(text, "r{index} ::= {}", all.join("| ")).unwrap();
    }
    text
}

/// All texts of each rule up to this length, found by putting shorter ones together until none is new.
fn texts(rules: &Rules, most: usize) -> Vec<BTreeSet<String>> {
    let mut all = vec![BTreeSet::new(); rules.len()];
    loop {
        let before: usize = all.iter().map(BTreeSet::len).sum();
        for (rule, alternatives) in rules.iter().enumerate() {
            for alternative in alternatives {
                let mut begun = BTreeSet::from([String::new()]);
                for symbol in alternative {
                    let next = match symbol {
                        Symbol::Letter(c) => BTreeSet::from([c.to_string()]),
                        Symbol::Rule(rule) => all[*rule].clone(),
                    };
                    let pairs =
                        begun.iter().flat_map(|a| next.iter().map(move |b| format!("{a}{b}")));
                    begun = pairs.filter(|text| text.len() <= most).collect();
                }
                all[rule].extend(begun);
            }
        }
        if all.iter().map(BTreeSet::len).sum::<usize>() == before {
            return all;
        }
    }
}

/// Rules of every kind of recursion, against texts that are found in the plainest way.
#[test]
fn every_text_of_a_grammar_is_one_and_no_other() {
    const MOST: usize = 4;
    let mut dice = Dice(5);
    let letters = |bits: usize, length: usize| -> String {
        (0..length).map(|i| if bits >> i & 1 == 0 { 'a' } else { 'b' }).collect()
    };
    let (mut used, mut complete) = (0, 0);
    for _ in 0..300 {
        let rules = rules(&mut dice);
        let found = texts(&rules, MOST);
        let grammar = written(&rules);
        let form = Structure::Grammar(grammar.clone());
        if matcher(&form).is_err() {
            assert!(found[0].is_empty(), "{grammar}");
            continue;
        }
        used += 1;
        for length in 0..=MOST {
            for bits in 0..1 << length {
                let text = letters(bits, length);
                let mut matcher = matcher(&form).unwrap();
                let mut effort = Effort::new(&|| Ok(()));
                // Each by itself, so that what is kept after a token is what is followed.
                let fits = text
                    .chars()
                    .all(|c| matcher.accept_text(c.encode_utf8(&mut [0; 4]), &mut effort).unwrap());
                let is_one = fits && matcher.is_complete();
                assert_eq!(is_one, found[0].contains(&text), "{text}\n{grammar}");
                complete += usize::from(is_one);
            }
        }
    }
    assert!(used > 200 && complete > 1000, "{used} grammars, {complete} texts");
}

/// The steps of each token of a text.
fn steps(mut matcher: Matcher, text: &str) -> Vec<usize> {
    let step = |c: char| {
        let mut effort = Effort::new(&|| Ok(()));
        assert!(matcher.accept_text(c.encode_utf8(&mut [0; 4]), &mut effort).unwrap());
        effort.spent()
    };
    text.chars().map(step).collect()
}

/// They were as many as the text has characters, for each list.
#[test]
fn readings_that_go_on_alike_are_one() {
    let text = "x".repeat(3000);
    for grammar in [
        "root ::= any any any any any any \"=\" any\nany ::= [^\\n]*",
        "root ::= ([a-z]* [x]*)* \"=\" [x]*",
        "root ::= a \"=\"\na ::= b \"x\" | b\nb ::= \"\" | c b\nc ::= [x]+",
        "root ::= list list list \"=\"\nlist ::= \"\" | [x] list | [a-z] list",
    ] {
        let steps = steps(gbnf(grammar), &text);
        assert!(steps[2999] <= 2 * steps[10], "{grammar}: {} {}", steps[10], steps[2999]);
        assert!(steps[2999] < 500, "{grammar}: {}", steps[2999]);
    }
}

/// A rule by its number.
type Rule = fn(usize) -> String;

/// What calls a rule by its last part hands on what follows: many that do must not add up.
#[test]
fn long_chains_of_rules_take_steps_in_proportion_to_them() {
    let chain = |count: usize, rule: fn(usize) -> String, root: &str| {
        let rules: String = (0..count).map(rule).collect();
        format!("root ::= {root}\n{rules}r{count} ::= \"x\"\n")
    };
    let rules: [(Rule, &str); 3] = [
        (|i| format!("r{i} ::= r{} \"a\" | r{}\n", i + 1, i + 1), "r0"),
        (|i| format!("r{i} ::= r{n} r{n} r{n} | \"\" | r{n} \"c\"\n", n = i + 1), "r0 \"k\""),
        (|i| format!("r{i} ::= \"b\" r{n} | \"a\"? r{n}\n", n = i + 1), "r0"),
    ];
    for (rule, root) in rules {
        let spent = |count| {
            let form = Structure::Grammar(chain(count, rule, root));
            let mut effort = Effort::new(&|| Ok(()));
            let grammar = Arc::new(form.compile(&no_token).unwrap());
            let mut matcher = Matcher::new(grammar, &mut effort).unwrap();
            assert!(matcher.accept_text("x", &mut effort).unwrap());
            effort.spent()
        };
        let (short, long) = (spent(500), spent(5000));
        assert!(long < 12 * short, "{}: {short} {long}", rule(0));
        assert!(long < 5000 * 300, "{}: {long}", rule(0));
    }
}

/// The pattern that once took 15 tokens a second and then died.
#[test]
fn patterns_of_many_repetitions_have_few_readings() {
    let alike = [
        ("^.*.*.*.*.*.*=.*$", "^.*=.*$"),
        ("^a*a*a+$", "^a+$"),
        ("^(a*)*$", "^a*$"),
        ("^((a+)+)+$", "^a+$"),
        ("^(?:.|.)*$", "^.*$"),
        ("^(a|b)*[ab]*$", "^[ab]*$"),
        ("^[a-z]*b*[a-z]*$", "^[a-z]*$"),
        ("^(a*|b?)*$", "^[ab]*$"),
        ("^(a{0,2}){3}$", "^a{0,6}$"),
        ("^(\\p{L}|\\w|.|[^x])*$", "^[^x]*$"),
    ];
    let elements = |pattern: &str| {
        let form = json!({"type": "string", "pattern": pattern});
        Structure::JsonSchema(form).compile(&no_token).unwrap().elements()
    };
    for (pattern, plain) in &alike[..9] {
        assert_eq!(elements(pattern), elements(plain), "{pattern}");
    }
    assert!(elements(alike[9].0) <= elements(alike[9].1) + 2);
    let form = json!({"type": "string", "pattern": ".*.*.*.*.*.*=.*"});
    let steps = steps(schema(form), &format!("\"{}=", "x".repeat(3000)));
    assert!(steps.iter().all(|&steps| steps < 100), "{:?}", steps.iter().max());
}

/// Repetitions in and beside each other are the same texts as before: those that `regex` finds.
#[test]
fn patterns_are_simplified_to_the_same_texts() {
    fn pattern(dice: &mut Dice, depth: usize) -> String {
        let classes = ["a", "b", "[ab]", "[bc]", ".", "[^a]", "\\w", "c"];
        let repetitions = ["", "", "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "*?"];
        let part = |dice: &mut Dice| {
            let unit = match dice.below(if depth == 0 { 1 } else { 3 }) {
                0 => classes[dice.below(classes.len())].to_owned(),
                1 => format!("({})", pattern(dice, depth - 1)),
                _ => format!("({}|{})", pattern(dice, depth - 1), pattern(dice, depth - 1)),
            };
            unit + repetitions[dice.below(repetitions.len())]
        };
        (0..=dice.below(3)).map(|_| part(dice)).collect()
    }
    let mut dice = Dice(3);
    for _ in 0..150 {
        let pattern = format!("^({})$", pattern(&mut dice, 2));
        let regex = regex::Regex::new(&pattern).unwrap();
        let form = Structure::JsonSchema(json!({"type": "string", "pattern": pattern}));
        let grammar = Arc::new(form.compile(&no_token).unwrap());
        for _ in 0..40 {
            let length = dice.below(7);
            let text: String = (0..length).map(|_| ['a', 'b', 'c', '-'][dice.below(4)]).collect();
            let matcher = Matcher::new(Arc::clone(&grammar), &mut Effort::new(&|| Ok(()))).unwrap();
            assert_eq!(
                takes(matcher, &format!("\"{text}\"")),
                regex.is_match(&text),
                "{pattern} {text}"
            );
        }
    }
}

/// What is too ambiguous all the same is told by the name of the form.
#[test]
fn too_many_readings_are_told_of_the_form_that_has_them() {
    for (kind, remedy) in [("grammar", "one reading"), ("JSON schema", "`pattern`")] {
        let mut effort = Effort::new(&|| Ok(())).of(kind);
        let told = effort.spend(usize::MAX).unwrap_err().to_string();
        assert!(told.starts_with(&format!("the {kind} can be read")), "{told}");
        assert!(told.contains(remedy), "{told}");
    }
}
