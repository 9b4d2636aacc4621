//! Whether two runs agree.

use moe_offload::plan::CPU;
use serde_json::json;

use super::*;

#[test]
fn a_run_agrees_with_itself_and_not_with_another_speed() {
    let first = noisy(1.0);
    let own = protocol();
    let agreement = |second: &[Record]| Agreement::of((&own, &first), (&own, second)).unwrap();
    let same = agreement(&first);
    assert!(same.agree() && same.counts().1 == 0, "{same}");
    assert!(agreement(&noisy(1.01)).agree());
    // A planted disagreement: all of it takes a third longer.
    let slower = agreement(&noisy(1.33));
    assert!(!slower.agree(), "{slower}");
    assert!(slower.to_string().contains("do not agree") && slower.to_string().contains("differs"));
    // A machine that is a tenth slower is the same machine; a policy that is, is not the same.
    assert!(agreement(&noisy(1.1)).agree());
    let mut one_slower = first.clone();
    for record in &mut one_slower {
        if let Record::Speed(speed) = record
            && speed.setting.policy.as_str() == "all-experts"
        {
            speed.load_seconds *= 1.1;
        }
    }
    let slower = agreement(&one_slower);
    assert!(!slower.agree(), "{slower}");
    let apart = slower.figures.iter().find(|figure| !figure.agrees()).unwrap();
    assert!(apart.is_ratio && apart.figure.starts_with("load s"), "{slower}");
    // One byte more is no matter of chance.
    let mut larger = noisy(1.0);
    for record in &mut larger {
        if let Record::Speed(speed) = record {
            speed.memory[0].weights_bytes += 1;
        }
    }
    assert!(!agreement(&larger).agree());
    // What is missing in one is no agreement.
    let none = first
        .iter()
        .filter(|r| !matches!(r, Record::Speed(s) if s.setting.policy.as_str() == "none"));
    let lacking = agreement(&none.cloned().collect::<Vec<_>>());
    assert!(!lacking.agree() && lacking.missing[0].contains("none device bytes"), "{lacking}");
    let mut other = protocol();
    other.answer_tokens += 1;
    let refused = Agreement::of((&own, &first), (&other, &first)).unwrap_err();
    assert!(matches!(refused, BenchError::NotComparable { what: "protocol" }), "{refused}");
    // Where it was measured is not known without a record of it.
    let refused = Agreement::of((&own, &first), (&own, &first[1..])).unwrap_err();
    assert!(matches!(refused, BenchError::NotComparable { what: "environment" }), "{refused}");
}

#[test]
fn what_was_not_measured_does_not_agree() {
    let own = protocol();
    let compare = |protocol: &Protocol, first: &[Record], second: &[Record]| {
        Agreement::of((protocol, first), (protocol, second)).unwrap()
    };
    let whole = noisy(1.0);
    // Nothing was measured in either run.
    let empty = compare(&own, &whole[..1], &whole[..1]);
    assert!(!empty.agree() && empty.missing.len() == 2, "{empty}");
    // What fits in neither is nothing to compare; if only one says so, it is missing.
    let mut unfit = vec![Record::Environment(environment())];
    unfit.extend([does_not_fit("none"), does_not_fit("all-experts")]);
    let nothing = compare(&own, &unfit, &unfit);
    assert!(!nothing.agree() && nothing.missing.is_empty(), "{nothing}");
    assert_eq!(compare(&own, &unfit, &whole[..1]).missing.len(), 2);
    // The last repetition is not there yet.
    let cut = compare(&own, &whole, &whole[..whole.len() - 1]);
    assert!(!cut.agree() && cut.missing.iter().all(|m| m.contains("all-experts")), "{cut}");
    assert!(cut.missing[0].ends_with("3 and 2 of 3 samples"), "{cut}");
    // One sample says nothing of how much it varies.
    let once = Protocol { repetitions: 1, ..own };
    let lone = compare(&once, &whole[..3], &whole[..3]);
    assert!(!lone.agree() && lone.counts() == (2, 0), "{lone}");
    assert!(lone.missing[0].ends_with("load s: 1 and 1 of 2 samples"), "{lone}");
}

#[test]
fn times_that_do_not_vary_are_no_bytes() {
    let own = protocol();
    let with_load = |seconds: f64| {
        let mut records = noisy(1.0);
        for record in &mut records {
            if let Record::Speed(speed) = record {
                speed.load_seconds = seconds;
            }
        }
        records
    };
    let first = with_load(0.5);
    let compare = |second: &[Record]| Agreement::of((&own, &first), (&own, second)).unwrap();
    let same = compare(&with_load(0.5));
    let is_exact = |figure: &&Compared| figure.is_exact;
    assert!(same.agree() && same.figures.iter().filter(is_exact).count() == 2, "{same}");
    assert!(!compare(&with_load(0.7)).agree());
    // Bytes of nothing have no share, and no number that is none.
    let mut on_cpu = first.clone();
    for record in &mut on_cpu {
        if let Record::Speed(speed) = record {
            speed.memory.retain(|memory| memory.name == CPU);
        }
    }
    let nothing = Agreement::of((&own, &on_cpu), (&own, &on_cpu)).unwrap();
    assert!(nothing.agree() && !nothing.to_string().contains("NaN"), "{nothing}");
    // All samples are equal in each run, but not those of both.
    assert!(!compare(&on_cpu).agree());
}

#[test]
fn no_single_figure_may_be_anywhere() {
    let mut own = protocol();
    own.policies = vec![policy("none")];
    let of_none = |record: &Record| !matches!(record, Record::Speed(speed) if speed.setting.policy.as_str() != "none");
    let first: Vec<Record> = noisy(1.0).into_iter().filter(of_none).collect();
    let mut second = first.clone();
    for record in &mut second {
        if let Record::Speed(speed) = record {
            speed.load_seconds = 5.0 + 0.01 * f64::from(speed.repetition);
        }
    }
    let agreement = Agreement::of((&own, &first), (&own, &second)).unwrap();
    // One of three may be apart by chance, but not ten times as far.
    assert_eq!((agreement.counts(), agreement.most_by_chance()), ((4, 1), 1));
    assert!(!agreement.agree(), "{agreement}");
}

#[test]
fn sizes_are_told_where_there_are_several() {
    let own = protocol();
    let several = Protocol { threads: vec![1, 2], ..own.clone() };
    let whole = noisy(1.0);
    let named = Agreement::of((&several, &whole), (&several, &whole)).unwrap();
    assert!(named.to_string().contains("| none, threads 1 |"), "{named}");
    assert!(named.missing[0].contains("threads 2: in neither"), "{named}");
    let plain = Agreement::of((&own, &whole), (&own, &whole)).unwrap();
    assert!(!plain.to_string().contains("threads"), "{plain}");
}

fn environment() -> Environment {
    serde_json::from_value(json!({
        "unix_seconds": 1, "crate_version": "1", "crate_build": "release",
        "engine": { "package": "p", "ggml_version": "1", "ggml_commit": "c", "system_info": "" },
        "engine_build": "", "system": "linux", "cpu": "a CPU", "cpu_threads": 2,
        "memory_bytes": 1024, "devices": [], "models": [],
    }))
    .unwrap()
}

/// Three repetitions, each a little different, all slower by a factor.
fn noisy(slower: f64) -> Vec<Record> {
    let mut records = vec![Record::Environment(environment())];
    for (repetition, seconds) in [(0, 1.0), (1, 1.01), (2, 0.99)] {
        records.push(Record::Speed(speed("none", repetition, seconds * slower, 80)));
        records.push(Record::Speed(speed("all-experts", repetition, seconds * slower * 2.0, 20)));
    }
    records
}
