//! Files that are broken, one by one: each gets its own error, none a panic.

use std::path::Path;

use moe_offload::error::{ForeignFile, GgufFault};
use moe_offload::gguf::{GgmlType, MAX_MODEL_BYTES, MAX_TENSORS};
use moe_offload::{Error, ExpertMap, GgufFile};
use moe_offload_synth::GgufWriter;
use proptest::prelude::*;

use crate::support::model_files::{Shape, bytes_of, read};

/// A header written field by field, so that any field can be wrong.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, pairs: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(pairs)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).bytes(text)
    }

    fn tensor(self, name: &str, shape: &[u64], ggml_type: u32, offset: u64) -> Self {
        let raw = self.text(name.as_bytes()).u32(u32::try_from(shape.len()).unwrap());
        let raw = shape.iter().fold(raw, |raw, &dimension| raw.u64(dimension));
        raw.u32(ggml_type).u64(offset)
    }

    /// The data section: padding and so many zeros.
    fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }

    fn fault(self) -> GgufFault {
        match read(&self.0) {
            Err(Error::InvalidGguf { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    fn error(self) -> Error {
        read(&self.0).unwrap_err()
    }
}

#[test]
fn a_plain_header_reads() {
    let raw = Raw::new(1, 1).text(b"a").u32(4).u32(7).tensor("t", &[8], 0, 0).data(32);
    let gguf = read(&raw.0).unwrap();
    assert_eq!(gguf.metadata()["a"].as_u64(), Some(7));
    assert_eq!((gguf.tensors()[0].bytes, gguf.tensors()[0].file_offset % 32), (32, 0));
}

#[test]
fn magic_and_version() {
    assert!(
        matches!(read(b"GGML1234").unwrap_err(), Error::NotGguf { magic, .. } if &magic == b"GGML")
    );
    assert_eq!(
        Raw(b"GGUF".to_vec()).u32(1).data(64).fault(),
        GgufFault::UnsupportedVersion { version: 1 }
    );
    assert_eq!(
        Raw(b"GGUF".to_vec()).u32(0).data(64).fault(),
        GgufFault::UnsupportedVersion { version: 0 }
    );
    assert_eq!(
        Raw(b"GGUF".to_vec()).u32(3_u32.swap_bytes()).data(64).fault(),
        GgufFault::BigEndian
    );
}

#[test]
fn counts_beyond_the_caps() {
    let too_many = Raw::new(u64::MAX, 0).fault();
    assert_eq!(too_many, GgufFault::TooManyTensors { count: u64::MAX, max: MAX_TENSORS });
    assert!(matches!(Raw::new(0, u64::MAX).fault(), GgufFault::TooMuchMetadata { .. }));
}

#[test]
fn lengths_that_lie() {
    assert!(matches!(Raw::new(0, 1).u64(u64::MAX).fault(), GgufFault::StringTooLong { .. }));
    let error = Raw::new(0, 1).u64(60_000).error();
    assert!(matches!(error, Error::TruncatedGguf { needed_bytes: 60_000, .. }), "{error}");
    let array = Raw::new(0, 1).text(b"a").u32(9).u32(4);
    assert!(matches!(array.u64(u64::MAX).fault(), GgufFault::ArrayTooLong { .. }));
    let array = Raw::new(0, 1).text(b"a").u32(9).u32(4).u64(1 << 20);
    assert!(matches!(array.error(), Error::TruncatedGguf { .. }));
    let texts = Raw::new(0, 1).text(b"a").u32(9).u32(8).u64(u64::MAX).text(b"x");
    assert!(matches!(texts.error(), Error::TruncatedGguf { .. }));
}

/// A source as large as it says, which gives zeros for ever.
#[test]
fn lengths_beyond_the_cap_take_no_memory() {
    let huge = 100_u64 << 30;
    for raw in [
        Raw::new(0, 1).text(b"a").u32(9).u32(8).u64(1).u64(90 << 30),
        Raw::new(0, 1).text(b"a").u32(8).u64(90 << 30),
        Raw::new(0, 1).text(b"a").u32(9).u32(0).u64(90 << 30),
    ] {
        let source = std::io::Read::chain(&raw.0[..], std::io::repeat(0));
        let error = GgufFile::read(source, huge, "huge.gguf").unwrap_err();
        let fault = matches!(
            &error,
            Error::InvalidGguf {
                fault: GgufFault::HeaderTooLarge { .. }
                    | GgufFault::StringTooLong { .. }
                    | GgufFault::ArrayTooLong { .. },
                ..
            }
        );
        assert!(fault, "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), Path::new("/dev/zero")] {
        assert!(matches!(GgufFile::open(path).unwrap_err(), Error::NotAFile { .. }));
    }
}

#[test]
fn metadata_faults() {
    let invalid_utf8 = Raw::new(0, 1).text(b"\xFF\xFE").u32(4).u32(0);
    assert!(matches!(invalid_utf8.fault(), GgufFault::InvalidUtf8 { .. }));
    assert!(matches!(Raw::new(0, 1).text(b"").u32(4).u32(0).fault(), GgufFault::EmptyName { .. }));
    let twice = Raw::new(0, 2).text(b"a").u32(4).u32(0).text(b"a").u32(4).u32(0);
    assert_eq!(twice.fault(), GgufFault::DuplicateKey { key: "a".into() });
    let unknown = GgufFault::UnknownValueType { key: "a".into(), id: 77 };
    assert_eq!(Raw::new(0, 1).text(b"a").u32(77).fault(), unknown);
    let array_of_arrays = Raw::new(0, 1).text(b"a").u32(9).u32(9).u64(1);
    assert!(matches!(array_of_arrays.fault(), GgufFault::NestedArray { .. }));
    let alignment = |n| Raw::new(0, 1).text(b"general.alignment").u32(4).u32(n).fault();
    assert!(matches!(alignment(0), GgufFault::BadAlignment { .. }));
    assert!(matches!(alignment(48), GgufFault::BadAlignment { .. }));
    assert_eq!(
        alignment(0).to_string(),
        "general.alignment is 0; it must be a power of two, at most 1 GiB"
    );
}

#[test]
fn tensor_faults() {
    let one = || Raw::new(1, 0);
    let fault = |raw: Raw| raw.data(64).fault();
    assert!(matches!(fault(one().tensor("", &[8], 0, 0)), GgufFault::EmptyName { .. }));
    let long = "x".repeat(64);
    assert!(matches!(fault(one().tensor(&long, &[8], 0, 0)), GgufFault::StringTooLong { .. }));
    let five = one().tensor("t", &[1, 1, 1, 1, 1], 0, 0);
    assert!(matches!(fault(five), GgufFault::BadDimensions { dimensions: 5, .. }));
    let unknown = one().tensor("t", &[8], 4, 0);
    assert!(matches!(fault(unknown), GgufFault::UnknownTensorType { id: 4, .. }));
    for shape in [&[u64::MAX, 2][..], &[1 << 40, 1 << 40], &[i64::MAX as u64 + 1]] {
        let raw = one().tensor("t", shape, 0, 0);
        assert!(matches!(fault(raw), GgufFault::BadShape { .. }), "{shape:?}");
    }
    let partial_block = one().tensor("t", &[33], GgmlType::Q8_0.id(), 0);
    assert!(matches!(fault(partial_block), GgufFault::BadShape { .. }));
    assert!(matches!(fault(one().tensor("t", &[8], 0, 4)), GgufFault::Misaligned { .. }));
    let twice = Raw::new(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32);
    assert!(matches!(fault(twice), GgufFault::DuplicateTensor { .. }));
    let overlap = Raw::new(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[8], 0, 32);
    assert!(matches!(fault(overlap), GgufFault::Overlap { .. }));
}

#[test]
fn data_outside_the_file() {
    for (elements, offset) in [(8, 1 << 40), (1 << 30, 0), (8, u64::MAX - 31)] {
        let error = Raw::new(1, 0).tensor("t", &[elements], 0, offset).data(32).error();
        assert!(matches!(error, Error::TensorOutsideFile { .. }), "{error}");
    }
}

#[test]
fn every_truncation_of_a_real_header_is_an_error() {
    let bytes = bytes_of(&Shape::default().writer());
    let whole = read(&bytes).unwrap();
    let used =
        whole.tensors().iter().map(|tensor| tensor.file_offset + tensor.bytes).max().unwrap();
    for length in 0..usize::try_from(used).unwrap() {
        let error = read(&bytes[..length]).unwrap_err();
        let expected =
            matches!(error, Error::TruncatedGguf { .. } | Error::TensorOutsideFile { .. });
        assert!(expected, "{length}: {error}");
    }
}

#[test]
fn paths_that_are_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let missing = GgufFile::open(folder.path().join("none.gguf")).unwrap_err();
    assert!(matches!(&missing, Error::Io { action: "open", .. }));
    assert!(missing.to_string().contains("none.gguf"), "{missing}");
    assert!(matches!(GgufFile::open(folder.path()).unwrap_err(), Error::IsDirectory { .. }));
}

fn write(path: &Path, writer: &GgufWriter) {
    std::fs::write(path, bytes_of(writer)).unwrap();
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Shape::default().writer();
    let part = |number: usize| folder.path().join(format!("m-{number:05}-of-00003.gguf"));
    for (i, shard) in whole.split(3).iter().enumerate() {
        write(&part(i + 1), shard);
    }
    let gguf = GgufFile::open(part(1)).unwrap();
    assert_eq!(gguf.shards().len(), 3);
    assert_eq!(gguf.tensor_bytes(), whole.tensor_bytes());
    let names = |tensors: &mut dyn Iterator<Item = String>| tensors.collect::<Vec<_>>();
    assert_eq!(
        names(&mut gguf.tensors().iter().map(|tensor| tensor.name.clone())),
        names(&mut whole.tensors().iter().map(|tensor| tensor.name.clone()))
    );

    let error = GgufFile::open(part(2)).unwrap_err();
    assert!(matches!(error, Error::NotFirstShard { first, .. } if first == part(1)));
    std::fs::copy(part(3), part(2)).unwrap();
    let error = GgufFile::open(part(1)).unwrap_err();
    assert!(matches!(error, Error::ShardMismatch { what: "split.no", .. }), "{error}");
    std::fs::remove_file(part(2)).unwrap();
    let error = GgufFile::open(part(1)).unwrap_err();
    assert!(
        matches!(&error, Error::MissingShard { number: 2, count: 3, path } if *path == part(2))
    );
    let renamed = folder.path().join("renamed.gguf");
    std::fs::copy(part(1), &renamed).unwrap();
    assert!(matches!(GgufFile::open(renamed).unwrap_err(), Error::ShardMismatch { .. }));
}

#[test]
#[cfg(unix)]
fn files_of_holes_that_are_more_than_memory_has_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = GgufWriter::new();
    for i in 0..20 {
        whole.tensor(format!("t{i}"), &[7 << 38], GgmlType::F32); // 7 TiB
    }
    for (i, shard) in whole.split(20).iter().enumerate() {
        let path = folder.path().join(format!("m-{:05}-of-00020.gguf", i + 1));
        let mut file = std::fs::File::create(path).unwrap();
        shard.write_header(&mut file).unwrap();
        file.set_len(15 << 40).unwrap(); // two of them, and less than file systems allow
    }
    let error = GgufFile::open(folder.path().join("m-00001-of-00020.gguf")).unwrap_err();
    let expected = GgufFault::ModelTooLarge { max: MAX_MODEL_BYTES };
    assert!(matches!(&error, Error::InvalidGguf { fault, .. } if *fault == expected), "{error}");
}

#[test]
fn experts_in_tensors_of_their_own() {
    let raw = Raw::new(1, 2).text(b"general.architecture").u32(8).text(b"llama");
    let raw = raw.text(b"llama.block_count").u32(4).u32(1);
    let gguf = read(&raw.tensor("blk.0.ffn_up.3.weight", &[8], 0, 0).data(32).0).unwrap();
    let error = ExpertMap::new(&gguf).unwrap_err();
    assert!(matches!(error, Error::LegacyExperts { .. }), "{error}");
}

#[test]
fn numbers_of_shards_near_the_largest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m-00001-of-00002.gguf");
    for (number, count) in [(u16::MAX, 2), (u16::MAX, u16::MAX), (0, u16::MAX), (1, 2)] {
        let raw = Raw::new(0, 2).text(b"split.no").u32(2).bytes(&number.to_le_bytes());
        let raw = raw.text(b"split.count").u32(2).bytes(&count.to_le_bytes());
        std::fs::write(&path, raw.0).unwrap();
        let error = GgufFile::open(&path).unwrap_err();
        assert!(matches!(error, Error::ShardMismatch { .. }), "{number} of {count}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutations_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = bytes_of(&Shape { biases: true, shared: true, ..Shape::default() }.writer());
        let header = 3000.min(bytes.len());
        for (at, value) in changes {
            bytes[at.index(header)] = value;
        }
        if let Some(cut) = cut {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        if let Ok(gguf) = read(&bytes) {
            // What is accepted lies inside the file.
            for tensor in gguf.tensors() {
                prop_assert!(tensor.file_offset + tensor.bytes <= bytes.len() as u64);
            }
        }
    }
}

#[test]
fn a_missing_file_is_an_error() {
    for path in ["/nonexistent/model.gguf", "", "nonexistent"] {
        let error = moe_offload::GgufFile::open(path).unwrap_err();
        assert!(matches!(error, moe_offload::Error::Io { .. }), "{error}");
    }
}

fn foreign(bytes: &[u8]) -> ForeignFile {
    match read(bytes) {
        Err(Error::NotGguf { found, .. }) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_other_kinds_say_what_they_are() {
    let pointer =
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12109566560\n";
    assert_eq!(foreign(pointer), ForeignFile::LfsPointer { bytes: Some(12_109_566_560) });
    let page = foreign(b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>");
    assert_eq!(page, ForeignFile::WebPage { beginning: "<!DOCTYPE html>".into() });
    let safetensors = [&16_u64.to_le_bytes()[..], b"{\"a\":{}}        "].concat();
    assert_eq!(foreign(&safetensors), ForeignFile::Safetensors);
    assert_eq!(foreign(b"PK\x03\x04\x14\0\0\0"), ForeignFile::Zip);
    assert_eq!(foreign(b"\x1f\x8b\x08\0\0"), ForeignFile::Packed { format: "gzip" });
    assert_eq!(foreign(b"tjgg\x03\0\0\0"), ForeignFile::Ggml);
    assert_eq!(foreign(&[0; 4096]), ForeignFile::Zeros);
    for (beginning, format) in [
        (&b"\x7fELF\x02\x01\x01\0"[..], "ELF"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"\xff\xfeG\0G\0U\0F\0", "UTF-16"),
    ] {
        let found = foreign(beginning);
        assert!(matches!(found, ForeignFile::Known { .. }), "{found}");
        assert!(found.to_string().contains(format), "{found}");
    }
    let text = "Entry not found für diese Adresse, ".repeat(20);
    let beginning: String = text.chars().take(60).chain(['…']).collect();
    assert_eq!(foreign(text.as_bytes()), ForeignFile::Text { beginning });
    let bytes = foreign(b"\x89\x01\xfe\xff and more than is shown");
    assert!(matches!(bytes, ForeignFile::Other { beginning } if beginning.len() == 16));
    // Cut within a character.
    assert!(matches!(foreign("aaaü".as_bytes().split_last().unwrap().1), ForeignFile::Text { .. }));
}

#[test]
fn messages_show_text_as_text() {
    let message = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    let pointer = message(b"version https://git-lfs.github.com/spec/v1\nsize 7\n");
    assert!(pointer.contains("Git LFS pointer") && pointer.contains("git lfs pull"), "{pointer}");
    let page = message(b"<html><body>404</body>");
    assert!(page.contains("web page (`<html><body>404</body>`)"), "{page}");
    let text = message(b"Repository not found\n");
    assert!(text.contains("it is text, which begins `Repository not found`"), "{text}");
}

#[test]
fn types_of_a_fork_are_told_apart_from_unknown_ones() {
    let of = |id| Raw::new(1, 0).tensor("t", &[256], id, 0).data(4096);
    let fork = of(139).error();
    assert!(matches!(&fork, Error::ForkTensorType { id: 139, ggml_type: "iq4_k", .. }), "{fork}");
    assert!(fork.to_string().contains("is made for ik_llama.cpp, a fork of llama.cpp"), "{fork}");
    assert!(matches!(of(1000).fault(), GgufFault::UnknownTensorType { id: 1000, .. }));
    for ours in GgmlType::all() {
        read(&of(ours.id()).0).unwrap();
    }
}

#[test]
fn keys_that_the_engine_takes_in_one_type_only() {
    let wrong = |error: Error| match error {
        Error::MetadataType { key, found, expected, .. } => (key, found, expected),
        other => panic!("{other}"),
    };
    let alignment = Raw::new(0, 1).text(b"general.alignment").u32(10).u64(64).error();
    assert_eq!(wrong(alignment), ("general.alignment".into(), "u64", "u32"));
    let count = Raw::new(0, 1).text(b"split.count").u32(4).u32(1).error();
    assert!(count.to_string().contains("`split.count` only as u16"), "{count}");
    assert_eq!(wrong(count), ("split.count".into(), "u32", "u16"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m-00001-of-00002.gguf");
    let raw = Raw::new(0, 2).text(b"split.no").u32(4).u32(0);
    std::fs::write(&path, raw.text(b"split.count").u32(2).bytes(&[2, 0]).0).unwrap();
    assert_eq!(wrong(GgufFile::open(&path).unwrap_err()), ("split.no".into(), "u32", "u16"));
    // Of a file that is no part the engine does not ask.
    let raw = Raw::new(0, 2).text(b"split.no").u32(4).u32(0);
    std::fs::write(&path, raw.text(b"split.count").u32(2).bytes(&[1, 0]).0).unwrap();
    GgufFile::open(&path).unwrap();
}

#[test]
fn every_alignment_of_the_engine_is_taken() {
    for alignment in [1_u32, 8, 16, 64, 4096] {
        let raw = Raw::new(1, 1).text(b"general.alignment").u32(4).u32(alignment);
        let gguf = read(&raw.tensor("t", &[8], 0, 0).data(8192).0).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        assert_eq!(gguf.tensors()[0].file_offset % u64::from(alignment), 0);
    }
}

#[test]
fn parts_that_were_joined_as_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let parts: Vec<Vec<u8>> = Shape::default().writer().split(3).iter().map(bytes_of).collect();
    let joined = |name: &str, files: &[&[u8]]| {
        let path = folder.path().join(name);
        std::fs::write(&path, files.concat()).unwrap();
        match GgufFile::open(&path).unwrap_err() {
            error @ Error::JoinedFiles { at, .. } => {
                assert!(error.to_string().contains("joined by `cat`"), "{error}");
                at
            }
            other => panic!("{other}"),
        }
    };
    for name in ["joined.gguf", "m-00001-of-00003.gguf"] {
        assert_eq!(joined(name, &[&parts[0], &parts[1], &parts[2]]), parts[0].len() as u64);
    }
    // A first part with metadata alone, and one whose last tensor is not padded.
    let no_tensors = Raw::new(0, 0).data(0).0;
    let unpadded = Raw::new(1, 0).tensor("t", &[9], 0, 0).data(36).0;
    for first in [no_tensors, unpadded] {
        assert_eq!(joined("other.gguf", &[&first, &parts[1]]), first.len() as u64);
    }
    // What follows a model and is no model is the file's own business.
    let path = folder.path().join("trailing.gguf");
    std::fs::write(&path, [bytes_of(&Shape::default().writer()), vec![0; 99]].concat()).unwrap();
    GgufFile::open(&path).unwrap();
}

/// Names from a file may hold what steers a terminal; a message shows it, and does not do it.
#[test]
fn control_characters_of_names_do_not_reach_a_message() {
    const NAME: &str = "a\u{1b}[2J\r\u{202e}b";
    let [key, tensor] = [NAME.as_bytes(), NAME.as_bytes()];
    for error in [
        Raw::new(0, 2).text(key).u32(4).u32(7).text(key).u32(4).u32(7).error(),
        Raw::new(0, 1).text(key).u32(99).error(),
        Raw::new(1, 0).text(tensor).u32(9).error(),
        Raw::new(1, 0).tensor(NAME, &[8], 0, 0).error(),
        Raw::new(1, 0).tensor(NAME, &[8], 0, 1).data(64).error(),
    ] {
        let message = error.to_string();
        assert!(!message.contains(['\u{1b}', '\r', '\u{202e}']), "{message:?}");
        assert!(message.contains(r"a\u{1b}[2J\u{d}\u{202e}b"), "{message:?}");
    }
}
