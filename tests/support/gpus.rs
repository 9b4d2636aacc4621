//! GPUs that a test does not expect.

use std::process::Command;

use moe_offload::{DeviceKind, devices};

use super::alone;

/// A program that sees none, by the drivers' and the engine's own variables.
pub fn hide(command: &mut Command) -> &mut Command {
    for variable in [
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
    ] {
        command.env(variable, "");
    }
    command
}

/// Where this machine has a GPU: runs the test that calls this again in a process that sees none, and says that
/// there is nothing more to do. For tests of what chooses its devices by itself.
pub fn ran_without() -> bool {
    if devices().unwrap().iter().all(|device| device.kind == DeviceKind::Remote) {
        return false;
    }
    assert!(std::env::var_os("MOE_OFFLOAD_TEST_CPU").is_none(), "the GPUs cannot be hidden");
    let mut command = alone::this_test();
    command.env("MOE_OFFLOAD_TEST_CPU", "1");
    alone::passes(hide(&mut command));
    true
}
