//! The engine multiplies with a layer's tensors in the order in which they are read. Alone in its process, as
//! other threads would decide what is logged.

use std::sync::{Arc, Mutex};

use moe_offload::{MoeModelBuilder, PagingOptions};
use moe_offload_synth as synth;
use regex::Regex;

use crate::support::alone::ran_alone;
use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::paging::{least_cache, made};

/// What the crate logs in a call.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync {
        let this = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || this.clone())
            .finish()
    }

    /// Each layer's tensors were needed in the order in which they are read.
    fn check_order(&self, family: &str) {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let needed = Regex::new(r"blk\.(\d+)\.ffn_(\w+?)_(?:ch)?exps\.weight").unwrap();
        let order = |kind: &str| match kind {
            "gate" | "gate_up" => 0,
            "up" => 1,
            "down" => 2,
            other => panic!("{family}: {other}"),
        };
        let needed: Vec<(u32, i32)> = needed
            .captures_iter(&text)
            .map(|found| (found[1].parse().unwrap(), order(&found[2])))
            .collect();
        assert!(needed.len() > 16, "{family}: {text}");
        for pair in needed.windows(2) {
            let in_order = pair[0].0 != pair[1].0 || pair[0].1 <= pair[1].1 || pair[0].1 == 2;
            assert!(in_order, "{family}: {pair:?}");
        }
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_family_needs_what_is_read_first_first() {
    if ran_alone() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for family in synth::families() {
        let path = made(folder.path(), family.name, None, 1);
        let load = |bytes: u64| -> MoeModelBuilder {
            on_cpu(&path)
                .policy("all-experts=disk".parse().unwrap())
                .paging(PagingOptions::default().cache_bytes(bytes).read_ahead(false))
                .threads(1)
                .context_tokens(256)
        };
        let mut model = load(least_cache(load(1))).load().unwrap();
        let log = Log::default();
        tracing::subscriber::with_default(log.subscriber(), || {
            let options = greedy(16);
            model.generate("The quick brown fox jumps", &options).unwrap().text().unwrap();
        });
        log.check_order(family.name);
        drop(model);
        std::fs::remove_file(&path).unwrap();
    }
}
