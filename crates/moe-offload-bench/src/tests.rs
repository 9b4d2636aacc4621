//! Reports and checks over records made by hand.

use moe_offload::plan::CPU;
use serde_json::json;

use super::*;

mod agreement;

const MIB: u64 = 1 << 20;

fn policy(text: &str) -> PolicyChoice {
    text.parse().unwrap()
}

fn protocol() -> Protocol {
    let model = ModelChoice { name: "tiny".into(), path: "tiny.gguf".into() };
    let mut protocol = Protocol::new(vec![model]);
    protocol.policies = ["none", "all-experts"].map(policy).to_vec();
    protocol.prompts.truncate(1);
    protocol.threads = vec![1];
    protocol.repetitions = 3;
    protocol
}

fn setting(name: &str) -> Setting {
    Setting {
        model: "tiny".into(),
        policy: policy(name),
        context_tokens: 2048,
        threads: 1,
        micro_batch_tokens: 512,
    }
}

fn memory(name: &str, weights_bytes: u64) -> serde_json::Value {
    let bytes = json!({ "mapped_bytes": weights_bytes, "anonymous_bytes": 2 * MIB,
        "pinned_bytes": 0 });
    let mut row = json!({ "name": name, "weights_bytes": weights_bytes, "context_bytes": MIB,
        "compute_bytes": MIB });
    if name == CPU {
        row["host"] = bytes;
    }
    row
}

/// A load that answered in `seconds`, with so much on the device.
fn speed(name: &str, repetition: u32, seconds: f64, device_mib: u64) -> SpeedRecord {
    serde_json::from_value(json!({
        "setting": setting(name), "repetition": repetition, "policy": name, "load_seconds": 0.5,
        "answers": [{
            "prompt": "short", "prompt_tokens": 100, "reused_tokens": 0, "answer_tokens": 101,
            "first_token_seconds": seconds / 2.0,
            "prefill_tokens_per_second": 200.0 / seconds,
            "decode_tokens_per_second": 200.0 / seconds,
            "wall_seconds": seconds,
        }],
        "memory": [memory("GPU0", device_mib * MIB), memory(CPU, (100 - device_mib) * MIB)],
        "devices": [], "placement": [
            { "layer": 0, "device": "GPU0", "expert_bytes_on_devices": device_mib * MIB,
              "expert_bytes_on_cpu": (100 - device_mib) * MIB },
        ],
        "expected": [{ "device": "GPU0", "weights_bytes": device_mib * MIB }],
        "process": { "load_peak_bytes": 50 * MIB, "answer_peak_bytes": null },
        "energy": null, "task_seconds": 0.5 + seconds,
    }))
    .unwrap()
}

fn quality(name: &str, mean_kl_nats: Option<f64>) -> Record {
    let against = mean_kl_nats.map(|kl| {
        json!({ "mean_kl_nats": kl, "greatest_kl_nats": kl * 2.0, "top_1_agreement": 0.995,
            "greedy_agreement": 0.25, "greedy_first_difference": 275 })
    });
    let quality = json!({ "text_tokens": 500, "perplexity": 12.5, "greedy_tokens": 1100,
        "against": against });
    serde_json::from_value(json!({ "kind": "quality", "setting": setting(name),
        "quality": quality, "kl_bound_nats": 0.001 }))
    .unwrap()
}

fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for (repetition, slower) in [(0, 1.0), (1, 2.0), (2, 1.5)] {
        records.push(Record::Speed(speed("none", repetition, slower, 80)));
        records.push(Record::Speed(speed("all-experts", repetition, slower * 2.0, 20)));
    }
    records.extend([quality("none", None), quality("all-experts", Some(1e-4))]);
    records
}

fn does_not_fit(name: &str) -> Record {
    Record::DoesNotFit {
        task: Task::Speed { setting: setting(name), repetition: 0 },
        device: "GPU0".into(),
        needed_bytes: 82 * MIB,
        free_bytes: 64 * MIB,
    }
}

#[test]
fn a_sound_run_prints_as_tables() {
    let report = Report::new(protocol(), records());
    assert_eq!(report.faults(), []);
    insta::assert_snapshot!("markdown", report.markdown());
    insta::assert_snapshot!("csv", report.csv());
}

#[test]
fn records_survive_as_lines() {
    let counted = {
        let mut counted = ExpertUse::default();
        counted.record(3, &[1, 2]);
        counted
    };
    let expert_use = Record::ExpertUse {
        setting: setting("none"),
        counted,
        counted_seconds: 2.0,
        uncounted_seconds: 1.0,
    };
    let failed = Record::Failed {
        task: Task::Quality { setting: setting("none") },
        reason: "no reason".into(),
    };
    for record in records().into_iter().chain([does_not_fit("none"), expert_use, failed]) {
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
    }
}

#[test]
fn a_saving_needs_a_baseline_of_the_same_run() {
    let saving =
        |records: Vec<Record>| Report::new(protocol(), records).saving(&setting("all-experts"));
    let measured = Saving::Measured { baseline_bytes: 82 * MIB, bytes: 22 * MIB };
    assert_eq!(measured.to_string(), "60.00 MiB (73.2 %)");
    assert_eq!(saving(records()), measured);
    // The baseline was not measured, or did not fit: no figure, and the reason in the report.
    let is_ours = |record: &Record| matches!(record, Record::Speed(speed) if speed.setting.policy.as_str() == "all-experts");
    let mut ours: Vec<Record> = records().into_iter().filter(is_ours).collect();
    assert_eq!(saving(ours.clone()), Saving::NotMeasured);
    ours.push(does_not_fit("none"));
    assert!(matches!(saving(ours.clone()), Saving::BaselineDidNotFit { .. }));
    let text = Report::new(protocol(), ours).markdown();
    assert!(text.contains("the baseline did not fit GPU0 (needs 82.00 MiB, 64.00 MiB free)"));
    assert!(text.contains("does not fit GPU0"), "{text}");
    assert!(!text.contains("%)"), "{text}");
}

#[test]
fn a_saving_never_rounds_to_all() {
    let nearly = Saving::Measured { baseline_bytes: 15 << 30, bytes: 2 * MIB };
    assert!(nearly.to_string().ends_with("(99.9 %)"), "{nearly}");
    let more = Saving::Measured { baseline_bytes: MIB, bytes: 3 * MIB };
    assert_eq!(more.to_string(), "none: 2.00 MiB more");
}

#[test]
fn on_the_cpu_alone_nothing_is_saved_and_nothing_is_wrong() {
    let mut records = records();
    for record in &mut records {
        if let Record::Speed(speed) = record {
            speed.memory.retain(|memory| memory.name == CPU);
            speed.expected = Some(Vec::new());
        }
    }
    let report = Report::new(protocol(), records);
    assert_eq!(report.saving(&setting("all-experts")), Saving::NoDevice);
    assert_eq!(report.faults(), []);
}

#[test]
fn planted_a_policy_that_does_nothing_is_found() {
    let mut records = records();
    for record in &mut records {
        if let Record::Speed(speed) = record {
            // The expectation is the policy's, what was measured is the baseline's.
            speed.memory[0].weights_bytes = 80 * MIB;
        }
    }
    let faults = faults(&protocol(), &records);
    let of = |wanted: fn(&Fault) -> bool| faults.iter().filter(|fault| wanted(fault)).count();
    assert_eq!(of(|fault| matches!(fault, Fault::Memory { .. })), 3);
    assert_eq!(of(|fault| matches!(fault, Fault::WithoutEffect { .. })), 3);
    assert_eq!(faults.len(), 6);
}

#[test]
fn planted_a_fit_that_does_nothing_is_found() {
    let mut fit = speed("none", 0, 1.0, 80);
    fit.setting.policy = policy("fit:50%");
    fit.expected = None;
    let baseline = Record::Speed(speed("none", 0, 1.0, 80));
    let found =
        |fit: &SpeedRecord| faults(&protocol(), &[baseline.clone(), Record::Speed(fit.clone())]);
    // Loaded by no budget, by one that it exceeds, by one that holds everything.
    assert!(matches!(found(&fit)[..], [Fault::WithoutEffect { .. }]));
    fit.policy = "fit:50MiB".into();
    assert!(matches!(found(&fit)[..], [Fault::OverBudget { .. }, Fault::WithoutEffect { .. }]));
    fit.policy = "fit:90MiB".into();
    assert_eq!(found(&fit), []);
}

#[test]
fn planted_a_wrong_clock_is_found() {
    for factor in [0.5, 1.5, 2.0] {
        let mut wrong = speed("none", 0, 4.0, 80);
        let answer = &mut wrong.answers[0];
        for rate in [&mut answer.prefill_tokens_per_second, &mut answer.decode_tokens_per_second] {
            *rate = rate.map(|rate| rate * factor);
        }
        let faults = faults(&protocol(), &[Record::Speed(wrong)]);
        assert!(matches!(faults[..], [Fault::Clock { .. }]), "{factor}: {faults:?}");
    }
    // Both of the task's own clocks are wrong alike; the giver's is not.
    let mut wrong = speed("none", 0, 4.0, 80);
    wrong.task_seconds = 2.0;
    assert!(matches!(faults(&protocol(), &[Record::Speed(wrong)])[..], [Fault::Clock { .. }]));
    // A prompt that was in the cache.
    let mut reused = speed("none", 0, 4.0, 80);
    reused.answers[0].reused_tokens = 50;
    reused.answers[0].prompt_tokens += 50;
    assert!(matches!(faults(&protocol(), &[Record::Speed(reused)])[..], [Fault::Reused { .. }]));
}

#[test]
fn planted_another_text_is_found_and_shown_first() {
    let mut records = records();
    records.push(quality("all-experts", Some(0.3)));
    let report = Report::new(protocol(), records);
    assert!(matches!(report.faults(), [Fault::Quality { .. }]));
    assert!(report.markdown().starts_with("## Not to be believed"));
}

#[test]
fn a_task_that_worked_when_tried_again_is_no_fault() {
    let task = Task::Quality { setting: setting("none") };
    let failed = Record::Failed { task, reason: "interrupted".into() };
    assert_eq!(faults(&protocol(), &[failed.clone(), quality("none", None)]), []);
    assert!(matches!(faults(&protocol(), &[failed])[..], [Fault::Failed { .. }]));
}

#[test]
fn pictures_are_whole() {
    let mut records = records();
    let mut counted = ExpertUse::default();
    (0..4).for_each(|layer| counted.record(layer, &[layer, layer + 1]));
    let (counted_seconds, uncounted_seconds) = (1.0, 1.0);
    let setting = setting("none");
    records.push(Record::ExpertUse { setting, counted, counted_seconds, uncounted_seconds });
    let pictures = Report::new(protocol(), records).pictures().unwrap();
    let names: Vec<&str> = pictures.keys().map(String::as_str).collect();
    let expected = ["experts-tiny.svg", "memory-tiny.svg", "placement-tiny.svg", "speed.svg"];
    assert_eq!(names, expected);
    for (name, svg) in pictures {
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        if !name.starts_with("experts") {
            assert!(svg.contains("all-experts"), "{name}");
        }
    }
}
