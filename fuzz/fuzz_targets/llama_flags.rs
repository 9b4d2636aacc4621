//! Any words as llama.cpp's flags; a policy from them prints as what it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_offload::OffloadPolicy;

fuzz_target!(|flags: Vec<String>| {
    if let Ok(policy) = OffloadPolicy::from_llama_flags(&flags) {
        let printed = policy.to_string();
        assert_eq!(printed.parse::<OffloadPolicy>().expect("parses"), policy, "{printed}");
    }
});
