//! Damaged and malicious files: each is the right error, none a panic, none a large allocation.

use safetensors::SafeTensors;
use sparseland_data::{DataError, TensorFile, TensorSource};

use crate::{file_bytes, write_counting};

macro_rules! assert_error {
    ($bytes:expr, $pattern:pat) => {{
        let error = TensorFile::from_bytes($bytes).unwrap_err();
        assert!(matches!(error, $pattern), "{error:?}");
        let message = error.to_string();
        assert!(message.len() < 800 && !message.contains('\n'), "{message}");
        message
    }};
}

/// One header against the error it must give; `data` zero bytes follow.
macro_rules! header_error {
    ($data:expr, $header:expr, $pattern:pat) => {
        assert_error!(file_bytes($header, $data), $pattern)
    };
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_so_is_a_longer_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    write_counting(&path, &[("a", &[3, 4]), ("empty", &[0, 7]), ("scalar", &[])]);
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() {
        let error = TensorFile::from_bytes(&whole[..len]).unwrap_err();
        let expected = match len {
            0..8 => matches!(error, DataError::TooShort { .. }),
            _ if len < whole.len() - 13 * 4 => matches!(error, DataError::HeaderLength { .. }),
            _ => matches!(error, DataError::Truncated { .. }),
        };
        assert!(expected, "cut to {len}: {error:?}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_error!(longer, DataError::TrailingData { .. });

    // The same from disk, and a file cut while it is open.
    let file = TensorFile::open(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(TensorFile::open(&path).unwrap_err(), DataError::Truncated { .. }));
    let error = file.read("scalar").unwrap_err();
    assert!(matches!(error, DataError::Io { action: "read", .. }), "{error:?}");
    assert!(error.to_string().contains("changed or was cut off"), "{error}");
    assert_eq!(file.read_rows_f32("a", 0..1).unwrap(), [0.0, 1.0, 2.0, 3.0], "what is left can be read");
}

#[test]
fn absurd_header_lengths() {
    for length in [9_u64, 1 << 20, 100_000_001, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}      ");
        assert_error!(bytes, DataError::HeaderLength { .. });
    }
    assert_error!(0_u64.to_le_bytes().to_vec(), DataError::HeaderJson { .. });
}

#[test]
fn headers_that_are_not_json_of_the_right_kind() {
    let bad = [
        "",
        " {}",
        "[]",
        "null",
        "{",
        "{}}",
        "{} x",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"U8","shape":[1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#,
        r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"__metadata__":{"n":1}}"#,
        r#"{"__metadata__":[]}"#,
    ];
    for header in bad {
        header_error!(1, header, DataError::HeaderJson { .. });
    }
    let message = header_error!(1, r#"{"layer.0":{"dtype":"U8","shape":[1]}}"#, DataError::HeaderJson { .. });
    assert!(message.contains("layer.0") && message.contains("data_offsets"), "{message}");

    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    header_error!(0, &deep, DataError::HeaderJson { .. });

    let mut not_utf8 = file_bytes(r#"{"a_":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, 0);
    not_utf8[11] = 0xff;
    let message = assert_error!(not_utf8, DataError::HeaderNotUtf8 { offset: 11, .. });
    assert!(message.contains("byte 11"), "{message}");
}

#[test]
fn unknown_dtypes() {
    let message = header_error!(
        1,
        r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#,
        DataError::UnknownDType { .. }
    );
    assert!(message.contains("BF16"), "{message}");
    header_error!(
        4,
        r#"{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#,
        DataError::UnknownDType { .. }
    );
}

#[test]
fn duplicate_names() {
    header_error!(
        2,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
        DataError::DuplicateTensor { .. }
    );
    // The same name, spelt with an escape.
    header_error!(
        2,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
        DataError::DuplicateTensor { .. }
    );
    header_error!(0, r#"{"__metadata__":{},"__metadata__":{}}"#, DataError::DuplicateTensor { .. });
}

#[test]
fn shapes_that_overflow() {
    for shape in [
        "[18446744073709551615]",
        "[4294967296,4294967296]",
        "[2305843009213693952,8]",
        "[0,18446744073709551615,18446744073709551615]",
        "[9223372036854775807]",
    ] {
        let header = format!(r#"{{"a":{{"dtype":"F64","shape":{shape},"data_offsets":[0,0]}}}}"#);
        header_error!(0, &header, DataError::ShapeOverflow { .. });
    }
}

#[test]
fn offsets_that_do_not_fit() {
    // Size against shape, reversed, absurd.
    for offsets in ["[0,4]", "[8,0]", "[0,18446744073709551615]", "[18446744073709551615,7]"] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
        header_error!(8, &header, DataError::SizeMismatch { .. });
    }
    // Beyond the end, even at the end of the number range.
    let header =
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615]}}"#;
    header_error!(8, header, DataError::Hole { .. });
    // At the front, between, overlapping, equal, an empty tensor inside another or beyond the end.
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
        )
    };
    header_error!(9, &two("[1,5]", "[5,9]"), DataError::Hole { from: 0, to: 1, .. });
    header_error!(9, &two("[0,4]", "[5,9]"), DataError::Hole { from: 4, to: 5, .. });
    header_error!(7, &two("[0,4]", "[3,7]"), DataError::Overlap { at: 3, .. });
    header_error!(4, &two("[0,4]", "[0,4]"), DataError::Overlap { at: 0, .. });
    header_error!(7, &two("[0,4]", "[4,8]"), DataError::Truncated { .. });
    header_error!(9, &two("[0,4]", "[4,8]"), DataError::TrailingData { .. });
    let empty_at = |at: usize| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"e":{{"dtype":"U8","shape":[0],"data_offsets":[{at},{at}]}}}}"#
        )
    };
    header_error!(4, &empty_at(2), DataError::Overlap { at: 2, .. });
    header_error!(4, &empty_at(5), DataError::Hole { .. });
    for at in [0, 4] {
        let file = TensorFile::from_bytes(file_bytes(&empty_at(at), 4)).unwrap();
        assert!(file.read("e").unwrap().is_empty());
    }
    // Any order in the header is allowed.
    let file = TensorFile::from_bytes(file_bytes(&two("[4,8]", "[0,4]"), 8)).unwrap();
    assert_eq!(file.names(), ["b", "a"]);
}

#[test]
fn names_that_would_spoil_a_terminal_are_escaped_and_cut() {
    let name = format!("\\u001b[2J\\n{}", "x".repeat(10_000));
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}}}"#);
    let message = header_error!(1, &header, DataError::SizeMismatch { .. });
    assert!(!message.contains('\u{1b}'), "{message}");
    let many_axes = vec!["1"; 10_000].join(",");
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{many_axes}],"data_offsets":[0,2]}}}}"#);
    header_error!(2, &header, DataError::SizeMismatch { .. });
}

/// What the reference refuses, we refuse; what we accept, the reference reads the same. Every single-byte change of
/// a small file is tried with a few values.
#[test]
fn no_single_byte_change_is_accepted_that_the_reference_refuses() {
    let header = r#"{"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#;
    let whole = file_bytes(header, 4);
    let mut accepted = 0;
    for position in 0..whole.len() {
        for value in [0, b' ', b'"', b'0', b'1', b'2', b'3', b'a', b'{', b'}', b',', 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[position] = value;
            let ours = TensorFile::from_bytes(changed.clone());
            let reference = SafeTensors::deserialize(&changed);
            if let Ok(ours) = &ours {
                let reference = reference.expect("the reference refuses what we accept");
                accepted += 1;
                for name in ours.names() {
                    assert_eq!(ours.read(name).unwrap(), reference.tensor(name).unwrap().data());
                }
            }
        }
    }
    assert!(accepted > 100, "names and data may change: {accepted}");
}

#[test]
fn paths_that_are_not_files() {
    let dir = tempfile::tempdir().unwrap();
    let error = TensorFile::open(dir.path()).unwrap_err();
    assert!(matches!(error, DataError::NotARegularFile { found: "a directory", .. }), "{error}");
    let error = TensorFile::open(dir.path().join("none.safetensors")).unwrap_err();
    assert!(matches!(error, DataError::Io { action: "open", .. }), "{error}");
    assert!(error.to_string().contains("none.safetensors"), "{error}");
    #[cfg(unix)]
    {
        let error = TensorFile::open("/dev/zero").unwrap_err();
        assert!(matches!(error, DataError::NotARegularFile { .. }), "{error}");
    }
}
