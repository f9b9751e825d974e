//! Parquet tables that the reference writer made.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sparseland_data::tables::{Format, Table};

/// Three rows of a double, a whole number with a gap in the middle, and text.
fn write(path: &std::path::Path, compression: Compression) {
    let schema = "message table {
        required double a; optional int64 n; required binary who (STRING);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[0.5, -1.25, 1e300], None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7, -9], Some(&[1, 0, 1]), None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    let text: Vec<ByteArray> = ["x", "y", "x"].into_iter().map(ByteArray::from).collect();
    column.typed::<ByteArrayType>().write_batch(&text, None, None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn columns_of_numbers_and_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default())]
    {
        write(&path, compression);
        assert_eq!(Format::of(&path).unwrap(), Format::Parquet);
        let table = Table::open(&path).unwrap();
        assert_eq!(table.names().unwrap(), ["a", "n", "who"]);
        assert_eq!(table.numbers(&[0]).unwrap().column(0), [0.5, -1.25, 1e300]);
        assert_eq!(table.cells(2).unwrap(), ["x", "y", "x"]);
        // What is missing has a place, and is NaN where NaN is allowed.
        let error = table.numbers(&[1, 0]).unwrap_err().to_string();
        assert!(error.contains("row 2, column \"n\": NaN"), "{error}");
        let error = table.numbers(&[2]).unwrap_err().to_string();
        assert!(error.contains("column \"who\": \"x\" is no number"), "{error}");
        assert!(table.into_numbers().is_err());
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    write(&path, Compression::UNCOMPRESSED);
    let whole = std::fs::read(&path).unwrap();
    for cut in (4..whole.len()).step_by(5) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Table::open(&path).unwrap_err().to_string();
        assert!(error.contains("t.parquet: no readable Parquet file") && !error.contains('\n'), "{error}");
    }
}
