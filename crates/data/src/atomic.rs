//! Files that appear whole or not at all: written aside, synced, renamed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::safetensors::PositionalFile;
use crate::{DataError, Result};

/// What stands between a file's name and the process id in the name of its temporary.
pub(crate) const PARTIAL_MARK: &str = ".partial-";

/// Writes a file so that readers see the old content or the new, never a part: the bytes go to
/// `<path>.partial-<pid>-<n>` in the same directory, are synced, and are renamed over `path`.
///
/// Refuses a `path` that is a directory, a device or a pipe. A symbolic link is replaced, not followed.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let partial = Partial::create(path.as_ref())?;
    partial.write_all_at(bytes, 0)?;
    partial.commit()
}

/// A file under its temporary name; dropped without [`commit`](Self::commit), it is removed.
#[derive(Debug)]
pub(crate) struct Partial {
    /// `None` once the file is closed for the rename.
    file: Option<PositionalFile>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Partial {
    pub(crate) fn create(target: &Path) -> Result<Self> {
        // Two writers of one process must not share a temporary; process ids repeat across containers, so an
        // existing temporary of the same name is stale and is overwritten.
        static COUNTER: AtomicU64 = AtomicU64::new(0);

        match std::fs::symlink_metadata(target) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(DataError::NotARegularFile { path: target.into(), found: "a directory" });
            }
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
                return Err(DataError::NotARegularFile { path: target.into(), found: "a device or pipe" });
            }
            _ => {}
        }
        let Some(name) = target.file_name() else {
            return Err(DataError::NotARegularFile { path: target.into(), found: "no file name" });
        };
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut temporary_name = name.to_owned();
        temporary_name.push(format!("{PARTIAL_MARK}{}-{number}", std::process::id()));
        let temporary = target.with_file_name(temporary_name);
        let file = File::create(&temporary).map_err(DataError::io("create", target))?;
        Ok(Self { file: Some(PositionalFile::new(file)), temporary, target: target.into() })
    }

    /// The final path.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.on_file(|file| file.write_all_at(bytes, position))
    }

    /// Waits until the bytes are on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.on_file(|file| file.file.sync_all())
    }

    /// Syncs, closes and renames to the final path.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.sync()?;
        self.file = None; // an open file cannot be renamed on Windows
        std::fs::rename(&self.temporary, &self.target).map_err(DataError::io("rename to", &self.target))?;
        self.temporary = PathBuf::new(); // nothing left for `drop` to remove
        if let Some(parent) = self.target.parent() {
            sync_directory(parent);
        }
        Ok(())
    }

    fn on_file(&self, call: impl FnOnce(&PositionalFile) -> io::Result<()>) -> Result<()> {
        let file = self.file.as_ref().expect("only commit closes the file, and it takes self");
        call(file).map_err(DataError::io("write", &self.target))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            self.file = None;
            // Nobody is left to take this error; the name tells what a leftover is.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a rename durable where the system can; some file systems refuse, and the rename holds anyway.
fn sync_directory(dir: &Path) {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if let Ok(dir) = File::open(dir) {
        let _ = dir.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_reported_with_the_path_and_the_system_words() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let partial = Partial {
            file: Some(PositionalFile::new(full)),
            temporary: PathBuf::new(),
            target: "out/model.safetensors".into(),
        };
        let error = partial.write_all_at(b"x", 0).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::Io { action: "write", .. }), "{message}");
        assert!(message.contains("out/model.safetensors") && message.contains("No space left"), "{message}");
        assert!(message.ends_with("free space there or write elsewhere"), "{message}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_and_directories_are_refused() {
        for path in ["/dev/full", "/dev", "/", ".."] {
            let error = write_atomically(path, b"x").unwrap_err();
            assert!(matches!(error, DataError::NotARegularFile { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn content_is_replaced_whole_and_no_temporary_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomically(&path, b"old").unwrap();
        let partial = Partial::create(&path).unwrap();
        partial.write_all_at(b"half", 0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(partial);
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
