//! Files whose tensors are aligned in other ways than by default load as planned.

use std::fs::File;
use std::path::{Path, PathBuf};

use moe_offload::error::HostMemoryFault;
use moe_offload::gguf::GgmlType;
use moe_offload::{Error, GenerateOptions, GgufFile, LoadMode, MoeModelBuilder};
use moe_offload_synth::{self as synth, SynthOptions};

use crate::support::load::on_cpu;

/// A model of simple weights, aligned to so many bytes; a note is as long as it takes to have data beside multiples of 32.
fn model(folder: &Path, alignment: u32) -> PathBuf {
    let path = folder.join(format!("aligned-to-{alignment}.gguf"));
    let family = synth::family("qwen3-30b-a3b").unwrap();
    let mut writer = family.build(&SynthOptions::tiny()).unwrap().header().clone();
    writer.set("general.alignment", alignment);
    for length in 1..=64 {
        writer.set("a.note", "x".repeat(length));
        let file = File::create(&path).unwrap();
        writer
            .write(std::io::BufWriter::new(file), |tensor, out| {
                let weight = |i: u64| match tensor.ggml_type {
                    GgmlType::F32 => [0, 0, 128, 63][(i % 4) as usize], // 1.0
                    _ => 1 + (i / 67 % 3) as u8,
                };
                let bytes: Vec<u8> = (0..tensor.bytes).map(weight).collect();
                out.write_all(&bytes)
            })
            .unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        if alignment >= 32 || !gguf.tensors()[0].file_offset.is_multiple_of(32) {
            return path;
        }
    }
    panic!("no data beside multiples of 32");
}

fn builder(path: &Path) -> MoeModelBuilder {
    on_cpu(path).context_tokens(256).threads(1)
}

#[test]
fn files_that_cannot_be_mapped_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for alignment in [8, 16, 64, 4096] {
        let path = model(folder.path(), alignment);
        let mut model = builder(&path).load().unwrap();
        let options = GenerateOptions::default().max_tokens(2);
        model.generate("a", &options).unwrap().text().unwrap();
    }
}

#[test]
fn mapping_that_was_asked_for_and_cannot_be_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = builder(&model(folder.path(), 8)).load_mode(LoadMode::Mapped).load().unwrap_err();
    assert!(
        matches!(
            &error,
            Error::HostMemory { fault: HostMemoryFault::Alignment { bytes: 8, needed: 32 }, .. }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("use `auto` or `read`"), "{error}");
    builder(&model(folder.path(), 64)).load_mode(LoadMode::Mapped).load().unwrap();
}
