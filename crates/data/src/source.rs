//! Reading tensors by name: the calls shared by one file and by a sharded checkpoint.

use std::ops::Range;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::dtype::from_little_endian;
use crate::{DType, DataError, Element, Result, TensorInfo};

/// Bytes moved at a time where a tensor is converted or copied.
pub(crate) const CHUNK_BYTES: usize = 1 << 18;

/// Anything that holds tensors by name.
///
/// Reads go to the file each time and nothing is cached, so memory holds only what the caller keeps. All methods
/// take `&self` and may be called from several threads.
pub trait TensorSource: Send + Sync {
    /// The names, in the order of the data.
    fn names(&self) -> Vec<&str>;

    /// What is stored under this name, if anything.
    fn find(&self, name: &str) -> Option<&TensorInfo>;

    /// The file that holds the tensor (the source's own path if there is no such tensor): for messages.
    fn path_of(&self, name: &str) -> &Path;

    /// Fills `out` from the tensor's bytes, beginning `offset` bytes into it.
    fn read_at(&self, name: &str, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What is stored under this name; the error suggests the closest name that exists.
    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| DataError::MissingTensor {
            path: self.path_of(name).into(),
            tensor: name.into(),
            similar: closest(name, self.names()),
        })
    }

    /// The tensor's information after checking its shape.
    fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let info = self.info(name)?;
        if info.shape != shape {
            return Err(DataError::WrongShape {
                path: self.path_of(name).into(),
                tensor: name.into(),
                expected: shape.into(),
                got: info.shape.clone(),
            });
        }
        Ok(info)
    }

    /// All bytes of a tensor, little-endian as stored.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.info(name)?.len];
        self.read_at(name, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `out` with all bytes of a tensor; `out` must have exactly its length.
    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<()> {
        let info = self.info(name)?;
        check_buffer(self.path_of(name), name, "bytes", info.len, out.len())?;
        self.read_at(name, 0, out)
    }

    /// The bytes of some rows: indices of the first axis, each row being all that follows it.
    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let row_bytes = check_rows(self.path_of(name), name, self.info(name)?, &rows)?;
        let mut bytes = vec![0; rows.len() * row_bytes];
        self.read_at(name, rows.start * row_bytes, &mut bytes)?;
        Ok(bytes)
    }

    /// A tensor as `f32`, converted from F32, BF16, F16 or F64. NaN and infinities pass.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let mut values = vec![0.0; info.elements()];
        read_f32_at(self, name, info.dtype, 0, &mut values)?;
        Ok(values)
    }

    /// Like [`read_f32`](Self::read_f32) into a buffer of exactly the tensor's number of elements.
    fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let info = self.info(name)?;
        check_buffer(self.path_of(name), name, "values", info.elements(), out.len())?;
        read_f32_at(self, name, info.dtype, 0, out)
    }

    /// Like [`read_f32`](Self::read_f32), but a NaN or an infinity is an error that names its index.
    fn read_f32_finite(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.read_f32(name)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(DataError::NonFinite {
                path: self.path_of(name).into(),
                tensor: name.into(),
                index,
                value: values[index],
            }),
        }
    }

    /// Some rows as `f32`; see [`read_rows`](Self::read_rows) and [`read_f32`](Self::read_f32).
    fn read_rows_f32(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let row_bytes = check_rows(self.path_of(name), name, info, &rows)?;
        let mut values = vec![0.0; rows.len() * row_bytes / info.dtype.size()];
        read_f32_at(self, name, info.dtype, rows.start * row_bytes, &mut values)?;
        Ok(values)
    }

    /// A tensor in its own element type; the file must hold exactly `T`.
    fn read_typed<T: Element>(&self, name: &str) -> Result<Vec<T>>
    where
        Self: Sized,
    {
        read_typed(self, name)
    }
}

/// [`TensorSource::read_typed`] for a source behind a pointer (`&dyn TensorSource`).
pub fn read_typed<T: Element>(source: &(impl TensorSource + ?Sized), name: &str) -> Result<Vec<T>> {
    let info = source.info(name)?;
    if info.dtype != T::DTYPE {
        return Err(DataError::WrongDType {
            path: source.path_of(name).into(),
            tensor: name.into(),
            expected: T::DTYPE.name(),
            got: info.dtype,
        });
    }
    let mut values = vec![T::zeroed(); info.elements()];
    let bytes = bytemuck::cast_slice_mut(&mut values);
    source.read_at(name, 0, bytes)?;
    from_little_endian(bytes, info.dtype.size());
    Ok(values)
}

/// Reads `out.len()` values as f32, beginning `offset` bytes into the tensor.
fn read_f32_at<S: TensorSource + ?Sized>(
    source: &S,
    name: &str,
    dtype: DType,
    mut offset: usize,
    out: &mut [f32],
) -> Result<()> {
    let size = dtype.size();
    match dtype {
        DType::F32 => {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(out);
            source.read_at(name, offset, bytes)?;
            from_little_endian(bytes, size);
            return Ok(());
        }
        DType::BF16 | DType::F16 | DType::F64 => {}
        got => {
            return Err(DataError::WrongDType {
                path: source.path_of(name).into(),
                tensor: name.into(),
                expected: "a float type (F32, BF16, F16 or F64)",
                got,
            });
        }
    }
    // u64 words keep the buffer aligned for every element type.
    let mut words = vec![0_u64; CHUNK_BYTES.min(out.len() * size).div_ceil(8)];
    for chunk in out.chunks_mut(CHUNK_BYTES / size) {
        let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..chunk.len() * size];
        source.read_at(name, offset, bytes)?;
        from_little_endian(bytes, size);
        match dtype {
            DType::BF16 => bytemuck::cast_slice::<u8, bf16>(bytes).convert_to_f32_slice(chunk),
            DType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).convert_to_f32_slice(chunk),
            _ => {
                for (value, wide) in chunk.iter_mut().zip(bytemuck::cast_slice::<u8, f64>(bytes)) {
                    *value = *wide as f32;
                }
            }
        }
        offset += bytes.len();
    }
    Ok(())
}

fn check_buffer(path: &Path, name: &str, unit: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(DataError::BufferLength { path: path.into(), tensor: name.into(), unit, expected, got })
}

/// Checks a range of rows and returns the bytes of one row.
fn check_rows(path: &Path, name: &str, info: &TensorInfo, rows: &Range<usize>) -> Result<usize> {
    let available = info.shape.first().copied().unwrap_or(0); // a scalar has no rows
    if rows.start > rows.end || rows.end > available {
        return Err(DataError::OutOfRange {
            path: path.into(),
            tensor: name.into(),
            what: "rows",
            begin: rows.start,
            end: rows.end,
            available,
        });
    }
    Ok(info.len.checked_div(available).unwrap_or(0))
}

/// The name with the smallest edit distance, if that is at most a quarter of the length.
fn closest(name: &str, names: Vec<&str>) -> Option<String> {
    // Beyond these sizes the file is not a model's and the quadratic search not worth it.
    const LONGEST: usize = 200;
    const MOST: usize = 5_000;
    if name.len() > LONGEST || names.len() > MOST {
        return None;
    }
    let limit = name.len() / 4;
    names
        .into_iter()
        .filter(|other| other.len().abs_diff(name.len()) <= limit)
        .map(|other| (edit_distance(name.as_bytes(), other.as_bytes()), other))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other.to_owned())
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
