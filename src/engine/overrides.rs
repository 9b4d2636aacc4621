//! The override array that llama.cpp is given.

use std::ffi::CString;
use std::ptr;

use super::call::c_string;
use super::ffi::{ggml_backend_buffer_type_t, llama_model_tensor_buft_override};
use crate::error::Result;
use crate::plan::Override;

/// `{pattern, buffer type}` entries with their terminator. Owns the patterns' text, so that every
/// pointer in it is valid as long as it lives, wherever it is moved.
pub(super) struct OverrideArray {
    entries: Vec<llama_model_tensor_buft_override>,
    /// What the entries point into; heap-allocated, so moving this moves no text.
    _patterns: Vec<CString>,
}

// SAFETY: the entries point into `_patterns`, which travels along and is never changed, and to
// buffer types, which the engine keeps as long as the process.
unsafe impl Send for OverrideArray {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for OverrideArray {}

impl OverrideArray {
    /// `buffer_type` finds the buffer type of a device by name.
    pub(super) fn new(
        overrides: &[Override],
        buffer_type: impl Fn(&str) -> Result<ggml_backend_buffer_type_t>,
    ) -> Result<Self> {
        let patterns: Vec<CString> = overrides
            .iter()
            .map(|entry| c_string("a pattern", &entry.pattern))
            .collect::<Result<_>>()?;
        let mut entries = Vec::with_capacity(overrides.len() + 1);
        for (pattern, entry) in patterns.iter().zip(overrides) {
            let buft = buffer_type(&entry.device)?;
            entries.push(llama_model_tensor_buft_override { pattern: pattern.as_ptr(), buft });
        }
        let end = llama_model_tensor_buft_override { pattern: ptr::null(), buft: ptr::null_mut() };
        entries.push(end);
        Ok(Self { entries, _patterns: patterns })
    }

    /// The array, ended by an entry of nulls; valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *const llama_model_tensor_buft_override {
        self.entries.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::policy::OffloadPolicy;
    use crate::{ContextOptions, Device};

    /// Reads the array as the engine does: up to the terminator.
    fn read(array: &OverrideArray) -> Vec<(String, usize)> {
        let mut entry = array.as_ptr();
        let mut read = Vec::new();
        loop {
            // SAFETY: the array is alive and ends with a null pattern, where the loop stops.
            let llama_model_tensor_buft_override { pattern, buft } = unsafe { *entry };
            if pattern.is_null() {
                return read;
            }
            // SAFETY: the array owns the pattern's NUL-terminated text.
            let pattern = unsafe { CStr::from_ptr(pattern) }.to_str().unwrap().to_owned();
            read.push((pattern, buft.addr()));
            // SAFETY: the terminator was not reached, so there is a next entry.
            entry = unsafe { entry.add(1) };
        }
    }

    #[allow(clippy::unnecessary_wraps)] // stands in for a look-up that can fail
    fn fake_buffer_type(name: &str) -> Result<ggml_backend_buffer_type_t> {
        Ok(ptr::without_provenance_mut(name.len()))
    }

    #[test]
    fn no_override_leaves_only_the_terminator() {
        let array = OverrideArray::new(&[], fake_buffer_type).unwrap();
        assert_eq!(read(&array), []);
    }

    #[test]
    fn many_overrides_survive_moves_and_the_plan() {
        let array = {
            let gguf = crate::gguf::testing::moe(15, 0);
            let rules: Vec<String> =
                (0..15).map(|layer| format!("layers:{layer}=dev{layer}")).collect();
            let policy: OffloadPolicy = rules.join(";").parse().unwrap();
            let devices: Vec<Device> = (0..15).map(|i| Device::new(format!("dev{i}"))).collect();
            let plan = policy.plan(&gguf, &devices, &ContextOptions::default()).unwrap();
            let array = OverrideArray::new(&plan.overrides(), fake_buffer_type).unwrap();
            Box::new(array)
        };
        let entries = read(&array);
        assert!(entries.len() >= 12, "{entries:?}");
        assert!(entries.iter().all(|(pattern, _)| pattern.starts_with("^blk\\.")), "{entries:?}");
    }
}
