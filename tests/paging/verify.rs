//! Bytes that the disk gives otherwise than before, though nobody wrote to the file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use moe_offload::{Error, Generation, GgufFile, MoeModel, PagingOptions};

use crate::support::generate::greedy;
use crate::support::paging::{self, made};

const EXPERTS: &str = "all-experts=disk";
const VICTIM: &str = "blk.1.ffn_down_exps.weight";

fn load(path: &Path, policy: &str, options: PagingOptions) -> Result<MoeModel, Error> {
    paging::builder(path, policy).paging(options).load()
}

fn text(model: &mut MoeModel) -> Result<String, Error> {
    model.forget()?;
    let options = greedy(12);
    model.generate("The quick brown fox", &options).and_then(Generation::text)
}

/// Flips one bit in the middle of each part of a tensor, and leaves size and time as they were.
fn flip(path: &Path, tensor: &str, parts: u64) {
    let gguf = GgufFile::open(path).unwrap();
    let tensor = gguf.tensors().iter().find(|info| info.name == tensor).unwrap();
    let before = std::fs::metadata(path).unwrap().modified().unwrap();
    let file: File = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let part = tensor.bytes / parts;
    for i in 0..parts {
        let (at, mut byte) = (tensor.file_offset + i * part + part / 2, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    file.set_modified(before).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), before);
}

#[test]
fn flipped_bits_stop_the_text() {
    let folder = tempfile::tempdir().unwrap();
    for (io_uring, verify) in [(true, true), (false, true), (true, false)] {
        let path = made(folder.path(), "mixtral-8x7b", Some(4), 1);
        let paging = PagingOptions::default().io_uring(io_uring).verify(verify);
        let least = match load(&path, EXPERTS, paging.clone().cache_bytes(1)) {
            Err(Error::PagingBudget { needed_bytes, .. }) => needed_bytes,
            other => panic!("{:?}", other.map(|_| ())),
        };
        let mut model = load(&path, EXPERTS, paging.cache_bytes(least)).unwrap();
        let expected = text(&mut model).unwrap();
        assert_eq!(text(&mut model).unwrap(), expected, "all is as it was first read");
        // The same prompt chooses the same experts, all of which were read before.
        flip(&path, VICTIM, 8);
        let outcome = text(&mut model);
        if !verify {
            outcome.expect("by size and time it is not seen");
            continue;
        }
        let Err(Error::WrongBytes { path: named, offset, bytes }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(named, path);
        let gguf = GgufFile::open(&path).unwrap();
        let victim = gguf.tensors().iter().find(|info| info.name == VICTIM).unwrap();
        let range = victim.file_offset..victim.file_offset + victim.bytes;
        assert!(range.contains(&(offset + bytes / 2)), "{offset} {range:?}");
        assert!(text(&mut model).is_err(), "nothing more comes of it");
    }
}

#[test]
fn rows_of_the_token_embedding_that_are_compared_give_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "gpt-oss-20b", Some(4), 1);
    let rows = |paging: PagingOptions| load(&path, "regex:token_embd=disk", paging).unwrap();
    let expected = text(&mut rows(PagingOptions::default())).unwrap();
    let mut model = rows(PagingOptions::default().verify(true));
    assert_eq!(text(&mut model).unwrap(), expected);
    assert!(model.paging().unwrap().read_bytes > 0);
}
