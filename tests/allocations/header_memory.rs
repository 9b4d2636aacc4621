//! Reading a header takes memory in proportion to it.

use moe_offload::GgufFile;
use moe_offload_synth::{self as synth, GgufWriter, SynthOptions};

use crate::PEAK;
use crate::support::alone::ran_alone;

/// GPT-OSS 20B's header at full scale with as many merges as the published vocabulary has.
fn full_header() -> (GgufWriter, u64) {
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::default()).unwrap();
    let mut writer = model.header().clone();
    let merges: Vec<String> = (0..446_189).map(|i| format!("pair{i} of{i}")).collect();
    writer.set("tokenizer.ggml.merges", merges);
    let bytes = model.tensor_bytes() * 2;
    (writer, bytes)
}

#[test]
fn memory_is_within_three_times_the_header() {
    if ran_alone() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("header.gguf");
    let (writer, tensor_bytes) = full_header();
    let mut file = std::fs::File::create(&path).unwrap();
    writer.write_header(&mut std::io::BufWriter::new(&mut file)).unwrap();
    let header_bytes = file.metadata().unwrap().len();
    file.set_len(header_bytes + tensor_bytes).unwrap(); // a hole: the data is not read
    drop((writer, file));
    assert!(header_bytes > 12 << 20, "{header_bytes}");

    PEAK.reset_peak_usage();
    let before = PEAK.current_usage();
    let gguf = GgufFile::open(&path).unwrap();
    let peak = (PEAK.peak_usage() - before) as u64;
    assert_eq!(gguf.metadata()["tokenizer.ggml.merges"].as_array().unwrap().len(), 446_189);
    assert!(peak <= 3 * header_bytes, "{peak} bytes for a header of {header_bytes}");
}
