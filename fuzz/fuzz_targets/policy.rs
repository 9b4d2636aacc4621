//! Any text as a policy; one that parses prints as what it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_offload::OffloadPolicy;

fuzz_target!(|text: &str| {
    if let Ok(policy) = text.parse::<OffloadPolicy>() {
        let printed = policy.to_string();
        assert_eq!(printed.parse::<OffloadPolicy>().expect("parses again"), policy, "{printed}");
    }
});
