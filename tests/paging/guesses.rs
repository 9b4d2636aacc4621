//! Guesses at the next layer's choice of experts go by its router's norm and biases, wherever they are.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use moe_offload::{GgufFile, MoeModelBuilder, PagingOptions, PagingStats};

use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;
use crate::support::paging::{least_cache, made};
use crate::support::process::Server;

const LAYERS: u32 = 6;

/// The value of a tensor of a layer at a place.
type Value = fn(u32, u32) -> f32;

/// A file in which these tensors' values were replaced: `value(layer, i)`.
fn changed(folder: &Path, family: &str, tensor: &str, value: Value) -> PathBuf {
    let path = made(folder, family, Some(LAYERS), 1);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut replaced = 0;
    for info in GgufFile::open(&path).unwrap().tensors() {
        let rest = info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((layer, _)) = rest.filter(|(_, name)| *name == tensor) else { continue };
        let layer: u32 = layer.parse().unwrap();
        let count = u32::try_from(info.bytes / 4).unwrap();
        let values = (0..count).flat_map(|i| value(layer, i).to_le_bytes());
        file.write_all_at(&values.collect::<Vec<u8>>(), info.file_offset).unwrap();
        replaced += 1;
    }
    assert!(replaced >= LAYERS / 2, "{family} has {replaced} `{tensor}`");
    path
}

fn builder(path: &Path, cache_bytes: u64) -> MoeModelBuilder {
    on_cpu(path)
        .policy("all-experts=disk".parse().unwrap())
        .paging(PagingOptions::default().cache_bytes(cache_bytes))
        .threads(1)
        .context_tokens(256)
}

/// Room for two layers' choices, so that each layer misses what it needs.
fn cache_bytes(path: &Path) -> u64 {
    let least = least_cache(builder(path, 1));
    let model = builder(path, least).load().unwrap();
    least + model.paging().unwrap().budget_bytes
}

fn paged(load: MoeModelBuilder) -> PagingStats {
    let mut model = load.load().unwrap();
    let options = greedy(120);
    model.generate("The quick brown fox jumps", &options).unwrap().text().unwrap();
    model.paging().unwrap()
}

/// Which experts are preferred differs from layer to layer.
fn preferred(layer: u32, expert: u32) -> f32 {
    f32::from(u8::try_from((expert * 5 + layer * 3) % 8).unwrap()) * 100.0
}

/// A layer looks at one half of what flows, the next at the other.
fn every_other(layer: u32, i: u32) -> f32 {
    if i % 2 == layer % 2 { 1.4 } else { 0.01 }
}

/// What a layer's experts make is far more than all that was made before.
fn growing(layer: u32, i: u32) -> f32 {
    let random = (i * 7 + layer).wrapping_mul(0x9e37_79b9) >> 24;
    (f32::from(u8::try_from(random).unwrap()) - 127.5) * 8_f32.powi(i32::try_from(layer).unwrap())
}

#[test]
fn biases_norms_and_what_a_layer_made_are_reckoned_with() {
    let folder = tempfile::tempdir().unwrap();
    // Of what is missing at least so many percent are read ahead: without biases, norms and a second look at what
    // the layer made it is none.
    let cases: [(&str, &str, Value, u64); 4] = [
        ("gpt-oss-20b", "ffn_down_exps.bias", growing, 50),
        ("gpt-oss-20b", "ffn_gate_inp.bias", preferred, 50),
        ("deepseek-v3", "exp_probs_b.bias", preferred, 12),
        ("mixtral-8x7b", "ffn_norm.weight", every_other, 10),
    ];
    for (family, tensor, value, percent) in cases {
        let path = changed(folder.path(), family, tensor, value);
        let stats = paged(builder(&path, cache_bytes(&path)));
        let (right, wrong) = (stats.ahead_slices, stats.wasted_slices);
        assert!(right * 100 > percent * stats.missed_slices, "{family}: {stats:?}");
        assert!(right > wrong, "{family}: {stats:?}");
        println!("{family} {tensor} {right} right {wrong} wrong of {}", stats.missed_slices);
    }
}

#[test]
fn the_first_layer_is_guessed_by_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "mixtral-8x7b", Some(1), 1);
    let least = least_cache(builder(&path, 1));
    let stats = paged(builder(&path, least + least / 4));
    assert!(stats.ahead_slices > 0, "{stats:?}");
}

#[test]
fn routers_on_a_device_are_asked_too() {
    let server = Server::start();
    let cache = cache_bytes(&demo());
    let stats = paged(builder(&demo(), cache).rpc_server(&server.endpoint));
    assert!(stats.ahead_slices > 0, "{stats:?}");
}
