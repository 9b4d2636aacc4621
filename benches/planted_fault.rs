//! Faults for `scripts/memory-check` to find, so that its silence about the crate means something.
//! Each is a bug that a wrapper of llama.cpp once had.

use std::ffi::{CStr, CString, c_char};
use std::hint::black_box;
use std::ptr;

fn main() {
    let which = std::env::args().nth(1).unwrap_or_default();
    let read = match which.as_str() {
        "dangling-pattern" => dangling_pattern(),
        "no-terminator" => no_terminator(),
        other => panic!("`{other}`: give dangling-pattern or no-terminator"),
    };
    println!("{which}: read {read}");
}

/// An override keeps the pointer of a pattern that is gone.
fn dangling_pattern() -> usize {
    let pattern: *const c_char = {
        let text = CString::new(r"\.ffn_up_exps").expect("no NUL");
        black_box(text.as_ptr())
    };
    // SAFETY: none; that is the fault.
    unsafe { CStr::from_ptr(pattern) }.count_bytes()
}

/// An array of pointers that does not end, read until it does.
fn no_terminator() -> usize {
    let devices: Vec<*const u8> = vec![ptr::dangling(); 16];
    let first = black_box(devices.as_ptr());
    // SAFETY: none; that is the fault.
    (0..black_box(17)).take_while(|&i| !unsafe { *first.add(i) }.is_null()).count()
}
