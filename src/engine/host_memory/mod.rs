//! Memory for the weights that stay with the CPU, held as a [`LoadMode`] says.
//!
//! The engine takes CPU memory from `malloc`, which knows neither huge pages nor locks nor NUMA nodes. The
//! shim gives it another allocator while a model is loaded, which is [`Held`]; see `docs/host-memory.md`.

#[cfg(target_os = "linux")]
mod area;
#[cfg(not(target_os = "linux"))]
#[path = "area_elsewhere.rs"]
mod area;
mod measured;
mod preflight;
#[cfg(target_os = "linux")]
mod reading;
#[cfg(not(target_os = "linux"))]
#[path = "reading_elsewhere.rs"]
mod reading;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{c_char, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::area::Wanted;
use self::measured::{Measured, measure};
use self::preflight::{Limits, Needs};
use self::reading::Part;
use super::call::{copied, guarded};
use super::load_mode::LoadMode;
use super::{device, ffi};
use crate::device::{CPU, DeviceMemory};
use crate::error::{Error, HostMemoryFault, Result};
use crate::gguf::GgufFile;
use crate::plan::Plan;

/// Sees that the weights can be held so, before anything is loaded.
///
/// # Errors
/// [`Error::HostMemory`].
pub(super) fn preflight(
    mode: LoadMode,
    plan: &Plan,
    devices: &[ffi::ggml_backend_dev_t],
) -> Result<()> {
    if mode == LoadMode::Pinned && !any_pins(devices)? {
        let devices = plan.used_devices().map(|(name, _)| name.to_owned()).collect();
        return Err(error(mode, HostMemoryFault::NoPinningDevice { devices }));
    }
    let cpu = plan.device(CPU);
    let needs = Needs {
        weights_bytes: cpu.map_or(0, |cpu| cpu.weights_bytes),
        has_disk: plan.disk().is_some(),
    };
    preflight::check(mode, needs, &limits()).map_err(|fault| error(mode, fault))
}

fn error(mode: LoadMode, fault: HostMemoryFault) -> Error {
    Error::HostMemory { mode: mode.name(), fault }
}

/// Whether one of the devices of these names has memory of the host that it reads directly.
pub(crate) fn pins(names: &[&str]) -> Result<bool> {
    any_pins(&device::handles(names.iter().copied())?)
}

/// Whether one of the devices of these names pins memory that is ours.
pub(crate) fn registers(names: &[&str]) -> Result<bool> {
    Ok(device::registering(names)?.is_some())
}

/// Areas that are pinned, by address, each for a device.
static PINNED: Mutex<BTreeMap<usize, Pinning>> = Mutex::new(BTreeMap::new());

/// A device that memory is pinned for.
#[derive(Clone, Copy, Debug)]
struct Pinning(ffi::ggml_backend_dev_t);

// SAFETY: devices live as long as the process, and are asked from any thread.
unsafe impl Send for Pinning {}

fn pinned() -> MutexGuard<'static, BTreeMap<usize, Pinning>> {
    // Each change is one entry: a panic elsewhere leaves nothing half-done.
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn any_pins(devices: &[ffi::ggml_backend_dev_t]) -> Result<bool> {
    devices.iter().filter(|device| !device.is_null()).try_fold(false, |any, &device| {
        let mut pins = false;
        // SAFETY: devices live as long as the process; `pins` is written during the call.
        guarded(|message| unsafe { ffi::moe_device_pins(device, &raw mut pins, message) })
            .map_err(|failure| failure.into_error("ask a device for pinned memory"))?;
        Ok(any || pins)
    })
}

/// What this system allows now.
fn limits() -> Limits {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    // Of this thread, which is the one that locks: each has rights of its own.
    let status = text("/proc/thread-self/status").unwrap_or_default();
    Limits {
        lockable_bytes: preflight::lockable(area::lock_limit(), &status),
        huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled"),
        nodes: nodes(),
    }
}

/// NUMA nodes that have memory which this process may use.
fn nodes() -> Vec<u32> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = text("/proc/thread-self/status");
    preflight::usable_nodes(&text("/sys/devices/system/node/has_memory"), &status)
}

/// The memory of one model's weights. The engine frees it with the model.
#[derive(Debug)]
pub(super) struct Held {
    mode: LoadMode,
    wanted: Wanted,
    areas: Vec<Range<usize>>,
    /// Bytes that the engine asked for.
    asked_bytes: u64,
    /// Who is to read it directly.
    pin: Option<Pinning>,
    /// Bytes of areas that are pinned.
    pinned_bytes: u64,
    /// Where tensors have their place that are in the file's layout, by name: address and bytes.
    placed: HashMap<String, (usize, usize)>,
    fault: Option<HostMemoryFault>,
}

impl Held {
    /// `None` for a mode that leaves memory to the engine, unless a device is given that is to read it directly.
    pub(super) fn new(mode: LoadMode, pin: Option<ffi::ggml_backend_dev_t>) -> Option<Self> {
        let wanted = Wanted {
            needs_huge: mode == LoadMode::Huge,
            lock: mode == LoadMode::Locked,
            nodes: if mode == LoadMode::Interleaved { nodes() } else { Vec::new() },
        };
        let (areas, pin) = (Vec::new(), pin.map(Pinning));
        let (placed, fault) = (HashMap::new(), None);
        let nothing =
            Self { mode, wanted, areas, asked_bytes: 0, pin, pinned_bytes: 0, placed, fault };
        (mode.is_held() || pin.is_some()).then_some(nothing)
    }

    /// Pins all of it, now that it is read: pages that are there take a tenth of the time. What the device refuses it
    /// reads more slowly, and counts as not pinned.
    pub(super) fn pin(&mut self) -> Result<()> {
        let Some(Pinning(device)) = self.pin else { return Ok(()) };
        for area in &self.areas {
            let (base, mut is_pinned) = (area.start as *mut c_void, false);
            // SAFETY: an area of ours that stays until `release`, which unpins it first; devices live as long as the
            // process.
            guarded(|message| unsafe {
                ffi::moe_pin(device, base, area.len(), &raw mut is_pinned, message)
            })
            .map_err(|failure| failure.into_error("pin memory for a device"))?;
            if is_pinned {
                pinned().insert(area.start, Pinning(device));
                self.pinned_bytes += area.len() as u64;
            } else {
                let bytes = area.len();
                tracing::warn!(target: "moe_offload", "the device does not pin {bytes} bytes of weights, and reads prompts more slowly");
            }
        }
        Ok(())
    }

    /// For one load, during which nobody else may use `self`.
    pub(super) fn for_engine(&mut self) -> ffi::moe_host_memory {
        let user = ptr::from_mut(self).cast();
        let (take, release, placed) = (Some(take as _), Some(release as _), Some(placed as _));
        ffi::moe_host_memory { take, release, placed, user }
    }

    /// Reads tensors of these names, which the engine has placed and not read.
    ///
    /// # Errors
    /// [`Error::HostMemory`] if one is elsewhere, or what goes wrong with reading. `go_on` is told how much is done, and
    /// ends it by `false`.
    pub(super) fn read(
        &self,
        gguf: &GgufFile,
        names: &HashSet<&str>,
        go_on: impl FnMut(f32) -> bool,
    ) -> Result<()> {
        let mut parts = Vec::new();
        for tensor in gguf.tensors().iter().filter(|tensor| names.contains(&*tensor.name)) {
            let elsewhere_bytes = tensor.bytes;
            let place =
                self.placed.get(&tensor.name).filter(|place| place.1 as u64 == tensor.bytes);
            let Some(&(to, bytes)) = place else {
                let fault =
                    HostMemoryFault::Elsewhere { all_bytes: self.asked_bytes, elsewhere_bytes };
                return Err(error(self.mode, fault));
            };
            parts.push(Part { shard: tensor.shard, offset: tensor.file_offset, to, bytes });
        }
        // SAFETY: places of different tensors in areas of ours, zeroed by the system; the model is loaded, and
        // nobody computes with it yet.
        unsafe { reading::read(gguf.shards(), &parts, go_on) }
    }

    /// Why there was no memory, if that was it.
    pub(super) fn failure(&mut self) -> Option<Error> {
        let mode = self.mode;
        self.fault.take().map(|fault| error(mode, fault))
    }

    /// Notes how the CPU's weights are really held.
    ///
    /// # Errors
    /// [`Error::HostMemory`] if the engine put some elsewhere.
    pub(super) fn account(&self, cpu: &mut DeviceMemory) -> Result<()> {
        let all_bytes = cpu.weights_bytes;
        let elsewhere_bytes = all_bytes.saturating_sub(self.asked_bytes);
        // Where it was only to be pinned, it is read more slowly.
        if elsewhere_bytes > 0 && self.mode.is_held() {
            return Err(error(
                self.mode,
                HostMemoryFault::Elsewhere { all_bytes, elsewhere_bytes },
            ));
        }
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let Measured { huge_bytes, locked_bytes } = measure(&smaps, &self.areas);
        // Areas end with a whole page, which counts no more than what is in it.
        let host = cpu.host.get_or_insert_default();
        host.huge_bytes = huge_bytes.min(all_bytes);
        host.locked_bytes = locked_bytes.min(all_bytes);
        let pinned_bytes = self.pinned_bytes.min(all_bytes).min(host.anonymous_bytes);
        host.anonymous_bytes -= pinned_bytes;
        host.pinned_bytes += pinned_bytes;
        if self.mode == LoadMode::Huge && host.huge_bytes < all_bytes / 10 * 9 {
            let (huge, mode) = (host.huge_bytes, self.mode);
            tracing::warn!(target: "moe_offload", "{mode}: only {huge} of {all_bytes} bytes are in huge pages; memory is fragmented");
        }
        Ok(())
    }
}

unsafe extern "C" fn take(bytes: usize, user: *mut c_void) -> *mut c_void {
    // SAFETY: `user` is the `Held` of `Weights::load`, which waits for the engine and does not touch it
    // meanwhile; the engine calls from that one thread. Nothing here panics but out of memory, which aborts.
    let held = unsafe { &mut *user.cast::<Held>() };
    match area::take(bytes, &held.wanted) {
        Ok(area) => {
            let base = area.start;
            held.areas.push(area);
            held.asked_bytes += bytes as u64;
            base as *mut c_void
        }
        Err(fault) => {
            held.fault = Some(fault);
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn placed(
    name: *const c_char,
    data: *mut c_void,
    bytes: usize,
    user: *mut c_void,
) {
    // SAFETY: as `take`; the name is NUL-terminated and lives during the call.
    let (held, name) = unsafe { (&mut *user.cast::<Held>(), copied(name)) };
    held.placed.insert(name, (data as usize, bytes));
}

unsafe extern "C" fn release(base: *mut c_void, bytes: usize) {
    let pinning = pinned().remove(&(base as usize));
    if let Some(Pinning(device)) = pinning {
        // SAFETY: pinned by `Held::pin`, and still there; the device lives as long as the process.
        let unpinned = guarded(|message| unsafe { ffi::moe_unpin(device, base, message) });
        if let Err(failure) = unpinned {
            tracing::error!(target: "moe_offload", "unpinning memory failed: {}", failure.reason);
        }
    }
    // SAFETY: the engine frees each buffer once, with the address and size of its `take`.
    unsafe { area::release(base as usize, bytes) }
}

/// Sees that weights which were to be pinned are.
///
/// # Errors
/// [`Error::HostMemory`]: drivers have limits of their own, and the engine then takes plain memory.
pub(super) fn check_pinned(cpu: &DeviceMemory) -> Result<()> {
    let all_bytes = cpu.weights_bytes;
    let pinned = cpu.host.map_or(0, |host| host.pinned_bytes);
    if all_bytes > 0 && pinned == 0 {
        let fault = HostMemoryFault::Elsewhere { all_bytes, elsewhere_bytes: all_bytes };
        return Err(error(LoadMode::Pinned, fault));
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::MoeModel;

    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");

    fn locked() -> Result<MoeModel> {
        let builder = MoeModel::builder(MODEL).local_devices(&[]).threads(1).context_tokens(256);
        builder.load_mode(LoadMode::Locked).load()
    }

    /// Gives up the right to lock without limit, and lowers the limit.
    fn forbid_locking(bytes: u64) {
        #[repr(C)]
        struct Header {
            version: u32,
            process: i32,
        }
        /// Two words each of what is effective, permitted and inherited.
        type Rights = [[u32; 3]; 2];
        const VERSION_3: u32 = 0x2008_0522;
        const IPC_LOCK: u32 = 1 << 14;
        let mut header = Header { version: VERSION_3, process: 0 };
        let mut rights: Rights = [[0; 3]; 2];
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: header and rights have the layout of version 3 of the call, the limit its own; they
        // live during the calls.
        unsafe {
            let (header, rights) = (&raw mut header, &raw mut rights);
            assert_eq!(libc::syscall(libc::SYS_capget, header, rights), 0);
            (*rights)[0][0] &= !IPC_LOCK;
            assert_eq!(libc::syscall(libc::SYS_capset, header, rights), 0);
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
        }
    }

    /// In a process of its own, whose rights and limit are lowered.
    #[test]
    fn a_low_limit_of_locked_memory_is_told_before_loading() {
        const CHILD: &str = "MOE_OFFLOAD_TEST_MAY_NOT_LOCK";
        if std::env::var_os(CHILD).is_some() {
            forbid_locking(64 << 10);
            let error = locked().map(|_| ()).unwrap_err();
            let Error::HostMemory { mode: "locked", fault } = &error else { panic!("{error}") };
            let HostMemoryFault::LockLimit { needed_bytes, allowed_bytes: 65536 } = fault else {
                panic!("{error}")
            };
            assert!(*needed_bytes > 3 << 20, "{error}");
            let text = error.to_string();
            assert!(text.contains("64.00 KiB") && text.contains("ulimit -l"), "{text}");
            // What is not told beforehand is still an error, and leaves nothing behind.
            let wanted = Wanted { lock: true, ..Wanted::default() };
            let fault = area::take(1 << 20, &wanted).unwrap_err();
            assert!(matches!(fault, HostMemoryFault::LockRefused { bytes: 1_048_576, .. }));
            println!("told");
            return;
        }
        let this = concat!(module_path!(), "::a_low_limit_of_locked_memory_is_told_before_loading");
        let this = this.split_once("::").unwrap().1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([this, "--exact", "--nocapture"]).env(CHILD, "1").output();
        let output = output.unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), &output.stderr);
        assert!(
            output.status.success() && said.contains("told"),
            "{said}{}",
            String::from_utf8_lossy(errors)
        );
    }

    #[test]
    fn memory_that_is_refused_while_loading_is_its_own_error() {
        let mut held = Held::new(LoadMode::Huge, None).unwrap();
        let memory = held.for_engine();
        // SAFETY: as the engine calls it, with the `Held` that the structure was made of.
        let base = unsafe { memory.take.unwrap()(1 << 60, memory.user) };
        assert!(base.is_null());
        let error = held.failure().unwrap();
        assert!(
            matches!(&error, Error::HostMemory { mode: "huge", fault: HostMemoryFault::Refused { bytes, .. } } if *bytes == 1 << 60),
            "{error}"
        );
        assert!(held.failure().is_none());
    }

    #[test]
    fn weights_that_the_engine_put_elsewhere_are_an_error() {
        let held = Held { asked_bytes: 60, ..Held::new(LoadMode::Locked, None).unwrap() };
        let mut cpu = DeviceMemory::empty(CPU);
        cpu.weights_bytes = 100;
        let error = held.account(&mut cpu).unwrap_err();
        let expected = HostMemoryFault::Elsewhere { all_bytes: 100, elsewhere_bytes: 40 };
        assert!(matches!(&error, Error::HostMemory { fault, .. } if *fault == expected), "{error}");
        let error = check_pinned(&cpu).unwrap_err();
        assert!(error.to_string().contains("100 B"), "{error}");
        cpu.weights_bytes = 60;
        held.account(&mut cpu).unwrap();
    }
}
