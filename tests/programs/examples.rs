//! The examples as a person runs them.

use std::process::Output;

use moe_offload_synth::{self as synth, SynthOptions};
use serde_json::{Value, json};

use crate::support;
use crate::support::model_files::{Shape, bytes_of, demo};
use crate::support::process::{Server, run};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The program failed as it should: status 1, one line on standard error that begins `error: `.
fn refused(output: &Output) -> String {
    refused_with(1, output)
}

/// The same with another status.
fn refused_with(status: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let message = text(&output.stderr).to_owned();
    let errors: Vec<&str> = message.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{message}");
    // Whatever comes before it is news, such as `connecting to …`.
    assert!(message.trim_end().ends_with(errors[0]), "{message}");
    message
}

#[test]
fn chat_prints_the_text_and_then_its_statistics() {
    let output = run(
        "chat",
        &[
            "--policy",
            "all-experts",
            "--prompt",
            "Hello",
            "--max-tokens",
            "32",
            "--temperature",
            "0",
            "--threads",
            "1",
            "--stats",
            "json",
        ],
    );
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let stats: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(lines[0].len() > 10, "{lines:?}");
    for key in [
        "load_seconds",
        "first_token_seconds",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
    ] {
        assert!(stats[key].as_f64().unwrap() > 0.0, "{key}: {stats}");
    }
    assert!(stats["prompt_tokens"].as_u64().unwrap() >= 3);
    assert!((5..=32).contains(&stats["generated_tokens"].as_u64().unwrap()));
    let cpu = &stats["devices"][0];
    for key in ["weights_bytes", "context_bytes", "compute_bytes"] {
        assert!(cpu[key].as_u64().unwrap() > 0, "{key}: {stats}");
    }
}

#[test]
fn chat_answers_what_a_newcomer_asks() {
    let output = run(
        "chat",
        &["--prompt", "What does this crate do?", "--temperature", "0", "--threads", "1"],
    );
    let answer = text(&output.stdout);
    assert!(answer.contains("expert") && answer.contains("memory"), "{answer}");
    assert!(text(&output.stderr).contains("policy   fit"), "{output:?}");
}

#[test]
fn chat_uses_a_server() {
    let server = Server::start();
    let output = run(
        "chat",
        &[
            "--rpc",
            &server.endpoint,
            "--prompt",
            "Hello",
            "--max-tokens",
            "4",
            "--threads",
            "1",
            "--policy",
            "layers:1-2",
            "--stats",
            "json",
        ],
    );
    let stats: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(stats["devices"][0]["name"], "RPC0", "{output:?}");
    assert!(stats["devices"][0]["weights_bytes"].as_u64().unwrap() > 1_000_000);
}

#[test]
fn plan_lists_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let model = synth::family("deepseek-v2-lite").unwrap().build(&SynthOptions::tiny()).unwrap();
    let writer = model.header();
    std::fs::write(&path, bytes_of(writer)).unwrap();
    let path = path.to_str().unwrap();
    let output = run("plan", &["--model", path, "--policy", "first-layers:1", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tensors = plan["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), writer.tensors().len());
    for device in plan["devices"].as_array().unwrap() {
        let here = tensors.iter().filter(|tensor| tensor["device"] == device["name"]);
        let bytes: u64 = here.map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
        assert_eq!(device["weights_bytes"].as_u64(), Some(bytes), "{device}");
    }
    assert_eq!(plan["devices"][0]["name"], "gpu");
    let named =
        run("plan", &["--model", path, "--device", "A=1GiB", "--device", "B=1GiB", "--json"]);
    let plan: Value = serde_json::from_slice(&named.stdout).unwrap();
    let names: Vec<&str> =
        plan["devices"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["A", "B", "cpu"]);
}

#[test]
fn bad_input_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    let moe = bytes_of(&Shape::default().writer());
    write("moe.gguf", &moe);
    write("cut.gguf", &moe[..moe.len() / 2]);
    write("text.gguf", b"this is no model");
    write("dense.gguf", &bytes_of(&Shape { experts: 0, ..Shape::default() }.writer()));
    let demo = demo().to_str().unwrap().to_owned();
    let cases: &[(&str, &[&str], &str)] = &[
        (&at("none.gguf"), &[], "cannot open"),
        (folder.path().to_str().unwrap(), &[], "is a directory"),
        (&at("cut.gguf"), &[], "is truncated"),
        (&at("text.gguf"), &[], "is not a GGUF file"),
        (&at("dense.gguf"), &["--policy", "all-experts"], "has no experts"),
        (&demo, &["--policy", "regex:nothing_like_it=cpu"], "matches no tensor"),
        (&demo, &["--policy", "first-layers:99"], "asks for 99 layers"),
        (&demo, &["--policy", "all-experts=CUDA7"], "there is no device `CUDA7`"),
        (&demo, &["--context", "0"], "--context is 0"),
    ];
    for program in ["plan", "chat"] {
        for (model, arguments, expected) in cases {
            let mut all = vec!["--model", model];
            all.extend_from_slice(arguments);
            if program == "chat" {
                all.extend(["--prompt", "x"]);
            }
            let message = refused(&run(program, &all));
            assert!(message.contains(expected), "{program}: {message}");
        }
    }
    for (arguments, expected) in [
        (&["--policy", "regex:(=cpu"][..], "cannot be used: unclosed group"),
        (&["--policy", "some"], "no such rule"),
        (&["--device", "x"], "NAME=BYTES"),
        (&["--nonsense"], "unexpected argument"),
    ] {
        let message = refused(&run("plan", &[&["--model", &demo], arguments].concat()));
        assert!(message.contains(expected), "{message}");
    }
    assert!(refused(&run("plan", &[])).contains("--model"), "what is missing is named");
    let nowhere = refused(&run("chat", &["--rpc", "nonsense", "--prompt", "x"]));
    assert!(nowhere.contains("HOST:PORT"), "{nowhere}");
    let remote = run("rpc_server", &["--listen", "0.0.0.0:50999"]);
    assert!(refused(&remote).contains("--allow-remote"));
}

#[test]
fn the_readme_s_families_are_the_table_s() {
    let readme = include_str!("../../README.md");
    let start = readme.find("<!-- families: made by").unwrap();
    let start = start + readme[start..].find('\n').unwrap() + 1;
    let table = &readme[start..readme.find("<!-- end of families -->").unwrap()];
    let output = run("synth", &["--list", "--markdown"]);
    assert_eq!(
        table,
        text(&output.stdout),
        "put what `synth --list --markdown` prints into README.md"
    );
}

#[test]
fn synth_writes_what_plan_reads() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let split = at("deepseek.gguf");
    let written = run(
        "synth",
        &["--arch", "deepseek-v2-lite", "--scale", "tiny", "--shards", "3", "--out", &split],
    );
    let paths: Vec<&str> = text(&written.stdout).lines().collect();
    assert_eq!(paths.len(), 3, "{written:?}");
    let plan = run("plan", &["--model", paths[0], "--policy", "first-layers:1", "--json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    // The first layer is dense.
    let moved: Vec<&Value> = plan["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|tensor| tensor["device"] == "cpu" && tensor["kind"] != "input")
        .collect();
    assert!(!moved.is_empty() && moved.iter().all(|tensor| tensor["layer"] == 1), "{moved:?}");

    let hole = at("hole.gguf");
    run("synth", &["--arch", "mixtral-8x7b", "--no-weights", "--out", &hole]);
    let table = run("plan", &["--model", &hole, "--device", "CUDA0=12GiB"]);
    assert!(text(&table.stdout).contains("32 layers (32 with experts), 8 experts"), "{table:?}");
    assert!(refused(&run("synth", &["--arch", "gpt-5", "--out", &hole])).contains("--list"));
}

#[test]
fn plan_fits_a_card_and_freezes_what_chat_loads() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    run("synth", &["--arch", "gpt-oss-20b", "--no-weights", "--out", &at("hole.gguf")]);
    let fit = |budget: &str, device: &str| {
        let model = at("hole.gguf");
        let output =
            run("plan", &["--model", &model, "--policy", budget, "--device", device, "--json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["devices"][0].clone()
    };
    let card = fit("fit", "RTX 4070=8GiB");
    assert_eq!((&card["name"], &card["free_bytes"]), (&"RTX 4070".into(), &(8_u64 << 30).into()));
    let total = card["total_bytes"].as_u64().unwrap();
    assert!((7 << 30..=8 << 30).contains(&total), "{total}");
    assert!(fit("fit:4GiB", "RTX 4070=8GiB")["total_bytes"].as_u64().unwrap() <= 4 << 30);
    let small = ["--model", &at("hole.gguf"), "--policy", "fit", "--device", "small=1GiB"];
    let message = refused_with(3, &run("plan", &small));
    assert!(message.contains("the plan needs"), "{message}");

    // As little as that for experts on disk does not fit either.
    let cache = ["--policy", "all-experts=disk", "--expert-cache", "1KiB"];
    let model = at("hole.gguf");
    let arguments: Vec<&str> = ["--model", &model].into_iter().chain(cache).collect();
    let message = refused_with(3, &run("plan", &arguments));
    assert!(message.contains("of memory for experts from disk"), "{message}");
    // A device that nobody named is said to be assumed.
    for policy in ["all-experts=gpu", "fit:1GiB", "none"] {
        let assumed = run("plan", &["--model", &model, "--policy", policy]);
        assert!(text(&assumed.stderr).contains("an assumed device `gpu`"), "{policy}: {assumed:?}");
    }

    let server = Server::start();
    let demo = demo().to_str().unwrap().to_owned();
    let frozen = at("frozen.json");
    run(
        "plan",
        &["--model", &demo, "--policy", "layers:2", "--device", "RPC0=1GiB", "--freeze", &frozen],
    );
    let chat = |extra: &[&str]| {
        let mut all = vec!["--model", &demo, "--rpc", &server.endpoint, "--threads", "1"];
        all.extend([
            "--prompt",
            "Hello",
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--stats",
            "json",
        ]);
        all.extend_from_slice(extra);
        let output = run("chat", &all);
        assert!(output.status.success(), "{output:?}");
        let stats = text(&output.stdout).lines().last().unwrap().to_owned();
        serde_json::from_str::<Value>(&stats).unwrap()["devices"][0]["weights_bytes"].clone()
    };
    assert_eq!(chat(&["--plan", &frozen]), chat(&["--policy", "layers:2"]));
}

#[test]
fn plan_holds_back_what_a_card_takes_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.gguf").to_str().unwrap().to_owned();
    run("synth", &["--arch", "gpt-oss-20b", "--no-weights", "--out", &path]);
    let overhead = |arguments: &[&str]| {
        let first = ["--model", &path, "--json", "--policy", "fit"];
        let output = run("plan", &[&first[..], arguments].concat());
        let json = serde_json::from_slice::<Value>(&output.stdout).unwrap();
        json["devices"][0]["overhead_bytes"].as_u64()
    };
    let cuda = ["--device", "CUDA0=12GiB"];
    // 176 MiB and the pool of 512 tokens with 4 experts each.
    assert_eq!(overhead(&cuda), Some((176 + 20) << 20));
    assert_eq!(overhead(&["--device", "Vulkan0=12GiB"]), None);
    assert_eq!(overhead(&[&cuda[..], &["--overhead", "CUDA0=0B"]].concat()), None);
    let by_hand = ["--overhead", "CUDA0=300MiB"];
    assert_eq!(overhead(&[&cuda[..], &by_hand].concat()), Some(300 << 20));
    let wrong = ["--model", &path, "--device", "gpu=12GiB", "--overhead", "CUDA0=300MiB"];
    assert!(refused(&run("plan", &wrong)).contains("there is no device `CUDA0`"));
    // By any spelling, once for each device, and for devices alone.
    assert_eq!(overhead(&[&cuda[..], &["--overhead", "cuda0=300MiB"]].concat()), Some(300 << 20));
    let twice = ["--overhead", "CUDA0=1MiB", "--overhead", "cuda0=9MiB"];
    let message = refused(&run("plan", &[&["--model", &path], &cuda[..], &twice].concat()));
    for part in ["--overhead is", "`CUDA0` and", "`cuda0`", "once for each device"] {
        assert!(message.contains(part), "{message}");
    }
    let cpu = ["--overhead", "cpu=1GiB"];
    let planned = run("plan", &[&["--model", &path], &cuda[..], &cpu].concat());
    let chatted = run("chat", &[&["--prompt", "x"], &cpu[..]].concat());
    for output in [planned, chatted] {
        let message = refused(&output);
        assert!(message.contains("--overhead is") && message.contains("of a device"), "{message}");
    }
}

#[test]
fn a_plan_that_does_not_fit_has_a_status_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.gguf").to_str().unwrap().to_owned();
    run("synth", &["--arch", "gpt-oss-20b", "--no-weights", "--out", &path]);
    let plan = |arguments: &[&str]| run("plan", &[&["--model", &path], arguments].concat());

    let card = ["--policy", "none", "--device", "CUDA0=8GiB"];
    let output = plan(&card);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let table = text(&output.stdout);
    // What CUDA takes for itself is part of it.
    assert!(table.contains("DOES NOT FIT: CUDA0 is short by at least 3."), "{table}");
    let output = plan(&[&card[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = &json["devices"][0];
    let bytes = |key: &str| device[key].as_u64().unwrap();
    assert_eq!(bytes("short_by_bytes"), bytes("total_bytes") - (8 << 30), "{device}");

    // The CPU's memory, of this machine or as it is told.
    let output = plan(&["--cpu-only"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("left over"), "{output:?}");
    let without = plan(&[]);
    assert_eq!(without.status.code(), Some(0), "{without:?}");
    assert!(text(&without.stderr).contains("--device gpu=12GiB"), "{without:?}");
    assert!(text(&without.stdout).starts_with("policy   fit\n"), "the default\n{without:?}");
    let long = plan(&["--device", "cpu=1GB", "--context", "4000000"]);
    assert_eq!(long.status.code(), Some(3), "{long:?}");
    assert!(text(&long.stdout).contains("DOES NOT FIT: cpu is short by"), "{long:?}");
    let both = plan(&["--device", "cpu=1GB", "--device", "CUDA0=8GiB"]);
    assert_eq!(both.status.code(), Some(0), "{both:?}");
    assert!(text(&both.stdout).contains("953.67 MiB"), "{both:?}");
    assert!(refused(&plan(&["--device", "CUDA0=8"])).contains("8GiB"));
    assert!(refused(&plan(&["--policy", "fit:8"])).contains("write `8GiB`"));
    assert!(refused(&plan(&["--policy", "fit:ram:8"])).contains("write `8GiB`"));
    assert!(refused(&plan(&["--expert-cache", "8"])).contains("8GiB"));
}

#[test]
fn measure_counts_what_a_token_costs() {
    let server = Server::start();
    let rpc = ["--rpc", &server.endpoint, "--threads", "1"];
    let measure = |more: &[&str]| {
        let output = run("measure", &[&rpc, more].concat());
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).to_owned()
    };
    let listed = run("measure", &["--devices", "--rpc", &server.endpoint]);
    let listed = text(&listed.stdout);
    assert!(listed.starts_with("RPC0") && listed.contains(&server.endpoint), "{listed}");
    let listed = run("measure", &["--devices", "--json", "--rpc", &server.endpoint]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let [device] = &listed.as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&device["name"], &device["kind"]), (&json!("RPC0"), &json!("remote")));
    assert!(device["free_bytes"].is_u64() && device["total_bytes"].is_u64(), "{device}");
    let none = run("measure", &["--devices", "--json"]);
    assert_eq!(text(&none.stdout), "[]\n", "{none:?}");

    let rows = measure(&["--json", "--words", "8", "--tokens", "8"]);
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 6, "none, all-experts, half the layers, and fit three times");
    let trips = |row: &Value| row["servers"][0]["per_token"]["round_trips"].as_f64().unwrap();
    for row in &rows {
        assert_eq!(row["as_planned"], true, "{row}");
        assert_eq!(row["text"], rows[0]["text"], "{row}");
        assert!(trips(row) >= 1.0, "{row}");
    }
    assert!(trips(&rows[1]) > trips(&rows[0]), "experts on the CPU cost round trips: {rows:?}");
    assert_eq!(rows[1]["expert_bytes"], 0);
    let fitted = |i: usize| rows[i]["expert_bytes"].as_u64().unwrap();
    assert!(fitted(3) <= fitted(4) && fitted(4) <= fitted(5) && fitted(5) <= fitted(0), "{rows:?}");
}

#[test]
fn measure_sets_what_it_is_told_and_says_what_does_not_fit() {
    let server = Server::start();
    let usual = ["--rpc", &server.endpoint, "--threads", "1", "--json", "--context", "256"];
    let measure = |more: &[&str]| run("measure", &[&usual, more].concat());
    let filled = ["--policy", "all-experts", "--prompt-tokens", "200", "--to-the-end"];
    let set = ["--micro-batch", "64", "--load-mode", "read", "--kv-type", "q8_0"];
    let output = measure(&[&filled[..], &set].concat());
    assert!(output.status.success(), "{output:?}");
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key}: {row}"));
    assert!((190..=200).contains(&number("prompt_tokens")), "{row}");
    assert_eq!((number("micro_batch_tokens"), &row["load_mode"]), (64, &Value::from("read")));
    assert_eq!(row["planned"][0]["server"], server.endpoint.as_str(), "{row}");

    let short = measure(&["--policy", "fit:1KiB"]);
    assert!(refused_with(3, &short).contains("1.00 KiB"), "{short:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_a_reader_who_went_away_is_none() {
    use std::process::Stdio;
    let demo = demo().to_str().unwrap().to_owned();
    for (program, arguments) in
        [("plan", &["--json"][..]), ("chat", &["--prompt", "Hello", "--threads", "1"])]
    {
        let to = |stdout: Stdio| {
            let mut command = support::process::program(program);
            command.args(["--model", &demo]).args(arguments).stdin(Stdio::null());
            command.stdout(stdout).stderr(Stdio::null()).status().unwrap()
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(to(full.into()).code(), Some(1), "{program}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(to(writer.into()).code(), Some(0), "{program}");
    }
}

#[test]
fn a_conversation_goes_on_after_an_error() {
    use std::io::Write;
    use std::process::Stdio;
    let mut chat = support::process::program("chat")
        .args(["--threads", "1", "--temperature", "0", "--context", "256", "--stats", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let long = "word ".repeat(400);
    let mut input = chat.stdin.take().unwrap();
    input.write_all(format!("{long}\n").as_bytes()).unwrap();
    input.write_all(b"\xff\xfe\nHello\n").unwrap();
    drop(input);
    let output = chat.wait_with_output().unwrap();
    // The status tells a script that a question had no answer.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("the prompt has"), "{output:?}");
    assert!(text(&output.stdout).contains("demo model"), "{output:?}");
}

#[test]
fn plan_fits_with_fallbacks_and_open_sizes() {
    let path = demo();
    let plan = |arguments: &[&str]| {
        let mut all = vec!["--model", path.to_str().unwrap()];
        all.extend(arguments);
        run("plan", &all)
    };
    let output = plan(&[
        "--device",
        "RTX 4070=12GiB",
        "--policy",
        "fit",
        "--context",
        "auto",
        "--kv-type",
        "auto",
        "--micro-batch",
        "auto",
    ]);
    assert!(output.status.success(), "{output:?}");
    let table = text(&output.stdout);
    for line in ["chose: KV cache in ", "tokens computed at once", "RTX 4070"] {
        assert!(table.contains(line), "{table}");
    }
    let output = plan(&[
        "--device",
        "a=12MB",
        "--policy",
        "fit:cache-to-host",
        "--context",
        "8192",
        "--json",
    ]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["decisions"][0]["decision"], "cache-to-host");
    assert_eq!(json["devices"][0]["context_from"], "formula");
    refused(&plan(&["--policy", "fit:cache-to-host,cache-to-host"]));
    refused(&plan(&["--kv-type", "f17"]));
}

#[test]
fn chat_keeps_to_a_form_and_refuses_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ask = ["--prompt", "Hello", "--stats", "none", "--context", "256"];
    let schema = path(
        "schema.json",
        br#"{"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}"#,
    );
    let output = run("chat", &[&ask[..], &["--json-schema", &schema, "--mirostat", "2"]].concat());
    let numbers: Vec<i64> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(numbers.len(), 2, "{}", text(&output.stderr));
    let grammar = path("yes.gbnf", b"root ::= \"yes\"");
    let output = run("chat", &[&ask[..], &["--grammar", &grammar, "--top-k", "5"]].concat());
    assert_eq!(text(&output.stdout), "yes\n");
    let output = run("chat", &[&ask[..], &["--grammar", &grammar, "--max-tokens", "0"]].concat());
    assert!(text(&output.stderr).contains("cut off"), "{}", text(&output.stderr));
    let marked =
        [("--grammar", "\u{feff}root ::= \"1\""), ("--json-schema", "\u{feff}{\"const\": 1}")];
    for (option, form) in marked {
        let form = path("marked", form.as_bytes());
        let output = run("chat", &[&ask[..], &[option, &form]].concat());
        assert_eq!(text(&output.stdout), "1\n", "{option}: {}", text(&output.stderr));
    }
    let deep = [b"[".repeat(300), b"]".repeat(300)].concat();
    let bad: [(&str, &[u8], &str); 6] = [
        ("--grammar", b"root ::= (", "grammar"),
        ("--grammar", b"\xFF\xFEr\0o\0", "UTF-16"),
        ("--grammar", b"root ::= \"\xE9\"", "no text in UTF-8"),
        ("--json-schema", b"\xFE\xFF\0{\0}", "UTF-16"),
        ("--json-schema", &deep, "64 levels"),
        ("--json-schema", &b" ".repeat((4 << 20) + 1), "more than 4 MiB"),
    ];
    for (option, form, part) in bad {
        let error = refused(&run("chat", &[&ask[..], &[option, &path("bad", form)]].concat()));
        assert!(error.contains(part), "{option}: {error}");
    }
    let error = refused(&run("chat", &[&ask[..], &["--typical-p", "2"]].concat()));
    assert!(error.contains("--typical-p is 2"), "{error}");
    let error = refused(&run("chat", &[&ask[..], &["--template", "no-value"]].concat()));
    assert!(error.contains("NAME=JSON"), "{error}");
}

#[test]
fn chat_goes_on_with_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("talk.json");
    let ask = |prompt: &str| {
        let session = session.to_str().unwrap();
        let output = run(
            "chat",
            &[
                "--prompt",
                prompt,
                "--session",
                session,
                "--temperature",
                "0",
                "--stats",
                "json",
                "--context",
                "512",
            ],
        );
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout).lines().last().unwrap().to_owned();
        serde_json::from_str::<Value>(&said).unwrap()
    };
    assert_eq!(ask("What is this crate?")["reused_tokens"], 0);
    let second = ask("What is 3 plus 4?");
    assert!(second["reused_tokens"].as_u64() > Some(10), "{second}");
    let talk: Value = serde_json::from_slice(&std::fs::read(&session).unwrap()).unwrap();
    assert_eq!(talk.as_array().unwrap().len(), 4);
    // Without the state it is read again.
    let mut state = session.clone().into_os_string();
    state.push(".state");
    std::fs::write(state, b"nonsense").unwrap();
    assert_eq!(ask("What is this crate?")["reused_tokens"], 0);
}

#[test]
fn no_result_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::copy(demo(), at("own.gguf")).unwrap();
    std::fs::write(at("part-00002-of-00002.gguf"), "of somebody").unwrap();
    let plan =
        |out: &str| run("plan", &["--model", &at("own.gguf"), "--cpu-only", "--freeze", out]);
    let synth = |out: &str, shards: &str| {
        let arguments = ["--arch", "dbrx", "--scale", "tiny", "--shards", shards, "--out", out];
        run("synth", &arguments)
    };
    assert!(plan(&at("plan.json")).status.success());
    for output in [
        plan(&at("own.gguf")),
        plan(&at("plan.json")),
        synth(&at("own.gguf"), "1"),
        synth(&at("part.gguf"), "2"),
    ] {
        assert!(refused(&output).contains("nothing is replaced"), "{output:?}");
    }
    assert_eq!(std::fs::read(at("own.gguf")).unwrap(), std::fs::read(demo()).unwrap());
    assert_eq!(std::fs::read_to_string(at("part-00002-of-00002.gguf")).unwrap(), "of somebody");
    assert!(!folder.path().join("part-00001-of-00002.gguf").exists());
    #[cfg(unix)]
    assert!(plan("/dev/null").status.success());
}

#[test]
fn plan_says_which_of_its_options_do_nothing() {
    let demo = demo().to_str().unwrap().to_owned();
    let plan = |arguments: &[&str]| {
        let common = ["--model", &demo, "--policy", "none", "--device", "gpu=1GiB"];
        run("plan", &[&common[..], arguments].concat())
    };
    for (option, value) in [("--expert-cache", "1GiB"), ("--disk-speed", "2GB")] {
        let output = plan(&[option, value]);
        let expected = format!("{option} changes nothing: no experts are on disk");
        assert!(text(&output.stderr).contains(&expected), "{output:?}");
    }
    for (policy, is_idle) in [("none", true), ("all-experts", false)] {
        let offload = ["--policy", policy, "--expert-offload-tokens", "4"];
        let output =
            run("plan", &[&["--model", &demo, "--device", "gpu=1GiB"], &offload[..]].concat());
        let expected = "--expert-offload-tokens changes nothing: no experts are in CPU memory";
        assert_eq!(text(&output.stderr).contains(expected), is_idle, "{output:?}");
    }
    for option in ["--context", "--kv-type", "--micro-batch"] {
        let message = refused(&plan(&[option, "auto"]));
        assert!(
            message.contains(&format!("{option} is left open, but must be given")),
            "{message}"
        );
    }
    for (arguments, expected) in [
        (["--device", "a=1GiB,b=1GiB"], "give the option again"),
        (["--device", "10.0.0.2:99999=1GiB"], "ports go from 1 to 65535"),
        (["--context", "-5"], "a whole number from 0"),
        (["--disk-speed", "-1GB"], "a number with a unit"),
    ] {
        assert!(refused(&plan(&arguments)).contains(expected), "{arguments:?}");
    }
    let twice = plan(&["--device", "cpu=1GiB", "--device", "CPU=2GiB"]);
    assert!(refused(&twice).contains("`cpu` twice; give it once"), "{twice:?}");
    let reversed = run("plan", &["--model", &demo, "--policy", "layers:3-1"]);
    assert!(refused(&reversed).contains("the smaller number first"), "{reversed:?}");
    let as_written = run("plan", &["--model", &demo, "--policy", "fit:8GB", "--device", "gpu=9GB"]);
    assert!(text(&as_written.stdout).contains("fit:8GB"), "{as_written:?}");
}

#[test]
fn a_context_beyond_what_the_model_was_trained_for_is_warned_of() {
    // The demo model was trained for 1,024 tokens.
    let demo = demo().to_str().unwrap().to_owned();
    for (tokens, is_warned) in [("1024", false), ("1025", true)] {
        let common = ["--model", &*demo, "--context", tokens];
        let planned = run("plan", &[&common[..], &["--cpu-only"]].concat());
        let chatted = run("chat", &[&common[..], &["--prompt", "x", "--max-tokens", "1"]].concat());
        for output in [planned, chatted] {
            assert!(output.status.success(), "{output:?}");
            let said = text(&output.stderr);
            assert_eq!(said.contains("trained for 1024 tokens"), is_warned, "{said}");
        }
    }
}
