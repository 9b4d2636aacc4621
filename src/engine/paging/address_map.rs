//! Where the engine's paged tensors are in memory.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Mutex;

use super::super::ffi;
use super::lock;
use super::memory::{Cuts, Reserved};
use crate::error::{Error, Result};
use crate::paging::PAGE_BYTES;

/// Where the engine's tensors are.
pub(super) struct AddressMap {
    reserved: Vec<Reserved>,
    cuts: Cuts,
    /// Offset of each tensor in its file, by name.
    offsets: HashMap<String, u64>,
    pub(super) addresses: HashMap<String, usize>,
    /// Why there were no addresses.
    pub(super) failure: Option<Error>,
}

impl AddressMap {
    pub(super) fn new(offsets: HashMap<String, u64>) -> Mutex<Self> {
        Mutex::new(Self {
            reserved: Vec::new(),
            cuts: Cuts::default(),
            offsets,
            addresses: HashMap::new(),
            failure: None,
        })
    }

    fn of(&self, range: &Range<usize>) -> Option<&Reserved> {
        self.reserved.iter().find(|all| all.contains(range))
    }

    /// Gives the memory of pages back that nobody uses.
    pub(super) fn release(&self, range: &Range<usize>) {
        if let Some(reserved) = self.of(range) {
            reserved.release(range);
        }
    }

    /// Moves the memory of pages that nobody uses to where there is none, from the first page on as far as the
    /// system can; so many bytes.
    pub(super) fn move_pages(&mut self, range: &Range<usize>, to: usize) -> Result<usize> {
        let mut moved = 0;
        if self.of(range).is_none() || self.of(&(to..to + range.len())).is_none() {
            return Ok(moved);
        }
        for part in self.cuts.parts(range) {
            let new = to + moved;
            if !Reserved::move_pages(&part, new)? {
                break;
            }
            self.cuts.moved_to(&(new..new + part.len()));
            moved += part.len();
        }
        Ok(moved)
    }
}

/// What the engine asks for addresses; `address_map` must stay where it is as long as the engine has it.
pub(super) fn for_engine(address_map: &Mutex<AddressMap>) -> ffi::moe_paged_memory {
    ffi::moe_paged_memory {
        reserve: Some(reserve),
        release: Some(release),
        place: Some(place),
        user: ptr::from_ref(address_map).cast_mut().cast(),
    }
}

unsafe extern "C" fn reserve(bytes: usize, user: *mut c_void) -> *mut c_void {
    // SAFETY: `user` is the pager's address map, boxed and alive as long as the buffer type.
    let address_map = unsafe { &*user.cast::<Mutex<AddressMap>>() };
    match Reserved::new(bytes) {
        Ok(reserved) => {
            let base = reserved.base();
            lock(address_map).reserved.push(reserved);
            base as *mut c_void
        }
        Err(error) => {
            lock(address_map).failure = Some(error);
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn release(base: *mut c_void, _bytes: usize, user: *mut c_void) {
    // SAFETY: as in `reserve`.
    let address_map = unsafe { &*user.cast::<Mutex<AddressMap>>() };
    lock(address_map).reserved.retain(|reserved| reserved.base() != base as usize);
}

unsafe extern "C" fn place(
    name: *const c_char,
    _bytes: usize,
    data: *mut c_void,
    user: *mut c_void,
) -> *mut c_void {
    // SAFETY: as in `reserve`; the name is the engine's NUL-terminated text.
    let (address_map, name) = unsafe { (&*user.cast::<Mutex<AddressMap>>(), CStr::from_ptr(name)) };
    let mut address_map = lock(address_map);
    let name = name.to_string_lossy().into_owned();
    let Some(&offset) = address_map.offsets.get(&name) else { return ptr::null_mut() };
    let Ok(in_page) = usize::try_from(offset % PAGE_BYTES) else { return ptr::null_mut() };
    // The engine aligned it to a page and left two pages of room.
    let address = data as usize + in_page;
    address_map.addresses.insert(name, address);
    NonNull::new(address as *mut c_void).map_or(ptr::null_mut(), NonNull::as_ptr)
}
