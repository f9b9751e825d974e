//! Labelled items: IDX image files as of MNIST, and CSV tables.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::TrainError;

/// Items with a class each. Image pixels are scaled to 0..1, then all numbers to mean 0 and deviation 1 over the
/// training items.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// Item after item.
    pub pixels: Vec<f32>,
    /// The class of each item.
    pub labels: Vec<u32>,
    /// Height and width of an image with one channel; a table row has height 1.
    pub shape: (usize, usize),
    /// The number of classes.
    pub classes: usize,
}

fn wrong(path: &Path, reason: impl Into<String>) -> TrainError {
    TrainError::Data { path: path.into(), reason: reason.into() }
}

/// A whole file, decompressed if it is gzip.
fn read(path: &Path) -> Result<Vec<u8>, TrainError> {
    let raw = std::fs::read(path).map_err(|e| wrong(path, format!("cannot be read: {e}")))?;
    if raw.starts_with(&[0x1f, 0x8b]) {
        let mut out = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(&raw[..]);
        decoder.read_to_end(&mut out).map_err(|e| wrong(path, format!("is no whole gzip file: {e}")))?;
        return Ok(out);
    }
    Ok(raw)
}

/// The dimensions and bytes of an IDX file of unsigned bytes.
fn idx(path: &Path) -> Result<(Vec<usize>, Vec<u8>), TrainError> {
    let bytes = read(path)?;
    let [0, 0, 8, rank] = bytes.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok()).unwrap_or_default() else {
        return Err(wrong(path, "is no IDX file of bytes (it must begin with 00 00 08)"));
    };
    let start = 4 + 4 * usize::from(rank);
    let header = bytes.get(4..start).ok_or_else(|| wrong(path, "ends inside its header"))?;
    let sizes = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let sizes: Vec<usize> = sizes.collect();
    let product = sizes.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
    if product != Some(bytes.len() - start) {
        return Err(wrong(
            path,
            format!("has {} bytes of data, its header says {sizes:?}", bytes.len() - start),
        ));
    }
    Ok((sizes, bytes[start..].to_vec()))
}

fn find(dir: &Path, stem: &str) -> Result<PathBuf, TrainError> {
    let forms = ["-ubyte", "-ubyte.gz", ".gz", ""];
    let candidates = forms.iter().flat_map(|end| {
        let dotted = stem.replacen("-idx", ".idx", 1);
        [dir.join(format!("{stem}{end}")), dir.join(format!("{dotted}{end}"))]
    });
    let mut candidates = candidates.filter(|p| p.is_file());
    candidates.next().ok_or_else(|| wrong(dir, format!("has no {stem}-ubyte, compressed or not")))
}

impl Images {
    /// Training and validation items. `path` is a directory of IDX files, or a CSV whose last column is the class, with
    /// `validation` a CSV of the same form.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the two sets do not fit each other.
    pub fn read(path: &Path, validation: Option<&Path>) -> Result<(Self, Self), TrainError> {
        let (mut training, mut held_out) = if path.is_dir() {
            let pair = |part: &str| -> Result<Self, TrainError> {
                let (images, labels) = (
                    find(path, &format!("{part}-images-idx3"))?,
                    find(path, &format!("{part}-labels-idx1"))?,
                );
                let (sizes, pixels) = idx(&images)?;
                let (count, classes) = idx(&labels)?;
                if sizes.len() != 3 || count != [sizes[0]] {
                    return Err(wrong(&labels, format!("has {count:?} labels for images of {sizes:?}")));
                }
                Ok(Self {
                    pixels: pixels.iter().map(|&p| f32::from(p) / 255.0).collect(),
                    labels: classes.iter().map(|&c| c.into()).collect(),
                    shape: (sizes[1], sizes[2]),
                    classes: 0,
                })
            };
            (pair("train")?, pair("t10k")?)
        } else {
            let validation = validation.ok_or_else(|| {
                TrainError::Recipe(
                    "`data.images` is a table; name one to validate on as `validation_images`".into(),
                )
            })?;
            (Self::table(path)?, Self::table(validation)?)
        };
        if training.shape != held_out.shape {
            return Err(wrong(path, "training and validation items have different sizes"));
        }
        let classes = training.labels.iter().chain(&held_out.labels).max().map_or(0, |&c| c as usize + 1);
        (training.classes, held_out.classes) = (classes, classes);
        let n = training.pixels.len().max(1) as f64;
        let mean = training.pixels.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let spread = training.pixels.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / spread.sqrt().max(1e-12);
        for set in [&mut training, &mut held_out] {
            set.pixels.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * scale) as f32);
        }
        Ok((training, held_out))
    }

    fn table(path: &Path) -> Result<Self, TrainError> {
        let text = String::from_utf8(read(path)?).map_err(|_| wrong(path, "is no text"))?;
        let (mut pixels, mut labels, mut width) = (Vec::new(), Vec::new(), None);
        for (number, line) in
            text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))
        {
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            let at = |column: usize| format!("line {}, column {}", number + 1, column + 1);
            let parsed: Result<Vec<f32>, usize> = cells
                .iter()
                .enumerate()
                .map(|(i, c)| c.parse::<f32>().ok().filter(|v| v.is_finite()).ok_or(i))
                .collect();
            let row = match parsed {
                Ok(row) => row,
                // A first line of names is a header.
                Err(_)
                    if pixels.is_empty()
                        && width.is_none()
                        && cells.iter().all(|c| c.parse::<f32>().is_err()) =>
                {
                    continue;
                }
                Err(column) => {
                    return Err(wrong(
                        path,
                        format!("{}: {:?} is no finite number", at(column), cells[column]),
                    ));
                }
            };
            if *width.get_or_insert(row.len()) != row.len() || row.len() < 2 {
                return Err(wrong(path, format!("line {} has {} columns", number + 1, row.len())));
            }
            let class = row[row.len() - 1];
            if class < 0.0 || class.fract() != 0.0 || class > 1e6 {
                return Err(wrong(path, format!("{}: {class} is no class", at(row.len() - 1))));
            }
            pixels.extend_from_slice(&row[..row.len() - 1]);
            labels.push(class as u32);
        }
        let Some(width) = width else { return Err(wrong(path, "holds no row")) };
        Ok(Self { pixels, labels, shape: (1, width - 1), classes: 0 })
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Keeps the first `count` items.
    pub fn truncate(&mut self, count: usize) {
        self.labels.truncate(count);
        self.pixels.truncate(count * self.shape.0 * self.shape.1);
    }

    /// The numbers and classes of some items.
    pub fn gather(&self, items: &[usize]) -> (Vec<f32>, Vec<u32>) {
        let width = self.shape.0 * self.shape.1;
        let pixels = items.iter().flat_map(|&i| self.pixels[i * width..(i + 1) * width].iter().copied());
        (pixels.collect(), items.iter().map(|&i| self.labels[i]).collect())
    }
}
