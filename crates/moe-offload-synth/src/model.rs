//! A synthetic model, ready to be written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use moe_offload::{Error, Result};

use super::family::Family;
use super::metadata::set_metadata;
use super::options::{SynthOptions, invalid};
use super::tensors::add_tensors;
use super::weights;
use crate::writer::GgufWriter;

const MAX_SHARDS: u16 = 9_999;

/// A model to be written: its header is there, its weights are made while writing.
#[derive(Clone, Debug)]
pub struct SynthModel {
    family: Family,
    writer: GgufWriter,
    seed: u64,
}

impl Family {
    /// Lays out a model of this shape.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option with which there is no such model.
    pub fn build(&self, options: &SynthOptions) -> Result<SynthModel> {
        let family = options.resolve(self)?;
        let types = options.types(&family)?;
        let mut writer = GgufWriter::new();
        set_metadata(&mut writer, &family);
        add_tensors(&mut writer, &family, types);
        Ok(SynthModel { family, writer, seed: options.seed })
    }
}

impl SynthModel {
    /// The shape, as the options left it.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The header: metadata and the table of tensors.
    pub fn header(&self) -> &GgufWriter {
        &self.writer
    }

    /// Bytes of all weights.
    pub fn tensor_bytes(&self) -> u64 {
        self.writer.tensor_bytes()
    }

    /// Bytes of the whole model in one file.
    pub fn file_bytes(&self) -> u64 {
        header_bytes(&self.writer) + padded_data_bytes(&self.writer)
    }

    /// Writes the model as one file. Needs little memory besides the header.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        self.write_part(&self.writer, out, &mut |_| {})
    }

    /// Writes the model to `path`, or with several `shards` to files beside it named
    /// `…-00001-of-0000N.gguf`, and returns the paths. `progress` is told of every tensor's bytes
    /// as they are written.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an impossible number of shards, [`Error::Io`] if a file cannot
    /// be written; of one that cannot be written whole nothing is left.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        shards: u16,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<PathBuf>> {
        self.save_parts(path.as_ref(), shards, |part, file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            self.write_part(part, &mut out, &mut progress)
        })
    }

    /// Like [`save`](Self::save), but leaves all weights out as holes, which read as zeros and take
    /// no disk: enough to plan with, or for the engine's dry run.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_without_weights(
        &self,
        path: impl AsRef<Path>,
        shards: u16,
    ) -> Result<Vec<PathBuf>> {
        self.save_parts(path.as_ref(), shards, |part, mut file| {
            let mut out = BufWriter::new(&mut file);
            part.write_header(&mut out)?;
            out.flush()?;
            drop(out);
            file.set_len(header_bytes(part) + padded_data_bytes(part))
        })
    }

    fn save_parts(
        &self,
        path: &Path,
        shards: u16,
        mut write: impl FnMut(&GgufWriter, File) -> io::Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let parts = match shards {
            1 => vec![self.writer.clone()],
            2..=MAX_SHARDS if usize::from(shards) <= self.writer.tensors().len() => {
                self.writer.split(shards)
            }
            _ => {
                let value = format!("{shards} (of {} tensors)", self.writer.tensors().len());
                return invalid("the number of shards", value, "from 1 to the tensors' number");
            }
        };
        let paths = paths(path, shards);
        for (i, (part, path)) in parts.iter().zip(&paths).enumerate() {
            let failed = |source| Error::Io { action: "write", path: path.clone(), source };
            let file = File::create(path).map_err(failed)?;
            write(part, file).map_err(failed).inspect_err(|_| {
                // Half a model is none. Best effort: the error says what matters.
                for path in paths[..=i].iter().filter(|path| path.is_file()) {
                    let _ = std::fs::remove_file(path);
                }
            })?;
        }
        Ok(paths)
    }

    fn write_part(
        &self,
        part: &GgufWriter,
        out: impl Write,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        part.write(out, |tensor, out| {
            weights::write(tensor, &self.family, self.seed, &mut Told { out, progress })
        })
    }
}

/// Passes bytes on and tells how many there were.
struct Told<'a> {
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(u64),
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        (self.progress)(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The files that [`SynthModel::save`] writes.
///
/// ```
/// let paths = moe_offload_synth::paths("model.gguf", 2);
/// assert_eq!(paths[1].to_str(), Some("model-00002-of-00002.gguf"));
/// ```
pub fn paths(path: impl AsRef<Path>, shards: u16) -> Vec<PathBuf> {
    let path = path.as_ref();
    if shards == 1 {
        return vec![path.to_owned()];
    }
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    let stem = if is_gguf { path.with_extension("") } else { path.to_owned() };
    let numbered = |number: u16| {
        let mut name = stem.clone().into_os_string();
        name.push(format!("-{number:05}-of-{shards:05}.gguf"));
        PathBuf::from(name)
    };
    (1..=shards).map(numbered).collect()
}

/// Bytes of a header, padded to where the weights begin.
fn header_bytes(writer: &GgufWriter) -> u64 {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    let counted = writer.write_header(&mut count); // counting cannot fail
    debug_assert!(counted.is_ok());
    count.0.next_multiple_of(32)
}

fn padded_data_bytes(writer: &GgufWriter) -> u64 {
    let padded = |tensor: &crate::writer::WriteTensor| tensor.bytes.next_multiple_of(32);
    writer.tensors().iter().map(padded).sum()
}

#[cfg(test)]
mod tests {
    use moe_offload::GgufFile;

    use super::*;
    use crate::{families, family};

    fn read(model: &SynthModel) -> GgufFile {
        let mut file = Vec::new();
        model.write(&mut file).unwrap();
        assert_eq!(file.len() as u64, model.file_bytes());
        GgufFile::read(&file[..], file.len() as u64, "memory").unwrap()
    }

    #[test]
    fn every_tiny_family_is_a_small_valid_file_with_the_same_structure() {
        for family in families() {
            let model = family.build(&SynthOptions::tiny()).unwrap();
            assert!(model.file_bytes() < 1_600_000, "{}: {}", family.name, model.file_bytes());
            let gguf = read(&model);
            assert_eq!(gguf.architecture().unwrap(), family.architecture);
            let tiny = model.family();
            assert!(tiny.expert_layers() >= 2, "{}", family.name);
            assert_eq!(tiny.experts.leading_dense, family.experts.leading_dense);
            assert_eq!(tiny.prediction_layers, family.prediction_layers);
            let layers = || 0..tiny.layers;
            let some = |is: fn(&Family, u32) -> bool| layers().any(|layer| is(tiny, layer));
            assert_eq!(some(Family::is_recurrent), family.recurrent.is_some());
            assert_eq!(some(Family::is_windowed), family.attention.window.is_some());
            assert!(layers().any(|layer| !tiny.is_recurrent(layer) && !tiny.is_windowed(layer)));
        }
    }

    #[test]
    fn a_full_file_has_the_published_files_size() {
        // gpt-oss-20b-mxfp4.gguf, which has 9 MB of merges that the synthetic one has not.
        let published = 12_109_566_560_u64;
        let model = family("gpt-oss-20b").unwrap();
        let bytes = model.build(&SynthOptions::default()).unwrap().file_bytes();
        assert!(bytes.abs_diff(published) < 10_000_000, "{bytes}");
    }

    #[test]
    fn shards_make_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let model = family("mixtral-8x7b").unwrap().build(&SynthOptions::tiny()).unwrap();
        let mut told = 0;
        let paths = model.save(folder.path().join("m.gguf"), 3, |bytes| told += bytes).unwrap();
        assert_eq!(told, model.tensor_bytes());
        assert!(paths[0].ends_with("m-00001-of-00003.gguf"));
        let split = GgufFile::open(&paths[0]).unwrap();
        assert_eq!(split.tensors().len(), model.header().tensors().len());
        assert_eq!(split.shards().len(), 3);
        assert!(model.save(folder.path().join("m.gguf"), 0, |_| {}).is_err());
        assert!(model.save(folder.path().join("m.gguf"), 9_999, |_| {}).is_err());
    }

    #[test]
    fn a_file_without_weights_has_the_same_size() {
        let folder = tempfile::tempdir().unwrap();
        let model = family("dbrx").unwrap().build(&SynthOptions::tiny()).unwrap();
        let path = folder.path().join("m.gguf");
        model.save_without_weights(&path, 1).unwrap();
        assert_eq!(path.metadata().unwrap().len(), model.file_bytes());
        assert_eq!(GgufFile::open(&path).unwrap().tensors().len(), model.header().tensors().len());
    }
}
