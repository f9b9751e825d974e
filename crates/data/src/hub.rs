//! From a model's name to a directory on this machine: a path, or an entry of the local Hugging Face cache.

use std::path::{Path, PathBuf};

use crate::{DataError, Result};

/// The directory of a model given by path or by name.
///
/// An existing directory is returned as it is. A name (`Qwen/Qwen3-0.6B`, `gpt2`, either with `@revision`) is looked
/// up in `cache`, the hub directory of the Hugging Face libraries (usually `~/.cache/huggingface/hub`; its parent is
/// accepted too). Nothing is downloaded; the error says where it looked and how to get the model.
pub fn resolve_model(name: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.into());
    }
    if path.is_file() {
        let reason = "this is a file; give the directory that holds it, with config.json and the weights";
        return Err(DataError::ModelName { name: name.into(), reason: reason.into() });
    }
    let model = ModelName::parse(name)?;
    let Some(cache) = cache else {
        return Err(not_found(name, &model, "for a directory of this name; no cache is known".into()));
    };
    let folder = model.cache_folder();
    let candidates = [cache.join(&folder), cache.join("hub").join(&folder)];
    let Some(entry) = candidates.iter().find(|dir| dir.is_dir()) else {
        let looked = format!("for a directory of this name and in {}", cache.display());
        return Err(not_found(name, &model, looked));
    };
    snapshot(entry, model.revision.as_deref()).map_err(|why| {
        let looked = format!("in {}: {why}", entry.display());
        not_found(name, &model, looked)
    })
}

/// Finds the snapshot directory of a revision in one entry of the cache.
fn snapshot(entry: &Path, revision: Option<&str>) -> Result<PathBuf, String> {
    let snapshots = entry.join("snapshots");
    let wanted = revision.unwrap_or("main");
    // A branch or tag has a file with its commit; a commit stands for itself.
    let commit = match std::fs::read_to_string(entry.join("refs").join(wanted)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => wanted.to_owned(),
    };
    let is_plain = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain && snapshots.join(&commit).is_dir() {
        return Ok(snapshots.join(commit));
    }
    let mut present: Vec<String> = std::fs::read_dir(&snapshots)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    present.sort();
    match (&present[..], revision) {
        ([], _) => Err("the entry has no snapshot, its download was not complete".into()),
        ([only], None) => Ok(snapshots.join(only)),
        _ => Err(format!("no revision {wanted:?}, there are {}", present.join(", "))),
    }
}

fn not_found(name: &str, model: &ModelName, looked: String) -> DataError {
    let revision =
        model.revision.as_ref().map(|revision| format!(" --revision {revision}")).unwrap_or_default();
    let repository = &model.repository;
    let help = format!(
        "download it with `hf download {repository}{revision}`, or copy a directory with config.json and the weights \
         here and give its path"
    );
    DataError::ModelNotFound { name: name.into(), looked, help }
}

/// A repository's name on the hub, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ModelName {
    /// `owner/name` or `name`.
    pub(crate) repository: String,
    /// Branch, tag or commit; `None` stands for `main`.
    pub(crate) revision: Option<String>,
}

impl ModelName {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let bad = |reason: &str| Err(DataError::ModelName { name: name.into(), reason: reason.into() });
        let (repository, revision) = match name.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (name, None),
        };
        let parts: Vec<&str> = repository.split('/').collect();
        if name.is_empty() {
            return bad("the name is empty; give a directory or a name such as Qwen/Qwen3-0.6B");
        }
        let is_path = name.starts_with(['/', '.', '~']) || parts.len() > 2 || name.contains('\\');
        if is_path {
            return bad("no such directory; check the path");
        }
        let good_part = |part: &&str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
        };
        if !parts.iter().chain(revision.iter()).all(good_part) {
            return bad("neither a directory here nor a model name (owner/name, letters, digits and -_.)");
        }
        Ok(Self { repository: repository.into(), revision: revision.map(str::to_owned) })
    }

    /// The folder of the cache: `models--owner--name`.
    fn cache_folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }
}
