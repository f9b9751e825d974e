//! Downloading a model from the Hugging Face hub into the local cache (feature `hub`).
//!
//! Over the `hf-hub` crate at 0.5, its last line with a blocking client of modest size (1.0 brings an asynchronous
//! runtime). Its TLS library holds C and assembly, which is why this is no part of a default build.

use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use crate::checkpoint::{CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, is_plain_name, is_side_file};
use crate::hub::{ModelName, resolve_model};
use crate::writer::is_shard_name;
use crate::{DataError, Result};

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadProgress<'a> {
    /// The file being downloaded.
    pub file: &'a str,
    /// Its number, from 1.
    pub number: usize,
    /// How many files there are.
    pub files: usize,
    /// Bytes of this file that are here.
    pub done: u64,
    /// Bytes of this file.
    pub total: u64,
}

/// The directory of a model, after downloading what the cache lacks of it: `config.json`, the safetensors weights,
/// tokenizer and other side files.
///
/// `name` is `owner/name` or `owner/name@revision`; `cache` is the hub directory of the Hugging Face libraries
/// (usually `~/.cache/huggingface/hub`), which both sides then share, with the access token beside it if `hf auth
/// login` was run. `endpoint` replaces `https://huggingface.co`. A broken download is continued by the next call.
pub fn download_model(
    name: &str,
    cache: &Path,
    endpoint: Option<&str>,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf> {
    let model = ModelName::parse(name)?;
    let failed = |file: &str, error: ApiError| DataError::Download {
        name: model.repository.clone(),
        file: file.into(),
        reason: reason(&error),
    };
    let mut builder = ApiBuilder::from_cache(Cache::new(cache.into())).with_progress(false).with_retries(3);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').into());
    }
    let api = builder.build().map_err(|error| failed("the file list", error))?;
    let revision = model.revision.clone().unwrap_or_else(|| "main".into());
    let repository = api.repo(Repo::with_revision(model.repository.clone(), RepoType::Model, revision));

    let listing = repository.info().map_err(|error| failed("the file list", error))?;
    let names: Vec<String> = listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let files = wanted(&names);
    if !names.iter().any(|file| file == WEIGHTS_FILE || file == INDEX_FILE) {
        return Err(DataError::ModelName {
            name: name.into(),
            reason: format!(
                "the repository has neither {WEIGHTS_FILE} nor {INDEX_FILE}; take one with safetensors"
            ),
        });
    }
    for (number, file) in files.iter().enumerate() {
        let mut report = |done, total| {
            progress(DownloadProgress { file, number: number + 1, files: files.len(), done, total });
        };
        let is_here = api_cache_has(cache, &model, file);
        if is_here {
            report(1, 1);
            continue;
        }
        let bridge = Bridge { report: &mut report, done: 0, total: 0 };
        repository.download_with_progress(file, bridge).map_err(|error| failed(file, error))?;
    }
    resolve_model(name, Some(cache))
}

/// The files of a repository that make a checkpoint, weights last.
fn wanted(names: &[String]) -> Vec<&str> {
    let single = names.iter().any(|name| name == WEIGHTS_FILE);
    let is_weight = |name: &str| match single {
        true => name == WEIGHTS_FILE,
        false => name == INDEX_FILE || is_shard_name(name),
    };
    let plain = || names.iter().map(String::as_str).filter(|name| is_plain_name(name));
    let mut files: Vec<&str> = plain().filter(|name| *name == CONFIG_FILE || is_side_file(name)).collect();
    files.extend(plain().filter(|name| is_weight(name)));
    files
}

/// Whether the cache holds a file of the model at its revision.
fn api_cache_has(cache: &Path, model: &ModelName, file: &str) -> bool {
    let revision = model.revision.clone().unwrap_or_else(|| "main".into());
    let repository = Repo::with_revision(model.repository.clone(), RepoType::Model, revision);
    Cache::new(cache.into()).repo(repository).get(file).is_some()
}

/// Hands the client's progress calls to a closure of (done, total).
struct Bridge<'a> {
    report: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Progress for Bridge<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        self.done = 0;
        self.total = size as u64;
        (self.report)(0, self.total);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.report)(self.done, self.total);
    }

    fn finish(&mut self) {
        (self.report)(self.total, self.total);
    }
}

fn reason(error: &ApiError) -> String {
    let words = error.to_string();
    let meaning = if words.contains("401") || words.contains("403") {
        " (the model is gated, private or does not exist: accept its terms on its page and run `hf auth login`)"
    } else if words.contains("404") {
        " (no such model or revision)"
    } else {
        ""
    };
    format!("{words}{meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_a_checkpoint_is_downloaded() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let single = names(&[
            ".gitattributes",
            "README.md",
            "LICENSE",
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "../../evil.json",
            "tokenizer.json",
        ]);
        assert_eq!(wanted(&single), ["LICENSE", "config.json", "tokenizer.json", "model.safetensors"]);
        let sharded = names(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
        ]);
        assert_eq!(wanted(&sharded), [&sharded[0], &sharded[1], &sharded[2], &sharded[3]]);
    }

    #[test]
    fn a_refused_connection_is_reported_with_model_and_remedy() {
        let cache = tempfile::tempdir().unwrap();
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoint = format!("http://{address}");
        let error =
            download_model("Qwen/Qwen3-0.6B", cache.path(), Some(&endpoint), &mut |_| {}).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::Download { .. }), "{message}");
        assert!(message.contains("the file list of \"Qwen/Qwen3-0.6B\""), "{message}");
        assert!(message.contains("hf download Qwen/Qwen3-0.6B"), "{message}");
    }

    /// A hub of one model on the loopback interface, as far as the client asks.
    #[test]
    fn a_model_goes_through_the_cache_and_is_found_there() {
        use std::io::{BufRead, BufReader, Write};
        let mut header = b"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}".to_vec();
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.append(&mut header);
        weights.extend_from_slice(b"ab");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines =
                    BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
                let Some(request) = lines.next() else { continue };
                let range = lines
                    .take_while(|line| !line.is_empty())
                    .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let path = request.split(' ').nth(1).unwrap();
                let body: &[u8] = match path.rsplit('/').next().unwrap() {
                    "config.json" => b"{\"x\": 1}",
                    "model.safetensors" => &weights,
                    _ => br#"{"sha":"abc123","siblings":[{"rfilename":"config.json"},{"rfilename":"model.safetensors"}]}"#,
                };
                let part = if range.as_deref() == Some("0-0") { &body[..1] } else { body };
                let head = format!(
                    "HTTP/1.1 {}\r\ncontent-length: {}\r\ncontent-range: bytes 0-{}/{}\r\netag: \"e{}\"\r\n\
                     x-repo-commit: abc123\r\nconnection: close\r\n\r\n",
                    if range.is_some() { "206 Partial Content" } else { "200 OK" },
                    part.len(),
                    part.len() - 1,
                    body.len(),
                    body.len(),
                );
                stream.write_all(&[head.as_bytes(), part].concat()).unwrap();
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let mut note = |progress: DownloadProgress<'_>| {
            if progress.done == progress.total {
                seen.push((progress.file.to_owned(), progress.number, progress.files));
            }
        };
        let dir = download_model("some/model", cache.path(), Some(&endpoint), &mut note).unwrap();
        assert!(seen.contains(&("model.safetensors".into(), 2, 2)), "{seen:?}");
        let checkpoint = crate::Checkpoint::open(&dir).unwrap();
        assert_eq!(crate::TensorSource::read(&checkpoint, "a").unwrap(), b"ab");
        assert_eq!(resolve_model("some/model", Some(cache.path())).unwrap(), dir);
        // What is here is not asked for again.
        download_model("some/model", cache.path(), Some(&endpoint), &mut |_| {}).unwrap();
    }
}
