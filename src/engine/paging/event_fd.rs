//! What wakes a reader that waits for the disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

/// Stays readable from when it is sent until it is taken, however often it is sent: an `eventfd`.
#[derive(Debug)]
pub(super) struct EventFd(File);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(File::from(descriptor)))
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
