//! The search over made-up machines.

use proptest::prelude::*;

use super::candidate::{micro_batches, thread_counts};
use super::*;
use crate::error::Error;
use crate::{LoadMode, OffloadPolicy};

mod stored;

const POLICIES: [&str; 3] = ["fit", "all-experts", "first-layers:2"];
const MODES: [LoadMode; 3] = [LoadMode::Auto, LoadMode::Mapped, LoadMode::Read];

fn policy(i: usize) -> OffloadPolicy {
    POLICIES[i].parse().unwrap()
}

fn defaults() -> Candidate {
    Candidate { threads: 3, micro_batch_tokens: 512, ..Candidate::defaults() }
}

fn space() -> Space {
    Space {
        references: vec![defaults(), Candidate { policy: policy(1), ..defaults() }],
        likely: Vec::new(),
        dimensions: vec![
            Dimension::Policy((0..3).map(policy).collect()),
            Dimension::OperationOffload(vec![true, false]),
            Dimension::Threads(vec![1, 2, 3, 4, 6, 8]),
            Dimension::MicroBatch(vec![128, 256, 512, 1024, 2048]),
            Dimension::LoadMode(MODES.to_vec()),
        ],
    }
}

fn answered(answer_seconds: f64) -> Measured {
    let outcome = Outcome::Measured(Figures {
        load_seconds: 0.5,
        prefill_tokens_per_second: 100.0,
        decode_tokens_per_second: 10.0,
        answer_seconds,
    });
    Measured { outcome, seconds: 1.0 }
}

fn failed(reason: &str) -> Measured {
    let outcome = Outcome::Failed { reason: reason.to_owned(), shortage: None };
    Measured { outcome, seconds: 0.1 }
}

fn shortage(lacking_bytes: u64) -> Shortage {
    let (needed_bytes, free_bytes) = (10 + lacking_bytes, 10);
    let device = "GPU0".to_owned();
    Shortage::of(&Error::DoesNotFit {
        device,
        needed_bytes,
        free_bytes,
        compute_bytes: 0,
        policy: String::new(),
    })
    .unwrap()
}

/// It did not fit the device, by so many bytes.
fn short_of(lacking_bytes: u64) -> Measured {
    let shortage = Some(shortage(lacking_bytes));
    Measured { outcome: Outcome::Failed { reason: "too large".into(), shortage }, seconds: 0.1 }
}

/// Each step away from what is best costs a tenth more.
fn seconds_with(best: &Candidate, candidate: &Candidate) -> f64 {
    let steps = |values: &[u32], a: u32, b: u32| {
        let place = |value| values.iter().position(|&other| other == value).unwrap_or(0);
        place(a).abs_diff(place(b))
    };
    let away = usize::from(best.policy != candidate.policy)
        + usize::from(best.operation_offload != candidate.operation_offload)
        + steps(&[1, 2, 3, 4, 6, 8], best.threads, candidate.threads)
        + steps(
            &[128, 256, 512, 1024, 2048],
            best.micro_batch_tokens,
            candidate.micro_batch_tokens,
        )
        + usize::from(best.load_mode != candidate.load_mode);
    1.1_f64.powi(i32::try_from(away).unwrap())
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let threads = prop::sample::select(vec![1, 2, 3, 4, 6, 8]);
    let micro_batches = prop::sample::select(vec![128, 256, 512, 1024, 2048]);
    let modes = prop::sample::select(MODES.to_vec());
    (0..3_usize, any::<bool>(), threads, micro_batches, modes).prop_map(
        |(i, operation_offload, threads, micro_batch_tokens, load_mode)| Candidate {
            policy: policy(i),
            operation_offload,
            threads,
            micro_batch_tokens,
            load_mode,
        },
    )
}

proptest! {
    #[test]
    fn a_planted_best_is_found(best in any_candidate()) {
        let measure = |attempt: &Attempt| Ok(answered(seconds_with(&best, &attempt.candidate)));
        let found = search(&space(), &Limits::default(), measure).unwrap();
        prop_assert_eq!(&found.chosen, &best);
        prop_assert_eq!(&found.stop, &Stop::NothingFaster);
        // No setting is measured twice before the final check.
        let searched: Vec<_> =
            found.trials.iter().filter(|trial| trial.purpose == Purpose::Search).collect();
        for (i, trial) in searched.iter().enumerate() {
            prop_assert!(searched[..i].iter().all(|other| other.candidate != trial.candidate));
        }
        if best == defaults() {
            prop_assert_eq!(&found.check, &Check::NotNeeded);
        } else {
            let has_won = matches!(&found.check, Check::Won { ratios } if ratios.len() == 4);
            prop_assert!(has_won);
        }
    }

    #[test]
    fn lies_in_the_search_never_win_the_check(
        best in any_candidate(),
        lies in prop::collection::vec(0.01..10.0_f64, 1..40),
    ) {
        let mut lies = lies.iter().cycle();
        let truth = |candidate: &Candidate| seconds_with(&best, candidate);
        let found = search(&space(), &Limits::default(), |attempt| {
            Ok(answered(match attempt.purpose {
                Purpose::Search => *lies.next().unwrap(),
                Purpose::Check(_) => truth(&attempt.candidate),
            }))
        });
        let chosen = found.unwrap().chosen;
        prop_assert!(chosen == defaults() || truth(&chosen) < truth(&defaults()));
    }

    #[test]
    fn noise_in_the_check_too_does_not_make_something_slower_win(
        lies in prop::collection::vec(0.1..10.0_f64, 1..40),
        noise in prop::collection::vec(0.98..1.02_f64, 8..40),
    ) {
        // All but the defaults take a tenth longer; noise is less than that.
        let (mut lies, mut noise) = (lies.iter().cycle(), noise.iter().cycle());
        let found = search(&space(), &Limits::default(), |attempt| {
            let truth = if attempt.candidate == defaults() { 1.0 } else { 1.1 };
            Ok(answered(match attempt.purpose {
                Purpose::Search => *lies.next().unwrap(),
                Purpose::Check(_) => truth * noise.next().unwrap(),
            }))
        });
        prop_assert_eq!(found.unwrap().chosen, defaults());
    }

    #[test]
    fn the_time_is_kept(best in any_candidate(), seconds in 0.0..60.0_f64, cost in 0.1..5.0_f64) {
        let limits = Limits { seconds, ..Limits::default() };
        let found = search(&space(), &limits, |attempt| {
            Ok(Measured { seconds: cost, ..answered(seconds_with(&best, &attempt.candidate)) })
        });
        let found = found.unwrap();
        let spent: f64 = found.trials.iter().map(|trial| trial.seconds).sum();
        // One trial is needed to know anything.
        prop_assert!(spent <= seconds.max(cost) + 1e-9, "{} of {}", spent, seconds);
        let is_time = found.stop == Stop::Time;
        prop_assert!(is_time || found.fastest == best);
    }

    #[test]
    fn what_fails_is_passed_over(best in any_candidate(), broken in any_candidate()) {
        let found = search(&space(), &Limits::default(), |attempt| {
            if attempt.candidate.policy == broken.policy {
                return Ok(failed("does not fit"));
            }
            Ok(answered(seconds_with(&best, &attempt.candidate)))
        });
        let found = found.unwrap();
        prop_assert!(found.chosen.policy != broken.policy);
        // If the defaults are broken, the next reference is what is to be beaten.
        let reference = usize::from(broken.policy == OffloadPolicy::default());
        prop_assert_eq!(&found.reference, &space().references[reference]);
    }
}

#[test]
fn a_line_is_left_where_it_gets_slower() {
    let measure = |attempt: &Attempt| Ok(answered(seconds_with(&defaults(), &attempt.candidate)));
    let found = search(&space(), &Limits::default(), measure).unwrap();
    let left = |dimension: &str, untried| Left { dimension: dimension.into(), untried };
    // 4 and 6 threads were slower, so 8 is not tried.
    assert_eq!(found.left, [left("threads", 1)]);
    assert_eq!(found.chosen, defaults());
}

#[test]
fn where_nothing_loads_the_reason_is_told() {
    let nothing = search(&space(), &Limits::default(), |attempt| {
        Ok(failed(&format!("{} is broken", attempt.candidate.policy)))
    });
    let error = nothing.unwrap_err();
    assert!(matches!(&error, Error::NothingLoads { .. }), "{error}");
    // All reasons, and no advice about memory where it was not that.
    let text = error.to_string();
    assert!(text.contains("fit is broken") && text.contains("all-experts is broken"), "{text}");
    assert!(!text.contains("Free memory"), "{text}");
    let unfit = search(&space(), &Limits::default(), |_| Ok(short_of(1)));
    assert!(unfit.unwrap_err().to_string().contains("Free memory"));
    // A figure that is no time is no figure.
    let nonsense = search(&space(), &Limits::default(), |_| Ok(answered(f64::NAN)));
    assert!(matches!(nonsense, Err(Error::NothingLoads { .. })));
}

#[test]
fn limits_that_cannot_be_kept_are_refused() {
    let with = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        search(&space(), &limits, |_| Ok(answered(1.0)))
    };
    let wrong: [fn(&mut Limits); 6] = [
        |limits| limits.seconds = f64::NAN,
        |limits| limits.seconds = -1.0,
        |limits| limits.pairs = 0,
        |limits| limits.pairs = u32::MAX,
        |limits| limits.gain = -0.1,
        |limits| limits.gain = 1.0,
    ];
    for (i, change) in wrong.into_iter().enumerate() {
        let refused = with(change);
        let is_option = matches!(refused, Err(Error::InvalidOption { .. }));
        assert!(is_option, "{i}");
    }
    assert!(with(|limits| limits.gain = 0.0).is_ok());
}

#[test]
fn an_error_ends_the_search() {
    let mut count = 0;
    let ended = search(&space(), &Limits::default(), |_| {
        count += 1;
        if count < 3 { Ok(answered(1.0)) } else { Err(Error::ContextLost) }
    });
    assert!(matches!(ended, Err(Error::ContextLost)));
    assert_eq!(count, 3);
}

/// All experts in memory that a device reads directly, and many tokens at once.
fn pinned() -> Candidate {
    Candidate { load_mode: LoadMode::Read, micro_batch_tokens: 2048, ..defaults() }
}

/// The search on a machine where that is eight times as fast, and every trial takes as long.
fn with_pinned(seconds: f64, trial_seconds: f64) -> Found {
    let space = Space { likely: vec![pinned()], ..space() };
    let limits = Limits { seconds, ..Limits::default() };
    let found = search(&space, &limits, |attempt| {
        let is_pinned = attempt.candidate.load_mode == LoadMode::Read
            && attempt.candidate.micro_batch_tokens == 2048;
        let measured = answered(if is_pinned { 1.0 } else { 8.0 });
        Ok(Measured { seconds: trial_seconds, ..measured })
    });
    found.unwrap()
}

#[test]
fn what_is_likely_is_tried_before_all_else() {
    let found = with_pinned(600.0, 1.0);
    assert_eq!([&found.trials[0].candidate, &found.trials[1].candidate], [&defaults(), &pinned()]);
    assert_eq!(found.chosen, pinned());
    assert!(matches!(&found.check, Check::Won { ratios } if ratios.len() == 4));
}

#[test]
fn what_is_faster_is_taken_however_little_time_there_is() {
    // Trials of a minute, as with a large model: time for the reference, what is likely, and a pair.
    let found = with_pinned(240.0, 60.0);
    assert_eq!((found.chosen, found.stop), (pinned(), Stop::Time));
    assert!(
        matches!(&found.check, Check::Won { ratios } if ratios.len() == 1),
        "{:?}",
        found.check
    );
    assert_eq!(found.trials.len(), 4);
    // A trial that takes longer than those before it, after which there is no time for a pair.
    let space = Space { likely: vec![pinned()], ..space() };
    let limits = Limits { seconds: 240.0, ..Limits::default() };
    let found = search(&space, &limits, |attempt| {
        let is_reference = attempt.candidate == defaults();
        let (answer, seconds) = if is_reference { (8.0, 60.0) } else { (1.0, 130.0) };
        Ok(Measured { seconds, ..answered(answer) })
    });
    let found = found.unwrap();
    assert_eq!((found.chosen, found.check), (pinned(), Check::NoTime));
    assert_eq!(found.trials.len(), 2);
}

#[test]
fn while_nothing_is_faster_the_time_is_for_the_search() {
    // Before, nine trials' time was kept back for the check from the beginning.
    let limits = Limits { seconds: 5.0, ..Limits::default() };
    let found = search(&space(), &limits, |attempt| {
        Ok(answered(if attempt.candidate.policy == policy(1) { 1.0 } else { 8.0 }))
    });
    let found = found.unwrap();
    assert_eq!(found.chosen, Candidate { policy: policy(1), ..defaults() });
    assert!(matches!(found.check, Check::Won { .. }), "{:?}", found.check);
}

#[test]
fn what_lacked_memory_is_not_tried_with_more_tokens_at_once() {
    let mut tried = Vec::new();
    let found = search(&space(), &Limits::default(), |attempt| {
        let Candidate { policy, micro_batch_tokens, .. } = &attempt.candidate;
        tried.push((policy.to_string(), *micro_batch_tokens, attempt.candidate.threads));
        // The second policy is fast and large.
        if policy.to_string() != "all-experts" {
            return Ok(answered(8.0));
        }
        Ok(if *micro_batch_tokens > 512 { short_of(1) } else { answered(1.0) })
    });
    assert_eq!(found.unwrap().chosen.policy, policy(1));
    let large = tried.iter().filter(|(policy, tokens, _)| policy == "all-experts" && *tokens > 512);
    assert_eq!(large.collect::<Vec<_>>().len(), 1, "1024 does not fit, so 2048 need not be tried");
}

#[test]
fn a_hopeless_trial_may_be_given_up() {
    let mut limits = Vec::new();
    search(&space(), &Limits::default(), |attempt| {
        limits.push((attempt.purpose, attempt.give_up_seconds));
        Ok(answered(if attempt.candidate == defaults() { 2.0 } else { 1.0 }))
    })
    .unwrap();
    assert!(limits[0].1.is_infinite());
    assert!((limits[1].1 - 6.0).abs() < 1e-9);
    // Nobody is given up in the final check.
    let checks = limits.iter().filter(|(purpose, _)| *purpose != Purpose::Search);
    assert!(checks.clone().count() == 8 && checks.clone().all(|(_, limit)| limit.is_infinite()));
}

#[test]
fn values_to_try() {
    assert_eq!(thread_counts(1), [1]);
    assert_eq!(thread_counts(2), [1, 2]);
    assert_eq!(thread_counts(16), [1, 2, 4, 8, 12, 15, 16]);
    assert_eq!(micro_batches(1), [128]);
    assert_eq!(micro_batches(512), [128, 256, 512]);
    assert_eq!(micro_batches(u32::MAX), [128, 256, 512, 1024, 2048, 4096]);
}

fn environment() -> Environment {
    serde_json::from_value(serde_json::json!({
        "unix_seconds": 1, "crate_version": "1", "crate_build": "release",
        "engine": { "package": "p", "ggml_version": "1", "ggml_commit": "c", "system_info": "" },
        "engine_build": "", "system": "linux", "cpu": "a CPU", "cpu_threads": 2,
        "memory_bytes": 1024,
        "devices": [{ "name": "GPU0", "free_bytes": 10, "total_bytes": 20 }],
        "models": [],
    }))
    .unwrap()
}

fn tuning() -> Tuning {
    let best = Candidate { threads: 4, ..defaults() };
    let measure = |attempt: &Attempt| Ok(answered(seconds_with(&best, &attempt.candidate)));
    let found = search(&space(), &Limits::default(), measure).unwrap();
    Tuning {
        version: TUNING_VERSION,
        key: TuneKey {
            environment: environment(),
            context_tokens: 512,
            prompt_tokens: 64,
            answer_tokens: 16,
            budget_bytes: None,
            policies: vec![policy(0)],
            rpc_servers: Vec::new(),
        },
        limits: Limits::default(),
        passed_over: vec![PassedOver {
            policy: policy(1),
            reason: "the same places as fit".into(),
            shortage: None,
        }],
        found,
        is_cached: false,
        not_kept: None,
    }
}

#[test]
fn what_to_use_is_told_with_all_that_it_was_found_for() {
    let mut tuning = tuning();
    tuning.key.rpc_servers = vec!["10.0.0.2:50052".into()];
    tuning.key.budget_bytes = Some(1 << 30);
    tuning.found.chosen.policy = "fit".parse().unwrap();
    let text = tuning.snippet();
    for part in [
        ".context_tokens(512)",
        ".rpc_server(\"10.0.0.2:50052\")",
        ".device_budget(\"GPU0\", 1073741824)",
        "--policy 'fit:1GiB'",
        "--context 512 --rpc 10.0.0.2:50052",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn it_prints_as_a_table() {
    insta::assert_snapshot!("tuning", tuning().to_string());
}
