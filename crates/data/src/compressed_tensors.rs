//! The sparse formats of `compressed-tensors` checkpoints: `sparse-bitmask` and `sparse-24-bitmask`.
//!
//! A layer `L` (without `.weight`) of `rows x cols` is stored as
//!
//! | tensor | `sparse-bitmask` | `sparse-24-bitmask` |
//! |---|---|---|
//! | `L.shape` | I64 `[2]` | I64 `[2, 1]` |
//! | `L.compressed` | non-zeros, row after row | `[rows, cols / 2]`: two of every four, zeros where fewer |
//! | `L.bitmask` | U8 `[rows, ceil(cols / 8)]`, column `c` is bit `c % 8` of byte `c / 8` | the same |
//! | `L.row_offsets` | I64 `[rows]`, the first value of every row | none |
//!
//! `config.json` names the format in `quantization_config.sparsity_config`. Values keep their bits; only a negative
//! zero is lost, as in the Python package. No known runtime computes in these formats any more: they are for exchange.

use serde_json::{Map, Value, json};

use crate::{CheckpointWriter, DType, DataError, Result, TensorSource, TensorSpec};

/// The key in `config.json`, and the one inside it.
const KEYS: [&str; 2] = ["quantization_config", "sparsity_config"];

/// A sparse format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseFormat {
    /// `sparse-bitmask`: non-zeros anywhere.
    Bitmask,
    /// `sparse-24-bitmask`: two of every four consecutive entries.
    Bitmask24,
}

impl SparseFormat {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bitmask => "sparse-bitmask",
            Self::Bitmask24 => "sparse-24-bitmask",
        }
    }

    /// The format that a configuration names; `None` if it has no sparsity section, or one that stores dense
    /// weights.
    ///
    /// # Errors
    /// For another format, or where values are quantised as well.
    pub fn read(config: &Map<String, Value>) -> Result<Option<Self>, String> {
        let Some(quantization) = config.get(KEYS[0]) else { return Ok(None) };
        let Some(section) = quantization.get(KEYS[1]).filter(|s| !s.is_null()) else { return Ok(None) };
        let groups = quantization.get("config_groups").and_then(Value::as_object);
        if groups.is_some_and(|groups| !groups.is_empty()) {
            return Err(
                "its values are quantised as well (`config_groups`); only sparse formats are read".into()
            );
        }
        match section.get("format").and_then(Value::as_str) {
            Some("sparse-bitmask") => Ok(Some(Self::Bitmask)),
            Some("sparse-24-bitmask") => Ok(Some(Self::Bitmask24)),
            Some("dense") => Ok(None),
            other => Err(format!(
                "`sparsity_config` has the format {}; sparse-bitmask and sparse-24-bitmask are read",
                other.unwrap_or("none")
            )),
        }
    }

    /// Writes the section that names the format. `ignore` are the linear layers left dense, `sparsity` is the share
    /// of zeros in the whole model.
    pub fn write(self, config: &mut Map<String, Value>, ignore: &[String], sparsity: f64) {
        let structure = if self == Self::Bitmask24 { "2:4" } else { "unstructured" };
        let section = json!({
            "format": self.name(),
            "targets": ["Linear"],
            "ignore": ignore,
            "global_sparsity": sparsity,
            "sparsity_structure": structure,
            "registry_requires_subclass": false,
        });
        let quantization = json!({ "quant_method": "compressed-tensors", KEYS[1]: section });
        config.insert(KEYS[0].into(), quantization);
    }

    /// Removes the section.
    pub fn erase(config: &mut Map<String, Value>) {
        config.shift_remove(KEYS[0]);
    }
}

/// A sparse layer as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseTensor {
    format: SparseFormat,
    dtype: DType,
    rows: usize,
    cols: usize,
    values: Vec<u8>,
    bitmask: Vec<u8>,
}

impl SparseTensor {
    /// From the little-endian bytes of a dense row-major matrix of floats.
    ///
    /// # Errors
    /// In one line without a place, which the caller knows: types without values to leave out, a wrong number of
    /// bytes, more than two non-zeros in a group of four.
    pub fn from_dense(
        format: SparseFormat,
        dtype: DType,
        (rows, cols): (usize, usize),
        dense: &[u8],
    ) -> Result<Self, String> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(format!("{dtype} values have no place in {}; store F32, F16 or BF16", format.name()));
        }
        let size = dtype.size();
        if dense.len() != rows * cols * size {
            return Err(format!("{rows} x {cols} values of {dtype} are not {} bytes", dense.len()));
        }
        if format == SparseFormat::Bitmask24 && !cols.is_multiple_of(4) {
            return Err(format!("2:4 needs a multiple of 4 columns, there are {cols}"));
        }
        let stride = cols.div_ceil(8);
        let mut out = Self { format, dtype, rows, cols, values: Vec::new(), bitmask: vec![0; rows * stride] };
        let mut kept = vec![false; cols];
        for r in 0..rows {
            let row = &dense[r * cols * size..(r + 1) * cols * size];
            kept.iter_mut().zip(row.chunks_exact(size)).for_each(|(kept, v)| *kept = !is_zero(v));
            if format == SparseFormat::Bitmask24 {
                for (g, group) in kept.chunks_exact_mut(4).enumerate() {
                    let mut spare = match group.iter().filter(|&&k| k).count() {
                        count @ 0..=2 => 2 - count,
                        count => {
                            return Err(format!(
                                "row {r} has {count} non-zeros in columns {}..{}, more than 2:4 allows",
                                4 * g,
                                4 * g + 4
                            ));
                        }
                    };
                    for kept in group {
                        if !*kept && spare > 0 {
                            *kept = true;
                            spare -= 1;
                        }
                    }
                }
            }
            for (c, value) in row.chunks_exact(size).enumerate().filter(|&(c, _)| kept[c]) {
                out.bitmask[r * stride + c / 8] |= 1 << (c % 8);
                out.values.extend_from_slice(value);
            }
        }
        Ok(out)
    }

    /// The element type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `(rows, cols)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Stored values.
    pub fn stored(&self) -> usize {
        self.values.len() / self.dtype.size()
    }

    /// The bytes of the dense matrix, zeros filled in.
    pub fn to_dense(&self) -> Vec<u8> {
        let (size, stride) = (self.dtype.size(), self.cols.div_ceil(8));
        let mut dense = vec![0; self.rows * self.cols * size];
        let mut next = self.values.chunks_exact(size);
        for (at, place) in dense.chunks_exact_mut(size).enumerate() {
            let (r, c) = (at / self.cols, at % self.cols);
            if self.bitmask[r * stride + c / 8] >> (c % 8) & 1 == 1
                && let Some(value) = next.next()
            {
                place.copy_from_slice(value);
            }
        }
        dense
    }

    /// The first value of every row.
    fn row_offsets(&self) -> Vec<i64> {
        let bits = |row: &[u8]| row.iter().map(|b| i64::from(b.count_ones())).sum::<i64>();
        let stride = self.cols.div_ceil(8);
        let mut next = 0;
        (0..self.rows)
            .map(|r| {
                let first = next;
                next += bits(&self.bitmask[r * stride..(r + 1) * stride]);
                first
            })
            .collect()
    }

    /// The tensors that the layer becomes.
    pub fn specs(&self, layer: &str) -> Vec<TensorSpec> {
        let spec = |part: &str, dtype, shape: Vec<usize>| TensorSpec::new(name(layer, part), dtype, shape);
        let bitmask = spec("bitmask", DType::U8, vec![self.rows, self.cols.div_ceil(8)]);
        match self.format {
            SparseFormat::Bitmask => vec![
                spec("shape", DType::I64, vec![2]),
                spec("compressed", self.dtype, vec![self.stored()]),
                bitmask,
                spec("row_offsets", DType::I64, vec![self.rows]),
            ],
            SparseFormat::Bitmask24 => vec![
                spec("shape", DType::I64, vec![2, 1]),
                spec("compressed", self.dtype, vec![self.rows, self.cols / 2]),
                bitmask,
            ],
        }
    }

    /// Writes the tensors that [`specs`](Self::specs) announced.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write(&self, layer: &str, writer: &mut CheckpointWriter) -> Result<()> {
        writer.write_typed(&name(layer, "shape"), &[self.rows as i64, self.cols as i64])?;
        writer.write(&name(layer, "compressed"), &self.values)?;
        writer.write(&name(layer, "bitmask"), &self.bitmask)?;
        if self.format == SparseFormat::Bitmask {
            writer.write_typed(&name(layer, "row_offsets"), &self.row_offsets())?;
        }
        Ok(())
    }

    /// Reads a layer and checks that its tensors agree.
    ///
    /// # Errors
    /// [`DataError::SparseLayer`] where they contradict each other; if a tensor is missing or cannot be read.
    pub fn read(source: &(impl TensorSource + ?Sized), layer: &str, format: SparseFormat) -> Result<Self> {
        let damaged = |part: &str, what: String| {
            let tensor = name(layer, part);
            DataError::SparseLayer { path: source.path_of(&tensor).into(), tensor, what }
        };
        let integers =
            |part: &str| -> Result<Vec<i64>> { crate::read_typed::<i64>(source, &name(layer, part)) };
        let shape = integers("shape")?;
        let sides: Vec<usize> = shape.iter().filter_map(|&n| usize::try_from(n).ok()).collect();
        let &[rows, cols] = sides.as_slice() else {
            return Err(damaged("shape", format!("is {shape:?}; only matrices are stored so")));
        };
        if rows == 0 || cols == 0 {
            return Err(damaged("shape", format!("is {shape:?}: nothing")));
        }
        let stride = cols.div_ceil(8);
        let info = source.info(&name(layer, "bitmask"))?;
        if info.dtype != DType::U8 || info.shape != [rows, stride] {
            let what = format!("is {} {:?}, expected U8 [{rows}, {stride}]", info.dtype, info.shape);
            return Err(damaged("bitmask", what));
        }
        let info = source.info(&name(layer, "compressed"))?;
        let (dtype, stored) = (info.dtype, info.elements());
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(damaged("compressed", format!("has type {dtype}; F32, F16 and BF16 are read")));
        }
        let bitmask = source.read(&name(layer, "bitmask"))?;
        if !cols.is_multiple_of(8) {
            let outside = |row: &[u8]| row[stride - 1] >> (cols % 8) != 0;
            if let Some(r) = bitmask.chunks_exact(stride).position(outside) {
                return Err(damaged("bitmask", format!("row {r} has bits beyond its {cols} columns")));
            }
        }
        let bits: usize = bitmask.iter().map(|b| b.count_ones() as usize).sum();
        if bits != stored {
            return Err(damaged("bitmask", format!("has {bits} bits for {stored} values")));
        }
        let values = source.read(&name(layer, "compressed"))?;
        let out = Self { format, dtype, rows, cols, values, bitmask };
        match format {
            SparseFormat::Bitmask => {
                if integers("row_offsets")? != out.row_offsets() {
                    return Err(damaged("row_offsets", "contradicts the bitmask".into()));
                }
            }
            SparseFormat::Bitmask24 => {
                if let Some(at) = out.first_crowded() {
                    return Err(damaged("bitmask", format!("row {} is not 2:4 at column {}", at.0, at.1)));
                }
            }
        }
        Ok(out)
    }

    /// The first group of four without exactly two bits.
    fn first_crowded(&self) -> Option<(usize, usize)> {
        let stride = self.cols.div_ceil(8);
        let two = |at: &(usize, usize)| {
            (self.bitmask[at.0 * stride + at.1 / 8] >> (at.1 % 8) & 0xf).count_ones() == 2
        };
        let groups = (0..self.rows).flat_map(|r| (0..self.cols).step_by(4).map(move |c| (r, c)));
        groups.into_iter().find(|at| !two(at))
    }
}

/// The layers (without `.weight`) that a source stores in a sparse format.
pub fn sparse_layers(source: &(impl TensorSource + ?Sized)) -> Vec<String> {
    let names = source.names();
    let layer = |name: &&str| name.strip_suffix(".compressed").map(str::to_owned);
    let mut layers: Vec<String> = names.iter().filter_map(layer).collect();
    layers.retain(|layer| source.contains(&name(layer, "bitmask")) && source.contains(&name(layer, "shape")));
    layers
}

/// The layer that a tensor is a part of.
pub fn layer_of<'a>(tensor: &'a str, layers: &[String]) -> Option<&'a str> {
    let (layer, part) = tensor.rsplit_once('.')?;
    let known = matches!(part, "shape" | "compressed" | "bitmask" | "row_offsets");
    (known && layers.iter().any(|l| l == layer)).then_some(layer)
}

fn name(layer: &str, part: &str) -> String {
    format!("{layer}.{part}")
}

/// Whether little-endian float bytes are zero, of either sign.
fn is_zero(value: &[u8]) -> bool {
    let (top, rest) = value.split_last().expect("floats have bytes");
    top & 0x7f == 0 && rest.iter().all(|&b| b == 0)
}
