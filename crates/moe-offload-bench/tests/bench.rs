//! The bench over the demo model, with an RPC server as the device.
#![allow(missing_docs)]

#[allow(dead_code, unreachable_pub)] // all tests share it, and each uses a part
#[path = "../../../tests/support"]
mod support {
    pub mod alone;
    pub mod gpus;
    pub mod process;
    #[cfg(target_os = "linux")]
    pub mod sockets;
}

use std::path::{Path, PathBuf};

use moe_offload::GgufFile;
use moe_offload_bench::{
    self as bench, BenchError, BenchResult, Fault, Journal, ModelChoice, PolicyChoice, Protocol,
    QualityProtocol, Record, Report, Saving, Setting, Task,
};
use support::gpus::ran_without;
use support::process::{Server, run};

/// The small model that talks.
fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/demo-moe.gguf")
}

fn protocol(policies: &[&str], servers: &[&Server]) -> Protocol {
    let model = ModelChoice { name: "demo".into(), path: demo() };
    let mut protocol = Protocol::new(vec![model]);
    protocol.policies = policies.iter().map(|text| text.parse().unwrap()).collect();
    protocol.prompts.truncate(2);
    protocol.context_tokens = vec![512];
    protocol.threads = vec![1];
    protocol.repetitions = 2;
    protocol.warm_up_rounds = 0;
    protocol.answer_tokens = 16;
    protocol.quality = None;
    protocol.rpc_servers = servers.iter().map(|server| server.endpoint.clone()).collect();
    protocol
}

fn small_quality() -> QualityProtocol {
    QualityProtocol { text_tokens: 150, greedy_tokens: 1024, ..QualityProtocol::default() }
}

fn records(
    protocol: &Protocol,
    execute: impl Fn(&Protocol, &Task, &Path) -> BenchResult<Record>,
) -> Vec<Record> {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path().join("j.jsonl"), protocol.clone()).unwrap();
    bench::run(&mut journal, |task| execute(protocol, task, folder.path()), |_| {}).unwrap();
    journal.records().to_vec()
}

/// But for clocks: other programs run beside the tests.
fn faults(protocol: &Protocol, records: &[Record]) -> Vec<Fault> {
    let faults = bench::faults(protocol, records).into_iter();
    faults.filter(|fault| !matches!(fault, Fault::Clock { .. })).collect()
}

fn setting(protocol: &Protocol, policy: &str) -> Setting {
    Setting {
        model: "demo".into(),
        policy: policy.parse().unwrap(),
        context_tokens: protocol.context_tokens[0],
        threads: 1,
        micro_batch_tokens: 512,
    }
}

#[test]
fn a_run_measures_what_the_policies_do() {
    if ran_without() {
        return;
    }
    let server = Server::start();
    let mut protocol = protocol(&["none", "all-experts", "half", "fit:50%"], &[&server]);
    protocol.quality = Some(small_quality());
    let records = records(&protocol, bench::measure);
    assert_eq!(faults(&protocol, &records), []);
    let report = Report::new(protocol.clone(), records.clone());
    let saved = |policy: &str| match report.saving(&setting(&protocol, policy)) {
        Saving::Measured { baseline_bytes, bytes } => baseline_bytes - bytes,
        other => panic!("{policy}: {other}"),
    };
    // All experts are 2.39 MiB of the file; a half saves less, a fit of half of them likewise.
    assert!(saved("all-experts") > saved("half") && saved("half") > 0);
    assert!(saved("all-experts") > saved("fit:50%") && saved("fit:50%") > 0);
    for record in &records {
        match record {
            Record::Speed(speed) => {
                let tokens: Vec<_> = speed.answers.iter().map(|a| a.prompt_tokens).collect();
                assert_eq!((tokens.len(), tokens[0] < tokens[1]), (2, true));
                assert!(speed.answers.iter().all(|answer| answer.wall_seconds > 0.0));
                let host = speed.memory.last().unwrap().host.unwrap();
                assert!(host.mapped_bytes + host.anonymous_bytes > 0);
            }
            Record::Quality(found) => {
                assert_eq!(found.quality.greedy_tokens, 1024);
                assert!(found.quality.perplexity > 1.0);
                assert_eq!(found.quality.text_tokens, 149);
            }
            Record::Environment(environment) => {
                assert_eq!(environment.devices.len(), 1);
                assert_eq!(environment.models[0].summary.layers, 4);
                assert!(environment.engine_build.contains("CMAKE_BUILD_TYPE"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn planted_a_process_that_ignores_the_policy_is_found() {
    if ran_without() {
        return;
    }
    let server = Server::start();
    let protocol = protocol(&["none", "all-experts"], &[&server]);
    let none = PolicyChoice::none();
    let records = records(&protocol, |protocol, task, scratch| {
        let Task::Speed { setting, repetition } = task else {
            return bench::measure(protocol, task, scratch);
        };
        let other = Task::Speed { setting: setting.under(&none), repetition: *repetition };
        let mut record = bench::measure(protocol, &other, scratch)?;
        if let Record::Speed(speed) = &mut record {
            speed.setting = setting.clone();
        }
        Ok(record)
    });
    let faults = faults(&protocol, &records);
    assert!(faults.iter().any(|fault| matches!(fault, Fault::Memory { .. })), "{faults:?}");
    assert!(faults.iter().any(|fault| matches!(fault, Fault::WithoutEffect { .. })), "{faults:?}");
}

#[test]
fn planted_a_changed_weight_shows_in_the_divergence() {
    if ran_without() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("changed.gguf");
    let mut bytes = std::fs::read(demo()).unwrap();
    let gguf = GgufFile::open(demo()).unwrap();
    let tensor = gguf.tensors().iter().find(|t| t.name == "blk.2.ffn_down_exps.weight").unwrap();
    let from = usize::try_from(tensor.file_offset).unwrap();
    let size = usize::try_from(tensor.bytes).unwrap();
    // The numbers of one expert are those of another: no shape, type or size changes.
    let half = size / 2;
    bytes.copy_within(from..from + half, from + half);
    std::fs::write(&copy, bytes).unwrap();
    let mut protocol = protocol(&["none", "all-experts"], &[]);
    protocol.quality = Some(small_quality());
    let divergence = |changed: bool| {
        let records = records(&protocol, |protocol, task, scratch| {
            let mut protocol = protocol.clone();
            match task {
                Task::Quality { setting } if setting.policy != protocol.baseline && changed => {
                    protocol.models[0].path.clone_from(&copy);
                }
                _ => {}
            }
            bench::measure(&protocol, task, scratch)
        });
        let kl = records.iter().find_map(|record| match record {
            Record::Quality(found) => found.quality.against.as_ref().map(|a| a.mean_kl_nats),
            _ => None,
        });
        let is_quality = |fault: &Fault| matches!(fault, Fault::Quality { .. });
        (kl.unwrap(), faults(&protocol, &records).iter().any(is_quality))
    };
    assert_eq!(divergence(false), (0.0, false));
    let (kl, is_fault) = divergence(true);
    assert!(kl > 1e-3 && is_fault, "{kl}");
}

#[test]
fn an_interrupted_run_is_resumed_and_loses_nothing() {
    if ran_without() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let protocol = protocol(&["none", "all-experts"], &[]);
    let measure = |task: &Task| bench::measure(&protocol, task, folder.path());
    let mut journal = Journal::create(&path, protocol.clone()).unwrap();
    bench::run(&mut journal, measure, |_| {}).unwrap();
    assert_eq!(journal.records().len(), 5);
    drop(journal);
    let begun = Journal::create(&path, protocol.clone()).unwrap_err();
    assert!(matches!(begun, BenchError::Exists { .. }), "{begun}");

    // The third of the measurements was cut off in the middle of its line.
    let whole = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let cut = lines[..4].join("\n") + "\n" + &lines[4][..lines[4].len() / 2];
    std::fs::write(&path, cut).unwrap();
    let mut journal = Journal::resume(&path, protocol.clone()).unwrap();
    let kept = journal.records().to_vec();
    let done = std::cell::RefCell::new(Vec::new());
    let again = |task: &Task| {
        done.borrow_mut().push(task.to_string());
        measure(task)
    };
    bench::run(&mut journal, again, |_| {}).unwrap();
    // The environment is looked at again, what is whole is not measured again.
    assert_eq!(*done.borrow(), ["environment", "demo all-experts 2", "demo none 2"]);
    assert_eq!(journal.records()[..3], kept[..]);
    let (_, records) = Journal::read(&path).unwrap();
    assert_eq!(records, journal.records());
    let speeds = records.iter().filter(|record| matches!(record, Record::Speed(_))).count();
    assert_eq!((speeds, records.len()), (4, 6));

    let mut other = protocol.clone();
    other.answer_tokens += 1;
    let refused = Journal::resume(&path, other).unwrap_err();
    assert!(matches!(refused, BenchError::OtherRun { what: "protocol", .. }), "{refused}");
}

#[test]
fn a_run_is_not_resumed_elsewhere() {
    if ran_without() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let protocol = protocol(&["none"], &[]);
    let mut journal = Journal::create(path, protocol.clone()).unwrap();
    let record = bench::measure(&protocol, &Task::Environment, folder.path()).unwrap();
    journal.add(record.clone()).unwrap();
    let Record::Environment(mut elsewhere) = record else { panic!("{record:?}") };
    elsewhere.cpu = "another".into();
    let refused = journal.add(Record::Environment(elsewhere)).unwrap_err();
    assert!(matches!(refused, BenchError::OtherRun { what: "machine", .. }), "{refused}");
}

#[test]
fn the_program_runs_resumes_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (journal, out) = (path("run.jsonl"), path("out"));
    let arguments = |extra: &[&'static str]| {
        let mut arguments: Vec<String> =
            ["run", "--journal", &journal, "--out", &out, "--policy", "none", "--no-quality"]
                .map(str::to_owned)
                .to_vec();
        let rest = ["--repetitions", "1", "--prompt", "short", "--threads", "1", "--expert-use"];
        arguments.extend(rest.iter().chain(extra).map(|&text| text.to_owned()));
        arguments
    };
    let bench = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run("bench", &arguments)
    };
    let first = bench(&arguments(&[]));
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    // Only a clock may be wrong, if the machine was very busy.
    assert!(first.status.success() || said.contains("passed"), "{said}");
    let told = said.lines().find(|line| line.starts_with("written to ")).unwrap_or_default();
    for name in ["report.md", "samples.csv", "memory-demo-moe.svg", "experts-demo-moe.svg"] {
        assert!(
            folder.path().join("out").join(name).exists() && told.contains(name),
            "{name}: {said}"
        );
    }
    let (protocol, records) = Journal::read(Path::new(&journal)).unwrap();
    assert_eq!((protocol.repetitions, records.len()), (1, 3));
    let compared = run("bench", &["agree", &journal, &journal]);
    let said = String::from_utf8_lossy(&compared.stderr).into_owned();
    assert_eq!(compared.status.code(), Some(1), "{said}");
    assert!(said.contains("too few samples") && said.contains("--repetitions 2"), "{said}");
    assert!(compared.stdout.is_empty(), "{compared:?}");
    let again = bench(&arguments(&[]));
    assert!(String::from_utf8_lossy(&again.stderr).contains("resume it"), "{again:?}");
    bench(&arguments(&["--resume"]));
    assert_eq!(Journal::read(Path::new(&journal)).unwrap().1.len(), 4);
}

#[test]
fn without_a_device_one_policy_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (journal, out) = (path("run.jsonl"), path("out"));
    let few = ["--no-quality", "--repetitions", "1", "--prompt", "short", "--threads", "1"];
    let output = run("bench", &[&["run", "--journal", &journal, "--out", &out], &few[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (protocol, records) = Journal::read(Path::new(&journal)).unwrap();
    let Record::Environment(here) = &records[0] else { panic!("{records:?}") };
    assert!(here.devices.is_empty(), "{here:?}");
    assert_eq!(protocol.policies, [PolicyChoice::none()], "{said}");
    assert!(said.contains("there is no device but the CPU"), "{said}");
    // Its picture would set speed against the memory of devices.
    assert!(!folder.path().join("out/speed.svg").exists());
    let report = std::fs::read_to_string(folder.path().join("out/report.md")).unwrap();
    assert!(report.contains("- device: none"), "{report}");
    // A journal that was cut has less to report, and says so.
    let reported = || {
        let output = run("bench", &["report", "--journal", &journal]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(!reported().contains("are not in"), "{}", reported());
    let lines = std::fs::read_to_string(&journal).unwrap();
    let cut = lines.trim_end().rsplit_once('\n').unwrap().0;
    std::fs::write(&journal, format!("{cut}\n")).unwrap();
    let of = format!("of {} tasks are not in", protocol.tasks().len());
    assert!(reported().contains(&of), "{}", reported());
}

#[test]
fn a_command_is_needed_and_all_are_named() {
    let output = run("bench", &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = "error: a command is needed: run, report, agree, protocol, tune; see --help\n";
    assert_eq!(said, expected);
}

#[test]
fn a_protocol_s_fields_are_named_as_the_file_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("threads");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = run("bench", &["protocol", "--protocol", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let printed = run("bench", &["protocol"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    let said = refused(&printed.replacen('{', r#"{"typo": 1,"#, 1));
    assert!(said.contains("unknown field `typo`") && said.contains("`context_tokens`"), "{said}");
    assert!(said.contains("/threads`: ") && !said.contains("--"), "{said}");
    let said = refused("null");
    assert!(said.contains("expected an object"), "{said}");
}

#[test]
fn a_prompt_that_is_not_there_is_no_prompt_fewer() {
    let output = run("bench", &["protocol", "--prompt", "short", "--prompt", "tpyo"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no prompt `tpyo`, only short"), "{said}");
    // Nor is it a time that is none.
    for minutes in ["nan", "inf"] {
        let output = run("bench", &["tune", "--minutes", minutes]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("a number of minutes"), "{said}");
    }
}

#[test]
fn the_program_tunes() {
    let arguments = ["tune", "--prompt-tokens", "32", "--answer-tokens", "4", "--minutes", "0.05"];
    let output = run("bench", &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["search stopped: ", "use: ", "MoeModel::builder(path)", "--example chat -- "] {
        assert!(
            text.contains(part) || part == "use: " && text.contains("use the defaults"),
            "{text}"
        );
    }
}
