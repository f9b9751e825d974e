//! Texts in all forms, whole and damaged.

use std::io::Write;
use std::path::Path;

use sparseland_data::{DataError, Documents, read_documents};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encoding::compress_to_vec(bytes, zstd::encoding::CompressionLevel::Fastest)
}

fn read(dir: &Path, name: &str, bytes: &[u8]) -> Result<Vec<String>, DataError> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    read_documents(path)
}

#[test]
fn every_form_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = "Once upon a time,\nthere was a naïve fox.\n";
    let lines = "{\"text\": \"one\\nline\", \"n\": 1}\r\n\n   \n{\"id\": 2, \"text\": \"zwei\"}";
    for (end, pack) in [("", None), (".gz", Some(gzip as fn(&[u8]) -> Vec<u8>)), (".zst", Some(zstandard))] {
        let packed = |text: &str| pack.map_or(text.as_bytes().to_vec(), |pack| pack(text.as_bytes()));
        for name in ["a.txt", "wiki.test.raw", "README"] {
            assert_eq!(read(dir, &format!("{name}{end}"), &packed(text)).unwrap(), [text]);
        }
        for name in ["a.jsonl", "b.ndjson", "c4.00000-of-01024.json", "D.JSONL"] {
            assert_eq!(read(dir, &format!("{name}{end}"), &packed(lines)).unwrap(), ["one\nline", "zwei"]);
        }
        // Several members or frames, one after another.
        let mut twice = packed("one ");
        twice.extend(packed("two"));
        assert_eq!(read(dir, &format!("twice.txt{end}"), &twice).unwrap(), ["one two"]);
        let marked = format!("\u{feff}{lines}");
        assert_eq!(read(dir, &format!("bom.jsonl{end}"), &packed(&marked)).unwrap().len(), 2);
    }
    // Content decides about compression, not the name.
    assert_eq!(read(dir, "x.txt", &gzip(b"hi")).unwrap(), ["hi"]);
    let mut skippable = vec![0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
    skippable.extend(zstandard(b"hi"));
    assert_eq!(read(dir, "skip.txt.zst", &skippable).unwrap(), ["hi"]);
    // An empty document is a document, if there are others.
    assert_eq!(read(dir, "e.jsonl", b"{\"text\":\"\"}\n{\"text\":\"b\"}\n").unwrap(), ["", "b"]);
}

#[test]
fn documents_are_read_as_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\":\"good\"}\nbad\n{\"text\":\"never\"}\n").unwrap();
    let mut documents = Documents::open(&path).unwrap();
    assert_eq!(documents.next().unwrap().unwrap(), "good");
    assert!(documents.next().unwrap().is_err());
    assert!(documents.next().is_none(), "ends after an error");
}

#[test]
fn bad_texts_are_errors_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, bytes) in
        [("a.txt", &b""[..]), ("b.jsonl", b"\n\n"), ("c.txt", b" \n\t"), ("d.txt.gz", &gzip(b""))]
    {
        let error = read(dir, name, bytes).unwrap_err();
        assert!(matches!(error, DataError::EmptyText { .. }), "{name}: {error}");
    }
    let error = read(dir, "a.txt", b"abc\xffdef").unwrap_err();
    assert!(matches!(error, DataError::TextNotUtf8 { offset: 3, compressed: false, .. }), "{error}");
    let error = read(dir, "a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xc3\x28\"}\n").unwrap_err();
    assert!(matches!(error, DataError::TextNotUtf8 { offset: 22, .. }), "{error}");
    let error = read(dir, "a.txt.gz", &gzip(b"ab\xff")).unwrap_err();
    assert!(error.to_string().contains("byte 2 of the decompressed text"), "{error}");

    for (line, words) in [
        ("{\"text\": 3}", "expected a string"),
        ("{\"body\": \"x\"}", "missing field `text`"),
        ("[\"x\"]", "not a JSON object"),
        ("\"x\"", "not a JSON object"),
        ("{\"text\": \"x\"", "EOF"),
        ("{\"text\": \"x\"} trailing", "trailing"),
        ("plain words", "not a JSON object"),
    ] {
        let error = read(dir, "l.jsonl", format!("{{\"text\":\"a\"}}\n\n{line}\n").as_bytes()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::TextLine { line: 3, .. }), "{message}");
        assert!(message.contains("l.jsonl:3: ") && message.contains(words), "{message}");
    }
    let error = read_documents(dir).unwrap_err();
    assert!(matches!(error, DataError::NotARegularFile { .. }), "{error}");
}

#[test]
fn damaged_streams_are_errors_wherever_they_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..2_000).map(|i| format!("line {} of it\n", i * i % 1_009)).collect();
    for (name, whole) in [("t.txt.gz", gzip(text.as_bytes())), ("t.txt.zst", zstandard(text.as_bytes()))] {
        for len in (4..whole.len()).step_by(37).chain([whole.len() - 1]) {
            let error = read(dir.path(), name, &whole[..len]).unwrap_err();
            assert!(matches!(error, DataError::Decompress { .. }), "{name} cut to {len}: {error}");
        }
        let mut garbage_behind = whole.clone();
        garbage_behind.extend_from_slice(b"garbage");
        assert!(read(dir.path(), name, &garbage_behind).is_err());
        // A changed byte is found by the checksum at the latest.
        for position in (8..whole.len()).step_by(101) {
            let mut changed = whole.clone();
            changed[position] ^= 0x10;
            if let Ok(documents) = read(dir.path(), name, &changed) {
                assert_eq!(documents, [text.as_str()], "{name} changed at {position}");
            }
        }
    }
}
