//! What the system tells of sockets.

use std::fs;

/// One over IPv4.
pub struct Socket {
    pub port: u16,
    pub listens: bool,
    /// What has arrived and was not read.
    pub unread_bytes: u64,
    /// The number by which processes have it open.
    file: String,
}

impl Socket {
    /// Of a line: its number, its address, the other end, its state, what is unsent and unread, and four more until
    /// its file's number.
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, here, _, state, queues, _, _, _, _, file, ..] = fields[..] else { return None };
        Some(Self {
            port: u16::from_str_radix(here.rsplit_once(':')?.1, 16).ok()?,
            listens: state == "0A",
            unread_bytes: u64::from_str_radix(queues.rsplit_once(':')?.1, 16).ok()?,
            file: file.to_owned(),
        })
    }

    pub fn is_open_in(&self, process: u32) -> bool {
        let name = format!("socket:[{}]", self.file);
        let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        let mut targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        targets.any(|target| target.to_str() == Some(&*name))
    }
}

/// All that the process could have.
pub fn of(process: u32) -> Vec<Socket> {
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    table.lines().filter_map(Socket::read).collect()
}
