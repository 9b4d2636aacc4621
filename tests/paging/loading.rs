//! Loading a model whose experts stay on disk: as one stream, whatever files it is made of, without the
//! experts' bytes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use moe_offload::{Error, GgufFile, LoadMode, MoeModel, MoeModelBuilder, PagingOptions};

use crate::support::generate::greedy;
use crate::support::paging::{self, made};

/// A model with far more experts than other weights.
fn large(folder: &Path, shards: u16) -> PathBuf {
    made(folder, "qwen3-30b-a3b", Some(40), shards)
}

fn builder(path: &Path, policy: &str) -> MoeModelBuilder {
    paging::builder(path, policy).paging(PagingOptions::default().cache_bytes(64 << 20))
}

fn text(model: &mut MoeModel) -> String {
    let options = greedy(16);
    model.generate("The quick brown fox", &options).unwrap().text().unwrap()
}

/// Bytes that this thread had read by system calls.
fn read_by_thread() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

fn is_mapped(folder: &Path) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(folder.to_str().unwrap())
}

#[test]
fn experts_are_neither_read_nor_mapped_while_loading() {
    let folder = tempfile::tempdir().unwrap();
    for shards in [1, 4] {
        let path = large(folder.path(), shards);
        let gguf = GgufFile::open(&path).unwrap();
        assert_eq!(gguf.shards().len(), usize::from(shards));
        let headers: u64 = gguf.shards().iter().map(|shard| shard.header_bytes).sum();
        let experts = gguf.tensors().iter().filter(|tensor| tensor.name.contains("_exps"));
        let experts: u64 = experts.map(|tensor| tensor.bytes).sum();
        let dense = gguf.tensor_bytes() - experts;
        assert!(experts > 4 * (dense + headers), "{experts} {dense} {headers}");

        let before = read_by_thread();
        let mut paged = builder(&path, "all-experts=disk").load().unwrap();
        let read = read_by_thread() - before;
        assert!(!is_mapped(folder.path()));
        // Headers are read several times, in blocks of 256 KiB.
        assert!(read >= dense && read < dense + experts / 4, "{read} of {dense} {headers}");

        let before = read_by_thread();
        let mut whole = builder(&path, "none").load_mode(LoadMode::Read).load().unwrap();
        assert!(read_by_thread() - before > gguf.tensor_bytes(), "what was measured above");
        drop(whole);
        whole = builder(&path, "none").load().unwrap();
        assert!(is_mapped(folder.path()));
        assert_eq!(text(&mut paged), text(&mut whole));
    }
}

#[test]
fn a_file_that_is_cut_while_it_is_loaded_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for shard in [0, 2] {
        let path = large(folder.path(), 3);
        let cut = GgufFile::open(&path).unwrap().shards()[shard].path.clone();
        let victim = cut.clone();
        let load = builder(&path, "all-experts=disk").on_progress(move |_| {
            OpenOptions::new().write(true).open(&victim).unwrap().set_len(4096).unwrap();
        });
        let error = load.load().map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::FileChanged { path } if *path == cut), "{error}");
    }
}
