//! Tables of numbers: the same matrix from every format, and damaged files.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sparseland_data::tables::{Format, Npz, Numbers, Table};
use zip::write::SimpleFileOptions;

/// A `.npy` file: header of a version, then data.
fn npy(version: u8, descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let prefix = if version == 1 { 10 } else { 12 };
    header.push_str(&" ".repeat(63 - (prefix + header.len()) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f64s(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// An array of f64 in C order.
fn doubles(shape: &[usize], values: &[f64]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|d| format!("{d},")).collect();
    npy(1, "<f8", false, &format!("({sizes})"), &f64s(values))
}

fn integers(values: &[usize]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
    npy(1, "<i4", false, &format!("({},)", values.len()), &data)
}

fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (k, (name, bytes)) in arrays.iter().enumerate() {
        // NumPy writes either.
        let method = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated][k % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(format!("{name}.npy"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// The error of a file that must not be read: one line with its name.
    fn refused(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.write(name, bytes);
        let error = Table::open(&path).and_then(|table| {
            let all: Vec<usize> = (0..table.cols()).collect();
            table.numbers(&all).map(|_| ())
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains(name) && !text.contains('\n'), "{text}");
        text
    }
}

/// Row by row, zeros included.
fn rows(numbers: &Numbers) -> Vec<f64> {
    let columns: Vec<Vec<f64>> = (0..numbers.cols()).map(|j| numbers.column(j)).collect();
    (0..numbers.rows()).flat_map(|i| columns.iter().map(move |c| c[i])).collect()
}

fn all(path: &Path) -> Numbers {
    Table::open(path).unwrap().into_numbers().unwrap()
}

#[test]
fn arrays_of_every_type_order_and_version() {
    let folder = Folder::new();
    // 2 x 3: 0 1 2 / 3 4 5 in C order.
    let counting = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    macro_rules! check {
        ($kind:literal, $t:ty, $convert:expr) => {
            for version in [1, 2, 3] {
                for fortran in [false, true] {
                    for big in [false, true] {
                        let order: [usize; 6] = if fortran { [0, 3, 1, 4, 2, 5] } else { [0, 1, 2, 3, 4, 5] };
                        let bytes = order.iter().flat_map(|k| {
                            let value: $t = $convert(*k as f32);
                            if big { value.to_be_bytes() } else { value.to_le_bytes() }
                        });
                        let descr = format!("{}{}", if big { '>' } else { '<' }, $kind);
                        let data: Vec<u8> = bytes.collect();
                        let path = folder.write("a.npy", npy(version, &descr, fortran, "(2, 3)", &data));
                        assert_eq!(rows(&all(&path)), counting, "{descr} {version} {fortran}");
                    }
                }
            }
        };
    }
    check!("f8", f64, f64::from);
    check!("f4", f32, f32::from);
    check!("f2", half::f16, half::f16::from_f32);
    check!("i8", i64, |v| v as i64);
    check!("u8", u64, |v| v as u64);
    check!("i4", i32, |v| v as i32);
    check!("u4", u32, |v| v as u32);
    check!("i2", i16, |v| v as i16);
    check!("u2", u16, |v| v as u16);
    check!("i1", i8, |v| v as i8);
    check!("u1", u8, |v| v as u8);
    // Signs, truth values, one dimension, and gzip around it.
    let path = folder.write("b.npy", npy(1, "<i2", false, "(1, 2)", &[0xff, 0xff, 0x00, 0x80]));
    assert_eq!(rows(&all(&path)), [-1.0, -32768.0]);
    let path = folder.write("c.npy", npy(1, "|b1", false, "(2,)", &[1, 0]));
    assert_eq!((all(&path).rows(), rows(&all(&path))), (2, vec![1.0, 0.0]));
    let path = folder.write("d.npy.gz", gzip(&doubles(&[2, 3], &counting)));
    assert_eq!(rows(&all(&path)), counting);
}

/// A sparse matrix as entries with repetitions, in any order.
fn entries() -> impl Strategy<Value = (usize, usize, Vec<(usize, usize, i32)>)> {
    (1usize..7, 1usize..7).prop_flat_map(|(rows, cols)| {
        let entry = (0..rows, 0..cols, -4i32..5);
        (Just(rows), Just(cols), proptest::collection::vec(entry, 0..20))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every format gives the matrix of a plain sum over its entries.
    #[test]
    fn formats_agree((n, p, entries) in entries()) {
        let folder = Folder::new();
        let mut dense = vec![0.0; n * p];
        entries.iter().for_each(|&(i, j, v)| dense[i * p + j] += 0.25 * f64::from(v));
        let values: Vec<f64> = entries.iter().map(|e| 0.25 * f64::from(e.2)).collect();

        let line = |i: usize| dense[i * p..(i + 1) * p].iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let header: Vec<String> = (0..p).map(|j| format!("c{j}")).collect();
        let csv = (0..n).fold(header.join(","), |text, i| text + "\n" + &line(i));
        let path = folder.write("t.csv", &csv);
        prop_assert_eq!(rows(&all(&path)), dense.clone());
        prop_assert_eq!(rows(&all(&folder.write("t.csv.gz", gzip(csv.as_bytes())))), dense.clone());
        prop_assert_eq!(rows(&all(&folder.write("t.npy", doubles(&[n, p], &dense)))), dense.clone());

        let pairs = |i: usize| (0..p).filter(|j| dense[i * p + j] != 0.0).map(|j| format!(" {}:{}", j + 1, dense[i * p + j])).collect::<String>();
        let svm: String = (0..n).map(|i| format!("{i} {} # row\n", pairs(i).trim())).collect();
        let mut table = Table::open(folder.write("t.svm", &svm)).unwrap();
        table.widen(p);
        let labels: Vec<f64> = (0..n).map(|i| i as f64).collect();
        prop_assert_eq!(&table.target().unwrap().values, &labels);
        let read = table.into_numbers().unwrap();
        let is_sparse = matches!(read, Numbers::Sparse { .. });
        prop_assert!(is_sparse);
        prop_assert_eq!(rows(&read), dense.clone());

        let body: String = entries.iter().zip(&values).map(|((i, j, _), v)| format!("{} {} {v}\n", i + 1, j + 1)).collect();
        let mtx = format!("%%MatrixMarket matrix coordinate real general\n% note\n{n} {p} {}\n{body}", entries.len());
        prop_assert_eq!(rows(&all(&folder.write("t.mtx", &mtx))), dense.clone());
        prop_assert_eq!(rows(&all(&folder.write("t.mtx.gz", gzip(mtx.as_bytes())))), dense.clone());
        let by_columns: String = (0..p).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| format!("{}\n", dense[i * p + j])).collect();
        let mtx = format!("%%MatrixMarket matrix array real general\n{n} {p}\n{by_columns}");
        prop_assert_eq!(rows(&all(&folder.write("a.mtx", &mtx))), dense.clone());

        // scipy.sparse: entries of a row (column) in any order, repeated ones added.
        let text = |word: &str| npy(1, "|S3", false, "()", word.as_bytes());
        let shape = ("shape", integers(&[n, p]));
        let (row_of, column_of): (Vec<usize>, Vec<usize>) = entries.iter().map(|e| (e.0, e.1)).unzip();
        let path = folder.path("t.npz");
        let data = ("data", doubles(&[values.len()], &values));
        npz(&path, &[("row", integers(&row_of)), ("col", integers(&column_of)), ("format", text("coo")), shape.clone(), data]);
        prop_assert_eq!(rows(&all(&path)), dense.clone());
        for (format, outer, of, inner) in [("csr", n, &row_of, &column_of), ("csc", p, &column_of, &row_of)] {
            let (mut indices, mut data, mut offsets) = (vec![], vec![], vec![0]);
            for part in 0..outer {
                let inside = (0..values.len()).filter(|k| of[*k] == part);
                inside.for_each(|k| { indices.push(inner[k]); data.push(values[k]); });
                offsets.push(indices.len());
            }
            let data = ("data", doubles(&[data.len()], &data));
            npz(&path, &[("indices", integers(&indices)), ("indptr", integers(&offsets)), ("format", text(format)), shape.clone(), data]);
            let read = all(&path);
            prop_assert_eq!((read.rows(), read.cols()), (n, p));
            prop_assert_eq!(rows(&read), dense.clone());
        }
    }

    /// Files with some bytes changed are read or refused; nothing panics or takes memory without bound.
    #[test]
    fn damaged_bytes_never_panic(kind in 0usize..5, damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        let folder = Folder::new();
        let path = folder.path("t");
        match kind {
            0 => drop(folder.write("t", doubles(&[3, 2], &[1.0; 6]))),
            1 => npz(&path, &[("X", doubles(&[3, 2], &[1.0; 6])), ("y", doubles(&[3], &[1.0; 3]))]),
            2 => drop(folder.write("t", "1 1:0.5 3:2\n-1 qid:2 2:1e3\n")),
            3 => drop(folder.write("t", "%%MatrixMarket matrix coordinate real symmetric\n3 3 2\n1 1 2\n3 1 4\n")),
            _ => drop(folder.write("t", "a,b\n1,2\n\"3\",4\n")),
        }
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(table) = Table::open(&path) {
            let _ = table.target().map(|t| t.columns());
            let _ = table.into_numbers();
        }
    }
}

#[test]
fn symmetric_and_pattern_matrices_are_filled_in() {
    let folder = Folder::new();
    let read = |text: &str| rows(&all(&folder.write("s.mtx", text)));
    let lower = "2 2 2\n1 1 3\n2 1 -5\n";
    assert_eq!(
        read(&format!("%%MatrixMarket matrix coordinate integer symmetric\n{lower}")),
        [3.0, -5.0, -5.0, 0.0]
    );
    assert_eq!(
        read("%%matrixmarket MATRIX coordinate real skew-symmetric\n2 2 1\n2 1 4\n"),
        [0.0, -4.0, 4.0, 0.0]
    );
    assert_eq!(read("%%MatrixMarket matrix coordinate pattern general\n1 3 2\n1 3\n1 1\n"), [1.0, 0.0, 1.0]);
    assert_eq!(read("%%MatrixMarket matrix array real symmetric\n2 2\n1\n2\n3\n"), [1.0, 2.0, 2.0, 3.0]);
    assert_eq!(read("%%MatrixMarket matrix array real skew-symmetric\n2 2\n7\n"), [0.0, -7.0, 7.0, 0.0]);
}

#[test]
fn formats_are_told_by_content_and_targets_are_kept_apart() {
    let folder = Folder::new();
    let svm = "1 qid:3 1:0.5 7:1\n0 qid:3 2:2\n";
    for (name, text, format) in [
        ("a.txt", svm, Format::Libsvm),
        ("b.csv", svm, Format::Csv),
        ("c.txt", "a,b\n1,2\n", Format::Csv),
        ("d.dat", "%%MatrixMarket matrix array real general\n1 1\n5\n", Format::MatrixMarket),
        ("e.libsvm", "1\n0\n", Format::Libsvm),
        ("f.parquet", "PAR1", Format::Parquet),
    ] {
        assert_eq!(Format::of(folder.write(name, text)).unwrap(), format, "{name}");
    }
    let table = Table::open(folder.path("a.txt")).unwrap();
    assert_eq!((table.cols(), table.target().unwrap().values.clone()), (7, vec![1.0, 0.0]));
    assert!(table.notes()[0].contains("qid") && table.notes()[0].contains("2 rows"));
    // Numbers of features are those of the file.
    assert_eq!((table.name(0), table.find("7").unwrap()), ("1".into(), 6));
    assert!(table.find("0").is_err() && table.find("8").unwrap_err().to_string().contains("1 to 7"));
    // Several labels, and an archive with a target.
    let table = Table::open(folder.write("m.svm", "1,2 1:1\n3,4 1:2\n")).unwrap();
    assert_eq!(table.target().unwrap().columns().unwrap(), [[1.0, 3.0], [2.0, 4.0]]);
    let path = folder.path("t.npz");
    npz(&path, &[("x", doubles(&[2, 1], &[5.0, 6.0])), ("target", doubles(&[2], &[7.0, 8.0]))]);
    let table = Table::open(&path).unwrap();
    assert_eq!(
        (table.target().unwrap().values.clone(), table.cells(0).unwrap()),
        (vec![7.0, 8.0], vec!["5".into(), "6".to_owned()])
    );
    assert_eq!(Npz::open(&path).unwrap().names(), ["x", "target"]);
    assert!(Npz::open(&path).unwrap().array("X").unwrap_err().to_string().contains("x, target"));
}

#[test]
fn arrays_cut_anywhere_or_with_absurd_headers_are_refused() {
    let folder = Folder::new();
    let whole = doubles(&[3, 2], &[1.0; 6]);
    for cut in 8..whole.len() {
        let text = folder.refused("cut.npy", &whole[..cut]);
        assert!(text.contains("ends within its header") || text.contains("ends after"), "{cut}: {text}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(folder.refused("long.npy", longer).contains("goes on after"));
    let mut header = b"\x93NUMPY\x02\x00".to_vec();
    header.extend(u32::MAX.to_le_bytes());
    header.extend([b' '; 100]);
    assert!(folder.refused("header.npy", header).contains("4294967295 bytes"));
    assert!(folder.refused("version.npy", b"\x93NUMPY\x09\x00\x00\x00").contains("version 9"));
    let shaped = |descr: &str, shape: &str| npy(1, descr, false, shape, &[0; 16]);
    let huge = format!("({}, {})", usize::MAX, 3);
    assert!(folder.refused("huge.npy", shaped("<f8", &huge)).contains("too large"));
    // A shape that fits the address space but not the file: refused by the bytes that are missing.
    assert!(folder.refused("big.npy", shaped("<f8", "(1000000, 1000000)")).contains("ends after 16"));
    assert!(folder.refused("cube.npy", shaped("<f8", "(1, 2, 1)")).contains("[1, 2, 1]"));
    assert!(folder.refused("shape.npy", shaped("<f8", "(1, x)")).contains("not NumPy's"));
    assert!(folder.refused("text.npy", shaped("<U4", "(1,)")).contains("<U4"));
    assert!(folder.refused("object.npy", shaped("|O", "(2,)")).contains("pickled"));
    let record = npy(1, "<f8", false, "(2,)", &[0; 16]);
    let record = String::from_utf8_lossy(&record[10..]).replacen("'<f8'", "[('a', '<f8')]", 1);
    let bytes = [b"\x93NUMPY\x01\x00", &(record.len() as u16).to_le_bytes()[..], record.as_bytes()].concat();
    assert!(folder.refused("record.npy", bytes).contains("records"));
}

#[test]
fn damaged_archives_are_refused() {
    let folder = Folder::new();
    let path = folder.path("whole.npz");
    npz(&path, &[("X", doubles(&[3, 2], &[1.0; 6])), ("y", doubles(&[3], &[1.0; 3]))]);
    let whole = std::fs::read(&path).unwrap();
    for cut in (4..whole.len()).step_by(7) {
        folder.refused("cut.npz", &whole[..cut]);
    }
    // Values of X (stored) changed: the checksum tells.
    let mut changed = whole.clone();
    let at = whole.windows(8).position(|w| w == 1f64.to_le_bytes()).unwrap();
    changed[at] ^= 1;
    assert!(folder.refused("changed.npz", &changed).contains("array X"));
    // The directory places y where X is.
    let central = |name: &[u8]| whole.windows(name.len()).rposition(|w| w == name).unwrap() - 46;
    let mut overlapping = whole.clone();
    let (x, y) = (central(b"X.npy"), central(b"y.npy"));
    overlapping.copy_within(x + 42..x + 46, y + 42);
    assert!(folder.refused("overlap.npz", &overlapping).contains("overlap"));
    let with = |arrays: &[(&str, Vec<u8>)]| {
        npz(&path, arrays);
        folder.refused("whole.npz", std::fs::read(&path).unwrap())
    };
    assert!(with(&[("features", doubles(&[1, 1], &[1.0]))]).contains("it holds features"));
    assert!(with(&[("X", doubles(&[2, 2], &[1.0, 2.0, f64::NAN, 4.0]))]).contains("X[1, 0]: NaN"));
    assert!(with(&[("X", doubles(&[2, 2, 1], &[1.0; 4]))]).contains("array X: has shape"));
    // scipy.sparse with wrong parts.
    let sparse = |format: &str, shape: &[usize], indptr: &[usize], indices: &[usize], data: &[f64]| {
        let format = npy(1, "|S3", false, "()", format.as_bytes());
        npz(
            &path,
            &[
                ("format", format),
                ("shape", integers(shape)),
                ("indptr", integers(indptr)),
                ("indices", integers(indices)),
                ("data", doubles(&[data.len()], data)),
            ],
        );
        folder.refused("whole.npz", std::fs::read(&path).unwrap())
    };
    let (shape, indptr, indices, data) = (&[2, 3][..], &[0, 1, 2][..], &[0, 2][..], &[1.0, 2.0][..]);
    assert!(sparse("bsr", shape, indptr, indices, data).contains("\"bsr\""));
    assert!(sparse("csr", &[2, 3, 1], indptr, indices, data).contains("3 numbers"));
    assert!(sparse("csr", shape, &[0, 2], indices, data).contains("2 offsets for 2 parts"));
    assert!(sparse("csr", shape, &[0, 1, 1], indices, data).contains("from 0 to 1"));
    assert!(sparse("csr", &[3, 3], &[0, 2, 1, 2], indices, data).contains("falls at offset 2"));
    assert!(sparse("csr", shape, indptr, &[0, 3], data).contains("indices[1]: 3"));
    assert!(sparse("csr", shape, indptr, &[0], data).contains("2 values for 2 rows and 1 columns"));
    assert!(sparse("csr", &[2, 1 << 30], indptr, indices, data).contains("shape[1]"));
    assert!(sparse("csr", shape, indptr, indices, &[1.0, f64::INFINITY]).contains("data[1, 2]: inf"));
}

#[test]
fn text_formats_name_the_place_of_what_is_wrong() {
    let folder = Folder::new();
    let csv = |text: &str| folder.refused("t.csv", text);
    assert!(csv("a,b\n1,2\n3,x\n").contains("line 3, column \"b\": \"x\" is no finite number"));
    assert!(csv("a,b\n1,NaN\n").contains("line 2, column \"b\""));
    assert!(csv("a,b\n1,2\n3\n").contains("line 3: 1 cells, the header has 2"));
    assert!(csv("").contains("empty"));
    let svm = |text: &str| folder.refused("t.svm", text);
    assert!(svm("1 1:2\nx 1:2\n").contains("line 2: the label \"x\""));
    assert!(svm("1 1:2\n1 0:2\n").contains("line 2, feature 0: numbers of features start at 1"));
    assert!(svm("1 3:2 2:1\n").contains("feature 2: stands behind feature 3"));
    assert!(svm("1 3:2 3:1\n").contains("feature 3: stands behind"));
    assert!(svm("1 3:nan\n").contains("line 1, feature 3"));
    assert!(svm("1 4000000000:1\n").contains("limit"));
    assert!(svm("1 3\n").contains("\"3\" is no pair"));
    assert!(svm("1,2 1:1\n1 1:1\n").contains("line 2: 1 labels"));
    assert!(svm("# nothing\n").contains("no line"));
    let mtx = |text: &str| folder.refused("t.mtx", format!("%%MatrixMarket matrix {text}"));
    let head = "coordinate real general\n";
    assert!(mtx(head).contains("sizes"));
    assert!(mtx(&format!("{head}2 2 1\n3 1 5\n")).contains("line 3: the row \"3\" is no number from 1 to 2"));
    assert!(mtx(&format!("{head}2 2 1\n1 0 5\n")).contains("the column \"0\""));
    assert!(mtx(&format!("{head}2 2 2\n1 1 5\n")).contains("ends after 1 of 2"));
    assert!(mtx(&format!("{head}2 2 1\n1 1 5\n2 2 5\n")).contains("line 4: more than the 1"));
    assert!(mtx(&format!("{head}2 2 1\n1 1 nan\n")).contains("line 3: \"nan\""));
    assert!(mtx(&format!("{head}2 2 1\n1 1\n")).contains("line 3: \"\""));
    assert!(mtx(&format!("{head}99999999999 2 1\n1 1 1\n")).contains("limit"));
    assert!(mtx(&format!("{head}2 2 99999999999\n1 1 1\n")).contains("ends after 1 of 99999999999"));
    assert!(mtx(&format!("{head}2 2\n")).contains("three sizes"));
    assert!(mtx("array real general\n2 2\n1\n2\n3\n").contains("3 values, the sizes ask for 4"));
    assert!(mtx("array real symmetric\n2 3\n1\n").contains("2 x 3"));
    assert!(mtx("array complex general\n1 1\n1 0\n").contains("\"complex\""));
    assert!(mtx("array real hermitian\n1 1\n1\n").contains("\"hermitian\""));
    assert!(mtx("vector real general\n1 1\n1\n").contains("\"vector\""));
    let whole = gzip(b"a,b\n1,2\n");
    assert!(folder.refused("t.csv.gz", &whole[..whole.len() - 3]).contains("gzip"));
}
