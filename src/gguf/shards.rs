//! The names of a split model's files: `name-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

/// The place of a file among the shards of its model, as its name says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShardName {
    prefix: String,
    /// Counted from 1.
    pub(super) number: u32,
    pub(super) count: u32,
}

impl ShardName {
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        Some(Self { prefix: prefix.to_owned(), number: digits(number)?, count: digits(count)? })
    }

    /// The path of shard `number`, in the folder of `sibling`.
    pub(super) fn path(&self, sibling: &Path, number: u32) -> PathBuf {
        sibling.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count))
    }
}

fn digits(text: &str) -> Option<u32> {
    (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let path = Path::new("/models/big-00002-of-00012.gguf");
        let shard = ShardName::parse(path).unwrap();
        assert_eq!((shard.number, shard.count), (2, 12));
        assert_eq!(shard.path(path, 2), path);
        assert_eq!(shard.path(path, 1), Path::new("/models/big-00001-of-00012.gguf"));
    }

    #[test]
    fn other_names_are_not_shards() {
        for name in ["model.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "00001-of-00002.gguf"] {
            assert_eq!(ShardName::parse(Path::new(name)), None, "{name}");
        }
    }
}
