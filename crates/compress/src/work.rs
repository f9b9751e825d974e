//! The unfinished work of a run: profiles and compressed layers in `OUT/.unfinished`, so that a killed
//! run goes on where it stopped and ends with the same bytes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sparseland_data::{TensorFile, TensorWriter, write_atomically};
use sparseland_matrix::Matrix;
use sparseland_nn::structure::{part_spec, read_matrix};

use crate::CompressError;
use crate::allocation::LayerProfile;
use crate::pipeline::LayerRecord;

/// The folder inside the output directory.
const FOLDER: &str = ".unfinished";

/// Where the unfinished work of a run that writes to `out` is kept.
pub fn folder(out: &Path) -> PathBuf {
    out.join(FOLDER)
}

/// A folder that keeps finished steps.
pub(crate) struct Work {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Settings {
    fingerprint: String,
    description: String,
}

impl Work {
    /// Opens or makes the folder for a run with the given settings.
    ///
    /// # Errors
    /// [`CompressError::ForeignWork`] if it holds the work of a run with other settings.
    pub(crate) fn open(out: &Path, fingerprint: &str, description: &str) -> Result<Self, CompressError> {
        let dir = folder(out);
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| CompressError::Io { path, source }
        };
        std::fs::create_dir_all(&dir).map_err(io(&dir))?;
        let path = dir.join("settings.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let found: Option<Settings> = serde_json::from_slice(&bytes).ok();
                if found.as_ref().is_none_or(|f| f.fingerprint != fingerprint) {
                    let theirs = found.map_or("unreadable settings".into(), |f| f.description);
                    return Err(CompressError::ForeignWork {
                        dir: dir.display().to_string(),
                        what: format!("theirs: {theirs}; yours: {description}"),
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let settings =
                    Settings { fingerprint: fingerprint.to_owned(), description: description.to_owned() };
                write_atomically(&path, &to_json(&settings))?;
            }
            Err(error) => return Err(io(&path)(error)),
        }
        Ok(Self { dir })
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The profiles of a block, if finished.
    pub(crate) fn profile(&self, block: usize) -> Option<Vec<LayerProfile>> {
        let bytes = std::fs::read(self.dir.join(format!("profile-{block}.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps the profiles of a block.
    pub(crate) fn keep_profile(&self, block: usize, profiles: &[LayerProfile]) -> Result<(), CompressError> {
        Ok(write_atomically(self.dir.join(format!("profile-{block}.json")), &to_json(&profiles))?)
    }

    /// The file of a compressed layer.
    pub(crate) fn layer_path(&self, tag: &str, name: &str) -> PathBuf {
        self.dir.join(format!("{tag}-{name}.safetensors"))
    }

    /// A compressed layer, if finished.
    pub(crate) fn layer(&self, tag: &str, name: &str) -> Option<(LayerRecord, Matrix)> {
        let file = TensorFile::open(self.layer_path(tag, name)).ok()?;
        let record: LayerRecord = serde_json::from_str(file.metadata().get("record")?).ok()?;
        let matrix = read_matrix(&file, &record.name, &record.layout).ok()?;
        Some((record, matrix))
    }

    /// Keeps a compressed layer.
    pub(crate) fn keep_layer(
        &self,
        tag: &str,
        record: &LayerRecord,
        matrix: &Matrix,
    ) -> Result<(), CompressError> {
        let parts = matrix.parts(&record.name);
        let specs: Vec<_> = parts.iter().map(part_spec).collect();
        let text = String::from_utf8(to_json(record)).expect("JSON is UTF-8");
        let metadata = [("record".to_owned(), text)].into();
        let mut writer = TensorWriter::create(self.layer_path(tag, &record.name), &specs, &metadata)?;
        for part in &parts {
            writer.write(&part.name, &part.bytes)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Removes the folder: the run is complete.
    pub(crate) fn remove(self) -> Result<(), CompressError> {
        std::fs::remove_dir_all(&self.dir)
            .map_err(|source| CompressError::Io { path: self.dir.display().to_string(), source })
    }
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data serialises")
}
