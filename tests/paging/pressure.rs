//! Memory that gets short, as a source of the program's own tells: the budget gives way, the text goes on and
//! stays the same. (`experts_on_disk.rs` has the same in a real control group, where one can be made.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moe_offload::{Error, GgufFile, MoeModel, MoeModelBuilder, PagingOptions, PagingStats};

use crate::support::generate::greedy;
use crate::support::model_files::demo;
use crate::support::paging;

/// What is told; the largest number stands for not known.
static LEFT: AtomicU64 = AtomicU64::new(UNKNOWN);
const UNKNOWN: u64 = u64::MAX;
const PLENTY: u64 = 1 << 40;
/// Below this, experts give way.
const LOW: u64 = 192 << 20;

fn left() -> Option<u64> {
    Some(LEFT.load(Ordering::Relaxed)).filter(|&bytes| bytes != UNKNOWN)
}

fn builder(policy: &str) -> MoeModelBuilder {
    paging::builder(&demo(), policy)
}

fn paging_of(bytes: u64) -> PagingOptions {
    PagingOptions::default().cache_bytes(bytes).available_bytes(left)
}

/// A text, and what paging did and has since memory was `told`.
fn text(model: &mut MoeModel, told: u64) -> (String, PagingStats) {
    LEFT.store(told, Ordering::Relaxed);
    model.reset_paging();
    model.forget().unwrap();
    // It is asked no more often than this.
    std::thread::sleep(Duration::from_millis(250));
    let options = greedy(24);
    let text = model.generate("The quick brown fox", &options).unwrap().text().unwrap();
    (text, model.paging().unwrap_or_default())
}

#[test]
fn the_budget_follows_what_memory_is_left() {
    let (expected, _) = text(&mut builder("none").load().unwrap(), UNKNOWN);
    let bytes = GgufFile::open(demo()).unwrap().tensor_bytes() / 2;
    let mut model = builder("all-experts=disk").paging(paging_of(bytes)).load().unwrap();
    let (said, whole) = text(&mut model, UNKNOWN);
    assert_eq!(said, expected);
    assert_eq!(whole.shrunk, 0, "{whole:?}");

    let mut expect = |told: u64, holds: &dyn Fn(&PagingStats) -> bool| {
        let (said, stats) = text(&mut model, told);
        assert_eq!(said, expected, "{told}");
        assert!(stats.resident_bytes <= stats.budget_bytes, "{told}: {stats:?}");
        assert!(holds(&stats), "{told}: {stats:?}, at first {whole:?}");
        stats
    };
    let quarter = whole.budget_bytes / 4;
    expect(PLENTY, &|stats| stats.shrunk == 0 && stats.budget_bytes == whole.budget_bytes);
    expect(LOW, &|stats| stats.shrunk == 0 && stats.budget_bytes == whole.budget_bytes);
    let less = expect(LOW - quarter, &|stats| {
        stats.shrunk > 0 && stats.budget_bytes <= whole.budget_bytes - quarter
    });
    // What a layer needs at once is kept, however little there is.
    expect(0, &|stats| stats.budget_bytes < less.budget_bytes && stats.budget_bytes > 0);
    expect(UNKNOWN, &|stats| stats.shrunk == 0);
    expect(PLENTY, &|stats| stats.shrunk == 0 && stats.budget_bytes == whole.budget_bytes);

    // Memory that is short from the start.
    let mut model = builder("all-experts=disk").paging(paging_of(bytes)).load().unwrap();
    assert!(model.paging().unwrap().resident_bytes > 0);
    drop(model);
    LEFT.store(0, Ordering::Relaxed);
    model = builder("all-experts=disk").paging(paging_of(bytes)).load().unwrap();
    assert_eq!(model.paging().unwrap().resident_bytes, 0, "the load reads what there is room for");
    let (said, stats) = text(&mut model, 0);
    assert_eq!(said, expected);
    assert!(stats.resident_bytes < whole.resident_bytes / 2, "{stats:?}, at first {whole:?}");
    let (said, stats) = text(&mut model, PLENTY);
    assert_eq!(said, expected);
    assert_eq!(stats.budget_bytes, whole.budget_bytes);
    assert_eq!(
        stats.tokens_at_once, whole.tokens_at_once,
        "for a while it was short, not for good"
    );
}

#[test]
fn without_a_size_the_cache_takes_four_fifths_of_what_is_told() {
    // Told once, when the size is chosen; it would be too little to read anything.
    static ONCE: AtomicU64 = AtomicU64::new(UNKNOWN);
    fn once() -> Option<u64> {
        Some(ONCE.swap(UNKNOWN, Ordering::Relaxed)).filter(|&bytes| bytes != UNKNOWN)
    }
    let load = |told: u64| {
        ONCE.store(told, Ordering::Relaxed);
        let paging = PagingOptions::default().available_bytes(once);
        builder("all-experts=disk").paging(paging).load()
    };
    let budget = |told: u64| load(told).unwrap().paging().unwrap().budget_bytes;
    let (less, more) = (budget(5 << 20), budget(6 << 20));
    let four_fifths = (1_u64 << 20) * 4 / 5;
    assert!((more - less).abs_diff(four_fifths) < 8, "{less} {more}");
    assert!(budget(PLENTY) > more, "all experts, and not more");
    // If that is too little, what a token needs, as long as there is so much.
    let error = load(1).map(|_| ()).unwrap_err();
    let Error::PagingBudget { budget_bytes: 0, needed_bytes } = error else { panic!("{error}") };
    let plan = builder("all-experts=disk").forecast().unwrap();
    let cpu = plan.device("cpu").unwrap();
    let just_enough = needed_bytes + cpu.total_bytes - cpu.weights_bytes;
    assert!((1..less).contains(&budget(just_enough)));
    assert!(load(just_enough - 1).is_err());
}
