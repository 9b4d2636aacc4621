//! What wakes a reader that waits for the disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// Stays readable from when it is sent until it is taken, however often it is sent: an `eventfd`.
#[derive(Debug)]
pub(super) struct EventFd(File);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: it makes a descriptor, and touches no memory.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's; the file closes it.
        Ok(Self(unsafe { File::from_raw_fd(descriptor) }))
    }

    pub(super) fn send(&self) {
        // It can only fail where it was sent so often that it is readable all the same.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Whether it was sent since it was last taken.
    pub(super) fn take(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_often_and_taken_once() {
        let event_fd = EventFd::new().unwrap();
        assert!(!event_fd.take(), "not yet sent");
        event_fd.send();
        event_fd.send();
        assert!(event_fd.take());
        assert!(!event_fd.take());
    }
}
