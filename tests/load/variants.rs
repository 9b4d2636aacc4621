//! The loader passes over a variant of the CPU backend and takes the next best.

use moe_offload::MoeModel;

use crate::support::alone::this_test;
use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;

const CHILD: &str = "MOE_OFFLOAD_TEST_IS_CHILD";
const LIBRARY: &str = "-- library: ";

/// Answers in this process; the variant of the library that it used.
fn answer() -> String {
    let mut model = on_cpu(demo()).threads(1).context_tokens(256).load().unwrap();
    let question = "What is an expert? ".repeat(12);
    let text = model.generate(&question, &greedy(8)).unwrap().text().unwrap();
    assert!(!text.is_empty());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut used: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.rsplit_once("libggml-cpu-")?.1.strip_suffix(".so"))
        .collect();
    used.dedup();
    let [variant] = used[..] else { panic!("{used:?}") };
    variant.to_owned()
}

fn used_without(passed_over: &str) -> String {
    let mut command = this_test();
    command.env(CHILD, "1").env("MOE_OFFLOAD_PASS_OVER", passed_over);
    let output = command.output().unwrap();
    assert!(output.status.success(), "without {passed_over}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rest = text.split_once(LIBRARY).unwrap().1;
    rest.lines().next().unwrap().to_owned()
}

#[test]
fn the_next_best_variant_answers() {
    if std::env::var_os(CHILD).is_some() {
        println!("{LIBRARY}{}", answer());
        return;
    }
    // With AMX broken by this build's compiler, the best that there is may not be tried.
    let mut out = vec!["sapphirerapids".to_owned()];
    for _ in 0..3 {
        let used = used_without(&out.join(","));
        assert!(!out.contains(&used), "{used} is used in spite of {out:?}");
        out.push(used);
    }
    // Of those that run here, the plainest comes last.
    assert!(!out[1..3].contains(&"x64".to_owned()), "{out:?}");
}
