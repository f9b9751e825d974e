//! The hidden states of the calibration sequences between two blocks: in memory while they are few,
//! in a temporary file otherwise, so that memory stays bounded however much text is used.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::CompressError;

/// Above this many bytes the states live in a file.
const IN_MEMORY: usize = 192 << 20;

/// Hidden states of sequences of various lengths.
pub(crate) struct HiddenStates {
    /// Position of each sequence's first number; one more entry than sequences.
    offsets: Vec<usize>,
    store: Store,
}

enum Store {
    Memory(Vec<f32>),
    File { file: File, path: PathBuf, buffer: Vec<u8> },
}

impl HiddenStates {
    /// Room for sequences of the given numbers of values; `scratch` is where a file may go.
    pub(crate) fn new(lengths: impl Iterator<Item = usize>, scratch: &Path) -> Result<Self, CompressError> {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let total = offsets[offsets.len() - 1];
        let store = if total * 4 <= IN_MEMORY {
            Store::Memory(vec![0.0; total])
        } else {
            let path = scratch.join(format!("hidden-states-{}.tmp", std::process::id()));
            let open = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let file = open.map_err(|source| io(&path, source))?;
            Store::File { file, path, buffer: Vec::new() }
        };
        Ok(Self { offsets, store })
    }

    /// The number of sequences.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Reads sequence `index` into `out`, which is resized.
    pub(crate) fn read(&mut self, index: usize, out: &mut Vec<f32>) -> Result<(), CompressError> {
        let (start, end) = (self.offsets[index], self.offsets[index + 1]);
        out.resize(end - start, 0.0);
        match &mut self.store {
            Store::Memory(all) => out.copy_from_slice(&all[start..end]),
            Store::File { file, path, buffer } => {
                buffer.resize(4 * (end - start), 0);
                file.seek(SeekFrom::Start(4 * start as u64))
                    .and_then(|_| file.read_exact(buffer))
                    .map_err(|source| io(path, source))?;
                for (o, b) in out.iter_mut().zip(buffer.chunks_exact(4)) {
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
        Ok(())
    }

    /// Replaces sequence `index`.
    pub(crate) fn write(&mut self, index: usize, values: &[f32]) -> Result<(), CompressError> {
        let start = self.offsets[index];
        match &mut self.store {
            Store::Memory(all) => all[start..start + values.len()].copy_from_slice(values),
            Store::File { file, path, buffer } => {
                buffer.clear();
                buffer.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                file.seek(SeekFrom::Start(4 * start as u64))
                    .and_then(|_| file.write_all(buffer))
                    .map_err(|source| io(path, source))?;
            }
        }
        Ok(())
    }
}

impl Drop for HiddenStates {
    fn drop(&mut self) {
        if let Store::File { path, .. } = &self.store {
            // Nothing can be done about a temporary file that will not go.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn io(path: &Path, source: std::io::Error) -> CompressError {
    CompressError::Io { path: path.display().to_string(), source }
}
