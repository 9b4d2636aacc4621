//! An RPC server's cache of weights: files named by the checksum of what is in them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes the folder if there is none, and removes what a server that was ended while it wrote left
/// half-written: the engine would take it for the whole tensor. Files of other names stay.
pub(crate) fn clean_cache(folder: &Path) -> Result<()> {
    let failed = |action| move |source| Error::Io { action, path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed("make the cache"))?;
    for entry in fs::read_dir(folder).map_err(failed("read the cache"))? {
        let path = entry.map_err(failed("read the cache"))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_ours = name.len() == 16
            && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && path.is_file();
        let Some(expected) = is_ours.then(|| u64::from_str_radix(name, 16).ok()).flatten() else {
            continue;
        };
        let io = |action| {
            let path = path.clone();
            move |source| Error::Io { action, path, source }
        };
        if checksum(&path).map_err(io("read"))? != expected {
            tracing::warn!("`{}` in the cache is damaged and is removed", path.display());
            fs::remove_file(&path).map_err(io("remove"))?;
        }
    }
    Ok(())
}

/// The engine's: FNV-1a of 64 bits.
fn checksum(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(hash);
        }
        for &byte in &chunk[..read] {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_damaged_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("cache");
        clean_cache(&folder).unwrap();
        // Published test vectors of FNV-1a: of nothing, of "a" and of "foobar".
        let whole =
            [("cbf29ce484222325", ""), ("af63dc4c8601ec8c", "a"), ("85944171f73967e8", "foobar")];
        let damaged = [("85944171f73967e9", "foobar"), ("0000000000000000", "")];
        let others = [("notes.txt", "x"), ("AF63DC4C8601EC8D", "x"), ("abc", "x")];
        for (name, text) in whole.into_iter().chain(damaged).chain(others) {
            fs::write(folder.join(name), text).unwrap();
        }
        clean_cache(&folder).unwrap();
        let left =
            |names: [(&str, &str); 3]| names.iter().all(|(name, _)| folder.join(name).exists());
        assert!(left(whole) && left(others));
        assert!(damaged.iter().all(|(name, _)| !folder.join(name).exists()));

        let error = clean_cache(&folder.join("notes.txt")).unwrap_err();
        assert!(matches!(error, Error::Io { action: "make the cache", .. }), "{error}");
    }
}
