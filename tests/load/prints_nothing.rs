//! A library is quiet. Alone in its process, since it watches all that the process writes.

use moe_offload::{GgufFile, Message};

use crate::support::alone::this_test;
use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;

/// Plans, loads, talks, fails and drops.
fn use_everything() {
    let gguf = GgufFile::open(demo()).unwrap();
    let policy: moe_offload::OffloadPolicy = "first-layers:1".parse().unwrap();
    policy
        .plan(&gguf, &[moe_offload::Device::new("gpu")], &moe_offload::ContextOptions::default())
        .unwrap();
    let builder = || on_cpu(demo()).threads(1).context_tokens(128);
    builder().forecast().unwrap();
    let mut model = builder().load().unwrap();
    let options = greedy(5);
    model.chat(&[Message::user("What is this?")], &options).unwrap().text().unwrap();
    let _ = model.generate("", &options).map(|_| ()).unwrap_err();
    let _ = builder().rpc_server("127.0.0.1:9").load().unwrap_err();
    let _ = builder().policy("regex:nothing=cpu".parse().unwrap()).load().unwrap_err();
    let _ = on_cpu("nonexistent").load().unwrap_err();
    moe_offload::devices().unwrap();
}

#[test]
fn the_library_prints_nothing() {
    const CHILD: &str = "MOE_OFFLOAD_TEST_IS_WATCHED";
    const BEGIN: &str = "-- begin --";
    const END: &str = "-- end --";
    if std::env::var_os(CHILD).is_some() {
        println!("{BEGIN}");
        eprintln!("{BEGIN}");
        use_everything();
        println!("{END}");
        eprintln!("{END}");
        return;
    }
    let output = this_test().env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(stream);
        let said = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        assert_eq!(said.unwrap().0.trim(), "", "{text}");
    }
}
