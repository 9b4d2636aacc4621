//! Where a plan says that memory is enough, the load finds it enough. Alone in its process, as a load counts what
//! memory the process takes meanwhile.

use moe_offload::{Error, MoeModel};

use crate::support::alone::ran_alone;
use crate::support::generate::greedy;
use crate::support::paging::{builder, made};

fn text(model: &mut MoeModel) -> String {
    let options = greedy(16);
    model.generate("The quick brown fox jumps", &options).unwrap().text().unwrap()
}

/// Where the plan says that memory is enough, the load finds it enough.
#[test]
fn the_least_that_a_plan_asks_for_will_do() {
    if ran_alone() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for family in ["mixtral-8x7b", "gpt-oss-20b", "deepseek-v3", "qwen3-30b-a3b"] {
        let path = made(folder.path(), family, None, 1);
        let load = |ram: u64| builder(&path, &format!("fit:ram:{ram}B")).load();
        let mut ram = 1;
        let mut model = loop {
            match load(ram) {
                // It knows more when the rest fits.
                Err(Error::DoesNotFit { needed_bytes, .. }) if needed_bytes > ram => {
                    ram = needed_bytes;
                }
                other => break other.unwrap(),
            }
        };
        let stats = model.paging().unwrap();
        assert!(
            stats.budget_bytes > 0
                && stats.budget_bytes < model.plan().disk().unwrap().weights_bytes
        );
        assert_eq!(text(&mut model), text(&mut builder(&path, "none").load().unwrap()), "{family}");
    }
}
