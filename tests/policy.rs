//! The text form of policies, their serialised form, and llama.cpp's flags.
#![allow(missing_docs)]

mod support;

use moe_offload::error::{FlagFault, PolicyFault};
use moe_offload::policy::{LayerSet, Target};
use moe_offload::{Error, OffloadPolicy};
use proptest::prelude::*;

fn parse(text: &str) -> Result<OffloadPolicy, Error> {
    text.parse()
}

fn fault(text: &str) -> PolicyFault {
    match parse(text) {
        Err(Error::InvalidPolicy { fault, .. }) => fault,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_form_parses_and_prints() {
    for text in [
        "none",
        "all-experts",
        "first-layers:12",
        "last-layers:8",
        "layers:0-3,7",
        "layers:0-7=RPC0",
        "all-experts=gpu",
        r"regex:blk\.(0|1)\.ffn_.*_exps=CUDA1",
        "regex:a=b=c=cpu",
        r"regex:a\;b=cpu;all-experts",
        "first-layers:2;regex:.=gpu;last-layers:1=RPC1",
        "fit",
        "fit:10GiB",
        "layers:0;fit:-512MiB",
        "fit:1000001B",
        "fit:-1B,ram:0B",
        "fit:fewer-layers",
        "layers:3;fit:10GiB,smaller-context:2048,cache-to-host,fewer-layers",
        "all-experts=RTX 4070",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn what_means_the_same_reads_as_the_same() {
    assert_eq!(parse(" all-experts = CPU ").unwrap(), OffloadPolicy::AllExperts);
    assert_eq!(parse("layers:3,2,1-2,7").unwrap(), parse("layers:1-3,7").unwrap());
    let spaced = parse("first-layers: 2 ; all-experts").unwrap();
    assert_eq!(spaced, OffloadPolicy::FirstLayers(2).then(OffloadPolicy::AllExperts));
    assert_eq!(OffloadPolicy::None.then(OffloadPolicy::AllExperts), OffloadPolicy::AllExperts);
}

#[test]
fn faults_are_told_apart() {
    assert_eq!(fault(""), PolicyFault::Empty);
    assert_eq!(fault("all-experts;"), PolicyFault::Empty);
    assert_eq!(fault("experts"), PolicyFault::UnknownRule);
    assert_eq!(fault("ALL-EXPERTS"), PolicyFault::UnknownRule);
    assert_eq!(fault("none=cpu"), PolicyFault::UnknownRule);
    assert_eq!(fault("all-experts:3"), PolicyFault::UnknownRule);
    for text in [
        "first-layers",
        "first-layers:",
        "first-layers:0",
        "last-layers:-1",
        "last-layers:x",
        "first-layers:99999999999",
    ] {
        assert_eq!(fault(text), PolicyFault::BadLayerCount, "{text}");
    }
    for text in ["layers", "layers:", "layers:3-1", "layers:a", "layers:1,,2", "layers:+1"] {
        assert_eq!(fault(text), PolicyFault::BadLayerSet, "{text}");
    }
    assert_eq!(fault("regex:abc"), PolicyFault::BadRegexRule);
    assert_eq!(fault("regex:=cpu"), PolicyFault::BadRegexRule);
    assert_eq!(fault("regex:abc="), PolicyFault::BadDevice);
    assert_eq!(fault("all-experts=a,b"), PolicyFault::BadDevice);
    for text in [
        "fit:",
        "fit:x",
        "fit:--1",
        "fit:-",
        "fit:1GiB,",
        "fit:fewer-layers,1GiB",
        "fit:fewer-layers,fewer-layers",
        "fit:smaller-context",
        "fit:smaller-context:0",
        "fit:smaller-context:+1",
        "fit:smaller-context:1,smaller-context:2",
    ] {
        assert_eq!(fault(text), PolicyFault::BadFit, "{text}");
    }
    for text in ["fit:1GiB,ram:", "fit:ram:abc", "fit:ram:-1GiB", "fit:ram:1GiB,ram:2GiB"] {
        assert_eq!(fault(text), PolicyFault::BadRam, "{text}");
    }
    for (text, number) in [
        ("fit:8", "8"),
        ("fit:-8", "8"),
        ("fit:0.5", "0.5"),
        ("fit:8,fewer-layers", "8"),
        ("fit:10GiB,ram:24", "24"),
        ("layers:0;fit:ram:24", "24"),
    ] {
        assert_eq!(fault(text), PolicyFault::NoUnit { number: number.to_owned() }, "{text}");
        let asked = parse(text).unwrap_err().to_string();
        assert!(asked.contains(&format!("write `{number}GiB`")), "{asked}");
    }
    for text in ["ram:5GiB", "fit:1GiB;ram:1GiB", "all-experts=disk,ram:1GiB", "all-experts;ram:1"]
    {
        assert_eq!(fault(text), PolicyFault::RamWithoutFit, "{text}");
    }
    assert_eq!(fault("fit=cpu"), PolicyFault::UnknownRule);
    assert_eq!(fault("fit;all-experts"), PolicyFault::FitNotLast);
    assert_eq!(fault("none;all-experts"), PolicyFault::NoneInList);
    assert!(
        matches!(parse("regex:(=cpu"), Err(Error::InvalidPattern { pattern, .. }) if pattern == "(")
    );
    assert!(matches!(parse("regex:a{1000}{1000}{1000}=cpu"), Err(Error::InvalidPattern { .. })));
}

#[test]
fn patterns_of_people_are_small_enough() {
    for pattern in [r"\w+\.\w+_exps", r"(?i)BLK\.\d+\.FFN_.*", r"blk\.([0-9]|[1-5][0-9])\.ffn_\w+"]
    {
        assert!(parse(&format!("regex:{pattern}=cpu")).is_ok(), "{pattern}");
    }
}

#[test]
fn serde_uses_the_text() {
    let policy = parse("first-layers:2;all-experts=gpu").unwrap();
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(json, "\"first-layers:2;all-experts=gpu\"");
    assert_eq!(serde_json::from_str::<OffloadPolicy>(&json).unwrap(), policy);
    let error = serde_json::from_str::<OffloadPolicy>("\"first\"").unwrap_err();
    assert!(error.to_string().contains("no such rule"), "{error}");
}

#[test]
fn llama_flags_keep_their_meaning() {
    let read = |flags: &[&str]| OffloadPolicy::from_llama_flags(flags).unwrap().to_string();
    assert_eq!(read(&[]), "none");
    assert_eq!(read(&["--cpu-moe"]), "all-experts");
    assert_eq!(read(&["-cmoe"]), "all-experts");
    assert_eq!(read(&["--n-cpu-moe", "0"]), "none");
    assert_eq!(
        read(&["-ncmoe", "12"]),
        r"regex:blk\.([0-9]|1[0-1])\.ffn_(up|down|gate|gate_up)_(ch|)exps=cpu"
    );
    assert_eq!(
        read(&["-ot", "attn=CPU,exps=CUDA0", "--override-tensor=x=RPC0[127.0.0.1:1]"]),
        "regex:attn=cpu;regex:exps=CUDA0;regex:x=RPC0[127.0.0.1:1]"
    );
}

#[test]
fn llama_flags_in_all_their_spellings() {
    let read = |flags: &[&str]| OffloadPolicy::from_llama_flags(flags).unwrap().to_string();
    let expected = read(&["-ncmoe", "2"]);
    for flags in [&["--n-cpu-moe", "2"][..], &["--n_cpu_moe", "2"], &["--n-cpu-moe=2"]] {
        assert_eq!(read(flags), expected, "{flags:?}");
    }
    assert_eq!(read(&["--cpu_moe"]), "all-experts");
    assert_eq!(read(&["--override_tensor", "a_b=CPU"]), "regex:a_b=cpu");
    let dense = r"regex:blk\.([0-1])\.ffn_(up|down|gate)\.=cpu";
    assert_eq!(read(&["-ncffn", "2"]), dense);
    assert_eq!(read(&["--n-cpu-ffn", "2"]), dense);
    // The text of a policy may be flags.
    assert_eq!(
        parse(r"--override-tensor 'blk\.(0|1)\.ffn_.*_exps=CPU'").unwrap().to_string(),
        r"regex:blk\.(0|1)\.ffn_.*_exps=cpu"
    );
    assert_eq!(
        parse(r#"-ot "a b"='my card' -ot c"d"e=CPU -ot it's=CPU -ot "x\"\.y"=CPU"#)
            .unwrap()
            .to_string(),
        r#"regex:a b=my card;regex:cde=cpu;regex:it's=cpu;regex:x"\.y=cpu"#
    );
    assert_eq!(
        parse("-ot attn=CPU --n-cpu-moe 2").unwrap().to_string(),
        format!("regex:attn=cpu;{expected}")
    );
    assert_eq!(parse(" --cpu-moe ").unwrap(), OffloadPolicy::AllExperts);
    assert!(matches!(parse("--ngl 3"), Err(Error::InvalidFlag { flag, .. }) if flag == "--ngl"));
}

/// Every flag of the engine's argument parser that places weights.
#[test]
fn no_llama_flag_is_forgotten() {
    let source = support::engine_source::read("../common/arg.cpp");
    let options = source.split("add_opt(common_arg(");
    let places = |option: &&str| option.contains("tensor_buft_overrides");
    let mut seen = 0;
    for option in options.filter(places) {
        let is_draft = option.contains("speculative.draft");
        for flag in
            support::engine_source::all(r#""(-[-a-z]+)""#, option.split_once('}').unwrap().0)
        {
            let value = if option.contains("(common_params & params)") { None } else { Some("1") };
            let value = value.map(|n| if option.contains("=<buffer") { "a=CPU" } else { n });
            let flags: Vec<&str> = [flag.as_str()].into_iter().chain(value).collect();
            match OffloadPolicy::from_llama_flags(&flags) {
                Ok(_) => assert!(!is_draft, "{flag}"),
                Err(Error::InvalidFlag { fault: FlagFault::DraftModel, .. }) => {
                    assert!(is_draft, "{flag}");
                }
                Err(other) => panic!("{flag}: {other}"),
            }
            seen += 1;
        }
    }
    assert!(seen >= 18, "{seen}");
}

#[test]
fn llama_flags_that_are_wrong() {
    let fault = |flags: &[&str]| match OffloadPolicy::from_llama_flags(flags) {
        Err(Error::InvalidFlag { fault, .. }) => fault,
        other => panic!("{flags:?}: {other:?}"),
    };
    assert_eq!(fault(&["--ngl", "3"]), FlagFault::Unknown);
    assert_eq!(fault(&["--n-cpu-moe"]), FlagFault::MissingValue);
    assert_eq!(fault(&["-ncmoe", "-1"]), FlagFault::BadNumber { value: "-1".into() });
    assert_eq!(fault(&["-ncmoe", "70000"]), FlagFault::BadNumber { value: "70000".into() });
    assert_eq!(fault(&["-ot", "abc"]), FlagFault::BadOverride { value: "abc".into() });
    assert_eq!(fault(&["--cpu-moe=1"]), FlagFault::NoValue { value: "1".into() });
    assert_eq!(fault(&["-cmoed"]), FlagFault::DraftModel);
    assert!(FlagFault::DraftModel.to_string().contains("draft model"));
    let comma = fault(&["-ot", r"blk\.[0-9]{1,2}\.=CPU"]);
    assert_eq!(comma, FlagFault::BadOverride { value: r"blk\.[0-9]{1".into() });
    assert!(comma.to_string().contains("no pattern can hold one"), "{comma}");
}

#[test]
fn why_a_pattern_cannot_be_used_is_said_in_one_line() {
    let message = |error: Error| match error {
        error @ Error::InvalidPattern { .. } => error.to_string(),
        other => panic!("{other}"),
    };
    for text in [
        message(OffloadPolicy::from_llama_flags(["-ot", "(?!x)=CPU"]).unwrap_err()),
        message(parse(r"regex:blk\.(?=1)=cpu").unwrap_err()),
        message(parse(r"regex:(?<!shared)exps=cpu").unwrap_err()),
    ] {
        assert!(text.contains("look-around") && text.contains("is not supported"), "{text}");
        assert!(text.contains("a rule before it"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let open = message(parse("regex:(=cpu").unwrap_err());
    assert_eq!(open, "the pattern `(` cannot be used: unclosed group");
    let large = message(parse("regex:a{1000}{1000}{1000}=cpu").unwrap_err());
    assert!(large.contains("size limit"), "{large}");
}

#[test]
fn a_number_near_the_largest_is_cheap() {
    let layers: LayerSet = "0-4294967295".parse().unwrap();
    assert!(layers.contains(u32::MAX));
    assert_eq!(layers.to_string(), "0-4294967295");
}

fn any_target() -> impl Strategy<Value = Target> {
    "cpu|gpu|[A-Z]{1,5}[0-9]?(\\[[a-z.0-9:]{1,9}\\])?".prop_map(|text| text.parse().unwrap())
}

fn any_rule() -> impl Strategy<Value = OffloadPolicy> {
    let experts = prop_oneof![
        Just(OffloadPolicy::AllExperts),
        (1_u32..1000).prop_map(OffloadPolicy::FirstLayers),
        (1_u32..1000).prop_map(OffloadPolicy::LastLayers),
        prop::collection::btree_set(0_u32..100, 1..10)
            .prop_map(|layers| OffloadPolicy::Layers(layers.into_iter().collect())),
    ];
    let pattern = r"[a-zé;= \\.|*\[\]()^$]{1,12}";
    let regex = (pattern, any_target()).prop_filter_map("parses", |(pattern, target)| {
        OffloadPolicy::regex(&pattern, &target.to_string()).ok()
    });
    prop_oneof![
        experts.clone(),
        (experts, any_target()).prop_map(|(experts, target)| experts.on(target)),
        regex
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn text_and_value_are_one(rules in prop::collection::vec(any_rule(), 0..5)) {
        let policy = rules.into_iter().fold(OffloadPolicy::None, OffloadPolicy::then);
        let text = policy.to_string();
        prop_assert_eq!(text.parse::<OffloadPolicy>().unwrap(), policy, "{}", text);
    }

    #[test]
    fn no_text_panics(text in r"(none|all-experts|first-layers|layers|regex|[:;=,\\0-9a-z \[\]-]|\PC){0,12}") {
        if let Ok(policy) = text.parse::<OffloadPolicy>() {
            prop_assert_eq!(policy.to_string().parse::<OffloadPolicy>().unwrap(), policy);
        }
    }
}

/// What is wrong with a size is told, and not only how `fit` is written.
#[test]
fn a_size_that_cannot_be_says_why() {
    for (text, reason) in [
        ("fit:99999999999999999999GiB", "is too large"),
        ("fit:10%", "`10%` is a percentage"),
        ("fit:NaNGiB", "`NaNGiB` is not a number"),
        ("fit:10GiB,ram:infGiB", "is not a number"),
        ("fit:5XB", "has no unit that is known"),
        ("fit:0", "`0` leaves nothing"),
        ("fit:fewer-layer", "takes a budget or a margin"),
        (";", "there is an empty rule"),
    ] {
        let error = text.parse::<OffloadPolicy>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(!error.contains("``"), "{text}: {error}");
    }
}
