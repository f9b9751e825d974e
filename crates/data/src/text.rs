//! Texts: one document per file (`.txt` and others) or one per line (`.jsonl`), plain, gzip or zstd.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use zstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::safetensors::open_regular;
use crate::{DataError, Result};

/// The most text that one file may hold after decompression, in bytes: a guard against decompression bombs.
const MAX_TEXT_BYTES: u64 = 4 << 30;

/// All documents of a text file. [`Documents`] gives them one at a time.
///
/// `.jsonl`, `.ndjson` and `.json` hold one JSON object per line, whose string field `text` is the document (blank
/// lines are skipped); any other name is one document. Compression (gzip, zstd) is recognised by content. A file
/// without a document, or whose only document is blank, is an error.
pub fn read_documents(path: impl AsRef<Path>) -> Result<Vec<String>> {
    Documents::open(path)?.collect()
}

/// Iterator over the documents of a text file, read as it goes; ends after the first error.
pub struct Documents {
    path: PathBuf,
    reader: io::Take<Box<dyn BufRead + Send>>,
    limit: u64,
    compression: Option<&'static str>,
    by_line: bool,
    /// Lines and bytes consumed.
    line: u64,
    offset: u64,
    found: bool,
    done: bool,
}

impl Documents {
    /// Opens a text file; see [`read_documents`] for the formats.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_limited(path.as_ref(), MAX_TEXT_BYTES)
    }

    fn open_limited(path: &Path, limit: u64) -> Result<Self> {
        let (file, _) = open_regular(path)?;
        let mut file = BufReader::new(file);
        let magic = file.fill_buf().map_err(DataError::io("read", path))?;
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        let zstd = magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(magic);
        let (reader, compression): (Box<dyn BufRead + Send>, _) = match (gzip, zstd) {
            (true, _) => (Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))), Some("gzip")),
            (_, true) => (Box::new(BufReader::new(ZstdReader::new(file))), Some("zstd")),
            _ => (Box::new(file), None),
        };
        Ok(Self {
            path: path.into(),
            // One byte more than the limit, so that reaching it can be told from ending there.
            reader: reader.take(limit + 1),
            limit,
            compression,
            by_line: is_json_lines(path),
            line: 0,
            offset: 0,
            found: false,
            done: false,
        })
    }

    /// The next document, or `None` at the end.
    fn advance(&mut self) -> Result<Option<String>> {
        loop {
            let mut bytes = Vec::new();
            let read = if self.by_line {
                self.reader.read_until(b'\n', &mut bytes)
            } else {
                self.reader.read_to_end(&mut bytes)
            };
            read.map_err(|error| self.read_error(error))?;
            if self.reader.limit() == 0 {
                return Err(DataError::TextTooLarge { path: self.path.clone(), limit: self.limit });
            }
            if bytes.is_empty() {
                return if self.found {
                    Ok(None)
                } else {
                    Err(DataError::EmptyText { path: self.path.clone() })
                };
            }
            let start = self.offset;
            self.offset += bytes.len() as u64;
            self.line += 1;
            let mut text = String::from_utf8(bytes).map_err(|error| DataError::TextNotUtf8 {
                path: self.path.clone(),
                offset: start + error.utf8_error().valid_up_to() as u64,
                compressed: self.compression.is_some(),
            })?;
            if start == 0 && text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8()); // byte order mark of Windows editors
            }
            if text.trim().is_empty() {
                continue;
            }
            self.found = true;
            return if self.by_line { self.parse_line(&text).map(Some) } else { Ok(Some(text)) };
        }
    }

    fn parse_line(&self, line: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Line {
            text: String,
        }
        let bad = |reason: String| DataError::TextLine { path: self.path.clone(), line: self.line, reason };
        const WANTED: &str = "each line must be an object with a string field `text`";
        if !line.trim_start().starts_with('{') {
            return Err(bad(format!("not a JSON object; {WANTED}")));
        }
        match serde_json::from_str::<Line>(line) {
            Ok(line) => Ok(line.text),
            Err(error) => {
                let words = error.to_string();
                let words = words.split(" at line ").next().unwrap_or_default();
                Err(bad(format!("{words} (column {}); {WANTED}", error.column())))
            }
        }
    }

    fn read_error(&self, error: io::Error) -> DataError {
        match self.compression {
            Some(format) => {
                DataError::Decompress { path: self.path.clone(), format, reason: error.to_string() }
            }
            None => DataError::io("read", &self.path)(error),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.advance().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Whether the name, less `.gz` or `.zst`, ends like a JSON-lines file.
fn is_json_lines(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    [".jsonl", ".ndjson", ".json"].iter().any(|end| name.ends_with(end))
}

/// Whether the bytes begin with one of zstd's skippable frames.
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Decodes all frames of a zstd stream and verifies their checksums; the decoder beneath reads one frame and leaves
/// the comparison to its caller.
struct ZstdReader<R> {
    source: R,
    /// The frame being decoded; `None` between frames.
    frame: Option<FrameDecoder>,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> Self {
        Self { source, frame: None }
    }

    /// Begins the next frame, skipping frames without data; `None` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<Option<FrameDecoder>> {
        while !self.source.fill_buf()?.is_empty() {
            let mut decoder = FrameDecoder::new();
            let skip = match decoder.init(&mut self.source) {
                Ok(()) => return Ok(Some(decoder)),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(io::Error::other(error)),
            };
            if io::copy(&mut (&mut self.source).take(skip), &mut io::sink())? < skip {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(None)
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.next_frame()? {
                    Some(frame) => frame,
                    None => return Ok(0),
                },
            };
            while frame.can_collect() < out.len() && !frame.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(out.len() - frame.can_collect());
                frame.decode_blocks(&mut self.source, wanted).map_err(io::Error::other)?;
            }
            let read = frame.read(out)?;
            if read > 0 {
                self.frame = Some(frame);
                return Ok(read);
            }
            let stored = frame.get_checksum_from_data();
            if stored.is_some() && stored != frame.get_calculated_checksum() {
                return Err(io::Error::other("the checksum does not match"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_up_to_the_limit_is_read_and_one_byte_more_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a.txt", "12345678"), ("a.jsonl", "{\"text\":\"12345678\"}\n{\"text\":\"\"}\n")]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let len = text.len() as u64;
            assert!(Documents::open_limited(&path, len).unwrap().all(|document| document.is_ok()));
            let error = Documents::open_limited(&path, len - 1).unwrap().last().unwrap().unwrap_err();
            assert!(matches!(error, DataError::TextTooLarge { limit, .. } if limit == len - 1), "{error}");
        }
    }
}
