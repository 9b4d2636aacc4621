//! Experts on disk: the text is that of experts in memory, within the budget, and nothing is computed on
//! bytes that are not the file's.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moe_offload::plan::DISK;
use moe_offload::{
    Error, Generation, GgufFile, Message, MoeModel, MoeModelBuilder, OffloadPolicy, PagingOptions,
    Plan,
};
use moe_offload_synth::{self as synth, SynthOptions};

use crate::support::generate::greedy;
use crate::support::group::Group;
use crate::support::model_files::{self, demo, repacked};
use crate::support::paging::{self, builder, made};
use crate::support::process::{Server, example};

const PROMPT: &str = "The quick brown fox jumps";

fn text(model: &mut MoeModel) -> String {
    model.generate(PROMPT, &greedy(16)).unwrap().text().unwrap()
}

fn with_cache(path: &Path, policy: &str, bytes: u64) -> MoeModelBuilder {
    // Guesses are tried by `threads_read_what_io_uring_reads` alone: they may be in vain.
    let paging = PagingOptions::default().cache_bytes(bytes).read_ahead(false);
    builder(path, policy).paging(paging)
}

/// The smallest cache that will do, as the error says.
fn least_cache(path: &Path, policy: &str) -> u64 {
    paging::least_cache(with_cache(path, policy, 1))
}

#[test]
fn every_family_says_the_same_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut paged = 0;
    for (i, family) in synth::families().enumerate() {
        let path = made(folder.path(), family.name, None, 1);
        let expected = text(&mut builder(&path, "none").load().unwrap());
        let least = least_cache(&path, "all-experts=disk");
        let load = with_cache(&path, "all-experts=disk", least);
        // Some with their layers on a device.
        let load = if i % 6 == 0 { load.rpc_server(&server.endpoint) } else { load };
        let mut model = load.load().unwrap();
        assert_eq!(text(&mut model), expected, "{}", family.name);
        let stats = model.paging().unwrap();
        assert!(stats.resident_bytes <= stats.budget_bytes, "{}: {stats:?}", family.name);
        assert!(stats.budget_bytes < least, "{}: {stats:?}", family.name);
        assert!(stats.missed_slices > 0 && stats.read_bytes == stats.missed_bytes, "{stats:?}");
        paged += stats.released_slices;
        drop(model);
        std::fs::remove_file(&path).unwrap();
    }
    assert!(paged > 1000, "{paged}");
}

#[test]
fn with_everything_in_memory_no_router_is_watched() {
    let bytes = GgufFile::open(demo()).unwrap().tensor_bytes();
    let mut model = with_cache(&demo(), "all-experts=disk", bytes).load().unwrap();
    let expected = text(&mut builder(&demo(), "none").load().unwrap());
    assert_eq!(text(&mut model), expected);
    let stats = model.paging().unwrap();
    assert_eq!((stats.needed_slices, stats.read_bytes), (0, 0), "{stats:?}");
    assert!(stats.resident_bytes > 0);
    // Nor are prompts read in smaller parts where only the token embedding is not.
    let rest = "regex:token_embd=disk;layers:0=disk";
    let model = with_cache(&demo(), rest, 1 << 40).load().unwrap();
    let whole = model.plan().context().micro_batch_tokens;
    assert_eq!(model.paging().unwrap().tokens_at_once, whole);
}

#[test]
fn the_token_embedding_is_read_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "gpt-oss-20b", None, 2);
    let both = "regex:token_embd=disk;all-experts=disk";
    let mut model = with_cache(&path, both, least_cache(&path, both)).load().unwrap();
    let plan = model.plan().clone();
    let disk = plan.disk().unwrap();
    let embedding = plan.tensors().iter().find(|placed| placed.tensor.name == "token_embd.weight");
    assert_eq!(embedding.unwrap().device, DISK);
    assert_eq!(embedding.unwrap().tensor.bytes, disk.embedding_bytes);
    assert!(plan.to_string().contains("of token embedding"), "{plan}");
    let expected = text(&mut builder(&path, "none").load().unwrap());
    assert_eq!(text(&mut model), expected);
    let stats = model.paging().unwrap();
    assert!(stats.read_bytes > stats.missed_bytes, "rows are read besides: {stats:?}");
    // Alone, with all experts in memory.
    let mut model = builder(&path, "regex:token_embd=disk").load().unwrap();
    assert_eq!(text(&mut model), expected);
    let stats = model.paging().unwrap();
    assert!(stats.read_bytes > 0 && stats.read_bytes < 64 * 8192, "{stats:?}");
    // This one's is used as output as well.
    let path = made(folder.path(), "granite-3.1-3b-a800m", None, 1);
    let tied = builder(&path, "regex:token_embd=disk").load().map(|_| ());
    assert!(matches!(tied, Err(Error::NothingToPage { .. })), "{tied:?}");
}

#[test]
fn fit_leaves_a_large_token_embedding_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let options = SynthOptions::default().layers(2);
    let model = synth::family("gpt-oss-20b").unwrap().build(&options).unwrap();
    model.save_without_weights(&path, 1).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let plan = |policy: &str| {
        let context = moe_offload::ContextOptions::with_context_tokens(256);
        policy.parse::<OffloadPolicy>().unwrap().plan(&gguf, &[], &context).unwrap()
    };
    let plan = plan("fit:ram:1GiB");
    let disk = plan.disk().unwrap();
    assert_eq!(disk.embedding_bytes, 201_088 * 2880 / 32 * 34);
    let cpu = plan.device("cpu").unwrap();
    assert_eq!(cpu.total_bytes, 1 << 30);
    assert_eq!(cpu.disk_cache_bytes.unwrap(), disk.cache_bytes.unwrap() + (16 << 20));
    plan.check(&gguf).unwrap();
}

#[test]
fn threads_read_what_io_uring_reads() {
    let least = least_cache(&demo(), "all-experts=disk");
    let read = |io_uring: bool| {
        let paging = PagingOptions::default().cache_bytes(least).io_uring(io_uring);
        let mut model = builder(&demo(), "all-experts=disk").paging(paging).load().unwrap();
        let text = text(&mut model);
        (text, model.paging().unwrap())
    };
    let ((by_threads, threads), (by_ring, ring)) = (read(false), read(true));
    assert_eq!(by_threads, by_ring);
    assert_eq!(threads.missed_bytes, ring.missed_bytes);
    assert!(ring.read_bytes >= ring.missed_bytes, "{ring:?}");
    assert!(threads.reader.starts_with("threads"), "{}", threads.reader);
    if io_uring::IoUring::new(1).is_ok() {
        assert!(ring.reader.starts_with("io_uring"), "{}", ring.reader);
    }
}

#[test]
fn conversations_and_several_texts_are_paged_too() {
    let least = least_cache(&demo(), "all-experts=disk");
    let both = |policy: &str| {
        let mut model = with_cache(&demo(), policy, least).sequences(2).load().unwrap();
        let questions = [Message::user("What is an expert?")];
        let first = model.chat(&questions, &greedy(24)).unwrap().text().unwrap();
        let together = model.generate_together(&["Hello", PROMPT], &greedy(12)).unwrap();
        let mut texts = vec![String::new(); 2];
        for piece in together {
            let (i, piece) = piece.unwrap();
            texts[i].push_str(&piece);
        }
        (first, texts)
    };
    assert_eq!(both("all-experts=disk"), both("none"));
}

#[test]
fn two_conversations_on_two_threads_take_turns() {
    let least = least_cache(&demo(), "all-experts=disk");
    let mut first = with_cache(&demo(), "all-experts=disk", least).load().unwrap();
    let mut second = first.another().unwrap();
    let expected = text(&mut builder(&demo(), "none").load().unwrap());
    std::thread::scope(|scope| {
        let other = scope.spawn(|| text(&mut second));
        assert_eq!(text(&mut first), expected);
        assert_eq!(other.join().unwrap(), expected);
    });
}

#[test]
fn a_split_model_is_paged_from_all_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "mixtral-8x7b", None, 3);
    assert!(GgufFile::open(&path).unwrap().shards().len() > 1);
    let expected = text(&mut builder(&path, "none").load().unwrap());
    let least = least_cache(&path, "all-experts=disk");
    let mapped = Arc::new(AtomicBool::new(false));
    let (seen, name) = (Arc::clone(&mapped), folder.path().to_str().unwrap().to_owned());
    let load = with_cache(&path, "all-experts=disk", least).on_progress(move |_| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        seen.fetch_or(maps.contains(&name), Ordering::Relaxed);
    });
    assert_eq!(text(&mut load.load().unwrap()), expected);
    assert!(!mapped.load(Ordering::Relaxed), "read as one stream");
}

#[test]
fn a_file_that_changes_stops_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.gguf");
    for cut in [false, true] {
        std::fs::copy(demo(), &path).unwrap();
        let least = least_cache(&path, "all-experts=disk");
        let mut model = with_cache(&path, "all-experts=disk", least).load().unwrap();
        text(&mut model);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        if cut {
            file.set_len(1 << 20).unwrap();
        } else {
            // Until it is later than the first write by the clock that file systems use.
            let modified = || file.metadata().unwrap().modified().unwrap();
            let first = modified();
            while modified() == first {
                file.write_all_at(&[7], 2 << 20).unwrap();
            }
        }
        model.forget().unwrap();
        let outcome = model.generate("Hello, who are you?", &greedy(30)).and_then(Generation::text);
        assert!(matches!(outcome, Err(Error::FileChanged { .. })), "cut: {cut}, {outcome:?}");
        // And nothing more comes of it.
        let later = model.generate(PROMPT, &greedy(3)).and_then(Generation::text);
        assert!(later.is_err(), "{later:?}");
        assert!(model.another().is_err(), "nor of another context");
    }
}

/// Text, and the logarithms of its tokens' probabilities.
fn exact(load: MoeModelBuilder, prompt: &str) -> (String, Vec<f32>) {
    let mut model = load.load().unwrap();
    let mut generation = model.generate(prompt, &greedy(12).log_probabilities(1)).unwrap();
    let (mut text, mut logarithms) = (String::new(), Vec::new());
    while let Some(piece) = generation.next() {
        text.push_str(&piece.unwrap());
        let tokens = generation.take_log_probabilities();
        logarithms.extend(tokens.into_iter().map(|token| token.chosen.log_probability));
    }
    (text, logarithms)
}

/// Also in the parts of a prompt that come to no output, of whose last layer nothing is computed.
#[test]
fn with_the_same_threads_and_micro_batch_each_bit_is_the_same() {
    let prompt = (0..33).map(|i| format!("dragon {i} and the king of {} moons said ", i * 7));
    let prompt: String = prompt.collect();
    let least = least_cache(&demo(), "all-experts=disk");
    let mut seen = Vec::new();
    for (threads, micro_batch) in [(1, 512), (1, 1), (2, 1), (1, 3)] {
        let sized = |load: MoeModelBuilder| {
            load.context_tokens(1024).threads(threads).micro_batch_tokens(micro_batch)
        };
        let expected = exact(sized(builder(&demo(), "none")), &prompt);
        assert!(expected.1.len() > 2, "{expected:?}");
        for bytes in [least, 3 * least, 1 << 40] {
            let paged = || sized(with_cache(&demo(), "all-experts=disk", bytes));
            let at_once = paged().load().unwrap().paging().unwrap().tokens_at_once;
            if at_once == micro_batch {
                assert_eq!(exact(paged(), &prompt), expected, "{threads} {micro_batch} {bytes}");
                seen.push((micro_batch, bytes == least));
            }
        }
    }
    for some in [(1, true), (3, false), (512, false)] {
        assert!(seen.contains(&some), "{seen:?}");
    }
}

/// Of a type for which the CPU has another layout, which those on disk never are in.
#[test]
fn without_repacking_each_bit_is_the_same_for_any_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = repacked(folder.path(), 2);
    let in_memory = |repack: bool| builder(&path, "none").micro_batch_tokens(1).repack(repack);
    let least = least_cache(&path, "all-experts=disk");
    let load = with_cache(&path, "all-experts=disk", least).micro_batch_tokens(1).repack(false);
    assert_eq!(exact(load, PROMPT), exact(in_memory(false), PROMPT));
    let copied = |repack: bool| {
        let model = in_memory(repack).load().unwrap();
        model.memory().last().and_then(|cpu| cpu.host).unwrap().anonymous_bytes
    };
    let (plain, repacked) = (copied(false), copied(true));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let experts = GgufFile::open(&path).unwrap().tensor_bytes() / 4;
        assert!(repacked > plain + experts, "{repacked} {plain}");
    }
    assert!(repacked >= plain);
}

#[test]
fn what_cannot_be_paged_is_told() {
    let error = |policy: &str| builder(&demo(), policy).load().map(|_| ()).unwrap_err();
    assert!(matches!(error("regex:attn_q=disk"), Error::NothingToPage { .. }));
    assert!(matches!(error("fit:ram:1MiB"), Error::DoesNotFit { .. }), "{}", error("fit:ram:1MiB"));
    let text = error("regex:attn_q=disk").to_string();
    assert!(text.contains("regex:attn_q=disk") && text.contains("in memory"), "{text}");
}

#[test]
fn fit_leaves_on_disk_what_memory_does_not_hold() {
    let gguf = GgufFile::open(demo()).unwrap();
    let plan = |policy: &str| {
        let policy: OffloadPolicy = policy.parse().unwrap();
        assert_eq!(policy.to_string().parse::<OffloadPolicy>().unwrap(), policy);
        policy.plan(&gguf, &[], &moe_offload::ContextOptions::with_context_tokens(256))
    };
    let everything = plan("fit:ram:1GiB").unwrap();
    assert!(everything.disk().is_none());
    let needed = everything.device("cpu").unwrap().total_bytes;
    assert!(plan(&format!("fit:ram:{needed}B")).unwrap().disk().is_none());
    let less = plan(&format!("fit:ram:{}B", needed - 1)).unwrap();
    let disk = less.disk().unwrap();
    let on_disk = less.tensors().iter().filter(|placed| placed.device == DISK);
    assert_eq!(on_disk.map(|placed| placed.tensor.bytes).sum::<u64>(), disk.weights_bytes);
    let cpu = less.device("cpu").unwrap();
    assert_eq!(
        disk.cache_bytes,
        Some(needed - 1 - (cpu.weights_bytes + cpu.context_bytes.unwrap()))
    );
    assert_eq!(cpu.total_bytes, needed - 1);
    // It survives as data, is checked, and loads the same.
    let stored: Plan = serde_json::from_str(&serde_json::to_string(&less).unwrap()).unwrap();
    assert_eq!(stored, less);
    stored.check(&gguf).unwrap();
    let least = least_cache(&demo(), "all-experts=disk");
    // A cache that was set by hand is in the stored plan too.
    let loaded = with_cache(&demo(), "all-experts=disk", 2 * least).load().unwrap();
    let again = builder(&demo(), "none").plan(loaded.plan().clone()).load().unwrap();
    let budget = |model: &MoeModel| model.paging().unwrap().budget_bytes;
    assert_eq!(budget(&again), budget(&loaded));
    // The buffers for computing, which only a load knows, do not fit beside.
    let refused = builder(&demo(), "none").plan(stored).load().map(|_| ());
    assert!(matches!(refused, Err(Error::DoesNotFit { .. })), "{refused:?}");
    let policy = format!("fit:ram:{}B", nearly_all());
    let stored = builder(&demo(), &policy).forecast().unwrap();
    let mut model = with_cache(&demo(), "none", least).plan(stored).load().unwrap();
    assert_eq!(text(&mut model), text(&mut builder(&demo(), "none").load().unwrap()));
    assert!(model.paging().unwrap().missed_slices > 0);
    assert!(less.to_string().contains("disk: "), "{less}");
}

/// A byte less than all of the demo model takes, its buffers for computing included.
fn nearly_all() -> u64 {
    let everything = builder(&demo(), "fit:ram:1TiB").forecast().unwrap();
    everything.device("cpu").unwrap().total_bytes - 1
}

#[test]
fn of_two_budgets_the_smaller_counts() {
    let least = least_cache(&demo(), "all-experts=disk");
    let model = with_cache(&demo(), "all-experts=disk", least).load().unwrap();
    assert_eq!(model.plan().disk().unwrap().cache_bytes, Some(least));
    let at_once = model.paging().unwrap().tokens_at_once;
    assert!((1..model.plan().context().micro_batch_tokens).contains(&at_once), "{at_once}");

    let ram = nearly_all();
    let policy = format!("fit:ram:{ram}B");
    let load = |bytes: u64| with_cache(&demo(), &policy, bytes).load().unwrap();
    let small = load(least);
    assert_eq!(small.plan().disk().unwrap().cache_bytes, Some(least));
    assert!(small.paging().unwrap().budget_bytes < least);
    let large = load(1 << 40);
    let disk = large.plan().disk().unwrap();
    assert!(large.plan().device("cpu").unwrap().total_bytes <= ram);
    assert!(large.paging().unwrap().budget_bytes < disk.cache_bytes.unwrap());
    // Nor does a stored plan hold more than its policy says.
    let mut stored = serde_json::to_value(large.plan()).unwrap();
    stored["disk"]["cache_bytes"] = (1_u64 << 40).into();
    let stored: Plan = serde_json::from_value(stored).unwrap();
    let forecast = builder(&demo(), "none").plan(stored).forecast().unwrap();
    assert_eq!(forecast.disk(), large.plan().disk());
}

#[test]
fn too_small_a_cache_is_known_before_anything_is_loaded() {
    let least = least_cache(&demo(), "all-experts=disk");
    let loads = Arc::new(AtomicBool::new(false));
    let load = |bytes: u64| {
        let seen = Arc::clone(&loads);
        let load = with_cache(&demo(), "all-experts=disk", bytes);
        let planned = load.make_plan().map(|plan| plan.disk().unwrap().cache_bytes);
        assert_eq!(planned.ok(), (bytes >= least).then_some(Some(bytes)));
        load.on_progress(move |_| seen.store(true, Ordering::Relaxed)).load().map(|_| ())
    };
    let error = load(least - 1).unwrap_err();
    assert!(matches!(error, Error::PagingBudget { .. }), "{error}");
    assert!(!loads.load(Ordering::Relaxed), "weights were loaded in vain");
    load(least).unwrap();
    assert!(loads.load(Ordering::Relaxed));
}

#[test]
fn what_is_too_little_is_told_by_its_name() {
    let too_little = builder(&demo(), "fit:ram:1MiB").load().map(|_| ()).unwrap_err().to_string();
    assert!(too_little.contains("at least `ram:"), "{too_little}");
    let disc = builder(&demo(), "all-experts=disc").load().map(|_| ()).unwrap_err().to_string();
    assert!(disc.contains("`disc`") && disc.contains("`disk`"), "{disc}");
    let bytes = with_cache(&demo(), "all-experts=disk", 1).load().map(|_| ()).unwrap_err();
    assert!(bytes.to_string().contains("`cache_bytes`"), "{bytes}");
}

/// What `chat` says and counts of paging, started by a shell that does `first` before.
fn chat(first: &str, model: &Path, arguments: &[&str]) -> std::process::Child {
    use std::process::{Command, Stdio};
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{first}exec \"$@\"")).arg("sh").arg(example("chat"));
    command.arg("--model").arg(model);
    command.args(["--temperature", "0", "--threads", "1", "--stats", "json"]);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(child: std::process::Child) -> (String, serde_json::Value) {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout).unwrap();
    let (text, stats) = said.trim_end().rsplit_once('\n').unwrap();
    (text.to_owned(), serde_json::from_str(stats).unwrap())
}

#[test]
fn several_processes_page_the_same_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(demo(), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    let ask = |policy| {
        let arguments = ["--policy", policy, "--expert-cache", "2MB", "--prompt"];
        let question = "What is an expert?";
        chat("", &path, &[&arguments[..], &[question, "--max-tokens", "48"]].concat())
    };
    let (expected, _) = said(ask("none"));
    let all: Vec<_> = (0..4).map(|_| ask("all-experts=disk")).collect();
    for child in all {
        let (text, stats) = said(child);
        assert_eq!(text, expected);
        assert!(stats["paging"]["missed_slices"].as_u64().unwrap() > 0, "{stats}");
    }
}

#[test]
#[ignore = "needs root and a memory control group; `make test` runs it where there are both"]
fn memory_that_gets_short_makes_the_budget_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions::default().layers(4);
    let path = model_files::made(folder.path(), "granite-3.1-3b-a800m", &options);
    let gguf = GgufFile::open(&path).unwrap();
    let experts = moe_offload::ExpertMap::new(&gguf).unwrap().expert_bytes();
    let wanted = experts * 9 / 10;
    let cache = format!("{wanted}B");
    let arguments = ["--policy", "all-experts=disk", "--expert-cache", &cache, "--context", "512"];
    let arguments = [&arguments[..], &["--prompt", "Hello", "--max-tokens", "200"]].concat();
    let (expected, free) = said(chat("", &path, &arguments));
    assert_eq!(free["paging"]["shrunk"], 0, "{free}");
    // Room for all that is wanted, but not for what should stay free.
    let rest = gguf.tensor_bytes() - experts + (160 << 20);
    let group = Group::new(wanted + rest);
    let join = format!("echo $$ > {}/cgroup.procs && ", group.path().display());
    let (text, short) = said(chat(&join, &path, &arguments));
    assert_eq!(text, expected);
    let budget = |stats: &serde_json::Value| stats["paging"]["budget_bytes"].as_u64().unwrap();
    assert!(short["paging"]["shrunk"].as_u64().unwrap() > 0, "{short}");
    assert!(budget(&short) < budget(&free), "{short}");
    let resident = short["paging"]["resident_bytes"].as_u64().unwrap();
    assert!(resident <= budget(&short), "{short}");
}
