//! GPUs that a test does not expect.

use std::process::Command;

use moe_offload::{DeviceKind, devices};

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
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact"]).env("MOE_OFFLOAD_TEST_CPU", "1");
    let output = hide(&mut command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    true
}
