//! A matrix as named flat arrays and back: the form in which it stands in a file.
//!
//! | kind | parts |
//! |---|---|
//! | dense | `BASE.weight`, or `BASE` itself for a factor inside a product or sum |
//! | csr, csc | `BASE.values`, `BASE.indices` (U16), `BASE.offsets` (U32, rows + 1) |
//! | bitmask | `BASE.values`, `BASE.bitmask` (U8, rows x ceil(cols/8)) |
//! | block-diagonal | `BASE`, rows x columns of a block |
//! | n-of-m | `BASE.values`, `BASE.codes` (U8, rows x code bytes) |
//! | low rank | `BASE.factor_a` (rows x k) and `BASE.factor_b` (k x cols) |
//! | dictionary x sparse | `BASE.coef...` and `BASE.dict` |
//! | sum | `BASE.term0...`, `BASE.term1...` |
//! | transposed | `BASE.transposed...` |
//!
//! int8 values add `NAME.scales` (F32) beside the values. The sum of all part bytes is exactly
//! [`Layout::stored_bytes`]. Row offsets of a bitmask follow from its bits and are not stored.

use bytemuck::Pod;

use crate::values::with_values;
use crate::{
    Bitmask, BlockDiagonal, Buffer, Csc, Csr, Dense, Layout, Matrix, NofM, Product, Sum, Transposed,
    ValueType, Values,
};

/// What can be wrong with a matrix that comes from outside.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The data do not fit the N:M pattern.
    #[error("{0}")]
    Pattern(String),
    /// A part is missing.
    #[error("tensor `{name}` is missing; the layout in config.json asks for it")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A part has another type or shape than the layout says.
    #[error("tensor `{name}` is {got}, the layout in config.json asks for {expected}")]
    Mismatch {
        /// The tensor's name.
        name: String,
        /// Type and shape asked for.
        expected: String,
        /// Type and shape found.
        got: String,
    },
    /// Indices, offsets, codes or masks contradict each other or the shape.
    #[error("tensor `{name}`: {what}; the file is damaged, write it again")]
    Damaged {
        /// The tensor's name.
        name: String,
        /// What is wrong, and where.
        what: String,
    },
    /// Reading a part failed.
    #[error("{0}")]
    Read(String),
}

/// Element type of a [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartType {
    /// f32.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision.
    F16,
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned.
    U8,
    /// 16-bit unsigned.
    U16,
    /// 32-bit unsigned.
    U32,
}

impl From<ValueType> for PartType {
    fn from(v: ValueType) -> Self {
        match v {
            ValueType::F32 => Self::F32,
            ValueType::Bf16 => Self::Bf16,
            ValueType::F16 => Self::F16,
            ValueType::I8 => Self::I8,
        }
    }
}

/// A named flat array of a stored matrix, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The full name.
    pub name: String,
    /// The element type.
    pub kind: PartType,
    /// The shape.
    pub shape: Vec<usize>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Part {
    fn new<T: Pod>(name: String, kind: PartType, shape: Vec<usize>, data: &[T]) -> Self {
        Self { name, kind, shape, bytes: bytemuck::cast_slice(data).to_vec() }
    }
}

/// The names of the children of a composite layout.
fn children(layout: &Layout) -> Vec<(String, &Layout)> {
    match layout {
        Layout::Product { left, right } => {
            let [a, b] = layout.factor_names().expect("a product has two factors");
            vec![(a.into(), &**left), (b.into(), &**right)]
        }
        Layout::Sum { terms } => terms.iter().enumerate().map(|(i, t)| (format!("term{i}"), t)).collect(),
        _ => Vec::new(),
    }
}

impl Layout {
    /// What the left and the right factor of a product are called in a file; `None` for other kinds.
    pub fn factor_names(&self) -> Option<[&'static str; 2]> {
        let Self::Product { left, .. } = self else { return None };
        let low_rank = matches!(**left, Self::Dense { .. });
        Some(if low_rank { ["factor_a", "factor_b"] } else { ["coef", "dict"] })
    }
}

impl Matrix {
    /// The matrix as parts named after the layer `base` (without `.weight`).
    pub fn parts(&self, base: &str) -> Vec<Part> {
        let mut out = Vec::new();
        self.push_parts(base, true, &mut out);
        out
    }

    fn push_parts(&self, base: &str, top: bool, out: &mut Vec<Part>) {
        let push_values = |out: &mut Vec<Part>, name: String, values: &Values, shape: Vec<usize>| {
            let kind = values.value_type().into();
            with_values!(values, |v, scales| {
                out.push(Part::new(name.clone(), kind, shape, v));
                if let Some(s) = scales {
                    out.push(Part::new(format!("{name}.scales"), PartType::F32, vec![s.len()], s));
                }
            });
        };
        match self {
            Matrix::Dense(m) => push_values(out, dense_name(base, top), &m.values, vec![m.rows, m.cols]),
            Matrix::Csr(m) | Matrix::Csc(Csc { transpose: m }) => {
                push_values(out, format!("{base}.values"), &m.values, vec![m.nonzeros()]);
                out.push(Part::new(format!("{base}.indices"), PartType::U16, vec![m.nonzeros()], &m.indices));
                out.push(Part::new(format!("{base}.offsets"), PartType::U32, vec![m.rows + 1], &m.offsets));
            }
            Matrix::Bitmask(m) => {
                let (mask, values) = m.unpack();
                push_values(out, format!("{base}.values"), &values, vec![m.nonzeros()]);
                let shape = vec![m.rows, m.cols.div_ceil(8)];
                out.push(Part::new(format!("{base}.bitmask"), PartType::U8, shape, &mask));
            }
            Matrix::NofM(m) => {
                let shape = vec![m.rows, m.cols.div_ceil(m.m) * m.n];
                let (codes, values) = m.unpack();
                push_values(out, format!("{base}.values"), &values, shape);
                let shape = vec![m.rows, crate::nofm::code_bytes_per_row(m.cols, m.n, m.m)];
                out.push(Part::new(format!("{base}.codes"), PartType::U8, shape, &codes));
            }
            Matrix::BlockDiagonal(m) => {
                let stacked = m.stacked();
                let shape = vec![stacked.rows, stacked.cols];
                push_values(out, dense_name(base, top), &stacked.values, shape);
            }
            Matrix::Transposed(m) => m.inner().push_parts(&format!("{base}.transposed"), false, out),
            Matrix::Product(m) => {
                let layout = Layout::Product {
                    left: Box::new(crate::LinearMap::layout(m.left())),
                    right: Box::new(crate::LinearMap::layout(m.right())),
                };
                for ((name, _), child) in children(&layout).iter().zip([m.left(), m.right()]) {
                    child.push_parts(&format!("{base}.{name}"), false, out);
                }
            }
            Matrix::Sum(m) => {
                for (i, term) in m.terms().iter().enumerate() {
                    term.push_parts(&format!("{base}.term{i}"), false, out);
                }
            }
        }
    }

    /// Rebuilds a matrix from its layout; `read` returns the part of a given name, `None` if the
    /// file has none.
    ///
    /// # Errors
    /// If a part is missing, has another type or shape, or contradicts itself.
    pub fn from_parts(
        base: &str,
        layout: &Layout,
        read: &mut dyn FnMut(&str) -> Result<Option<Part>, MatrixError>,
    ) -> Result<Self, MatrixError> {
        read_matrix(base, layout, true, read)
    }
}

fn dense_name(base: &str, top: bool) -> String {
    if top { format!("{base}.weight") } else { base.to_owned() }
}

type Reader<'a> = dyn FnMut(&str) -> Result<Option<Part>, MatrixError> + 'a;

fn read_part<T: Pod>(
    read: &mut Reader<'_>,
    name: &str,
    kind: PartType,
    shape: &[usize],
) -> Result<Buffer<T>, MatrixError> {
    let part = read(name)?.ok_or_else(|| MatrixError::Missing { name: name.to_owned() })?;
    if part.kind != kind || part.shape != shape {
        return Err(MatrixError::Mismatch {
            name: name.to_owned(),
            expected: format!("{kind:?} {shape:?}"),
            got: format!("{:?} {:?}", part.kind, part.shape),
        });
    }
    let mut buffer = Buffer::<T>::zeros(part.bytes.len() / size_of::<T>());
    bytemuck::cast_slice_mut::<T, u8>(&mut buffer).copy_from_slice(&part.bytes);
    Ok(buffer)
}

fn read_values(
    read: &mut Reader<'_>,
    name: &str,
    kind: ValueType,
    shape: &[usize],
    scales: usize,
) -> Result<Values, MatrixError> {
    Ok(match kind {
        ValueType::F32 => Values::F32(read_part(read, name, kind.into(), shape)?),
        ValueType::Bf16 => Values::Bf16(read_part(read, name, kind.into(), shape)?),
        ValueType::F16 => Values::F16(read_part(read, name, kind.into(), shape)?),
        ValueType::I8 => Values::I8 {
            values: read_part(read, name, kind.into(), shape)?,
            scales: read_part(read, &format!("{name}.scales"), PartType::F32, &[scales])?,
        },
    })
}

fn read_csr(
    base: &str,
    (rows, cols, nonzeros): (usize, usize, usize),
    kind: ValueType,
    read: &mut Reader<'_>,
) -> Result<Csr, MatrixError> {
    let values = read_values(read, &format!("{base}.values"), kind, &[nonzeros], rows)?;
    let name = format!("{base}.indices");
    let indices: Buffer<u16> = read_part(read, &name, PartType::U16, &[nonzeros])?;
    let offsets: Buffer<u32> = read_part(read, &format!("{base}.offsets"), PartType::U32, &[rows + 1])?;
    let damaged = |name: &str, what: String| MatrixError::Damaged { name: name.to_owned(), what };
    if offsets[0] != 0 || offsets[rows] as usize != nonzeros || !offsets.is_sorted() {
        return Err(damaged(&format!("{base}.offsets"), "offsets do not rise from 0 to the count".into()));
    }
    for r in 0..rows {
        let row = &indices[offsets[r] as usize..offsets[r + 1] as usize];
        if !row.is_sorted_by(|a, b| a < b) || row.last().is_some_and(|&c| c as usize >= cols) {
            return Err(damaged(&name, format!("columns of row {r} do not rise below {cols}")));
        }
    }
    Ok(Csr { rows, cols, offsets, indices, values })
}

fn read_matrix(base: &str, layout: &Layout, top: bool, read: &mut Reader<'_>) -> Result<Matrix, MatrixError> {
    let damaged = |name: String, what: String| MatrixError::Damaged { name, what };
    Ok(match *layout {
        Layout::Dense { rows, cols, values } => {
            let values = read_values(read, &dense_name(base, top), values, &[rows, cols], rows)?;
            Dense { rows, cols, values }.into()
        }
        Layout::Csr { rows, cols, values, nonzeros } => {
            read_csr(base, (rows, cols, nonzeros), values, read)?.into()
        }
        Layout::Csc { rows, cols, values, nonzeros } => {
            Csc { transpose: read_csr(base, (cols, rows, nonzeros), values, read)? }.into()
        }
        Layout::Bitmask { rows, cols, values, nonzeros } => {
            let stride = cols.div_ceil(8);
            let name = format!("{base}.bitmask");
            let mask: Buffer<u8> = read_part(read, &name, PartType::U8, &[rows, stride])?;
            let mut bits = 0;
            for r in 0..rows {
                let row = &mask[r * stride..(r + 1) * stride];
                if !cols.is_multiple_of(8) && row[stride - 1] >> (cols % 8) != 0 {
                    return Err(damaged(name, format!("row {r} sets bits beyond column {cols}")));
                }
                bits += row.iter().map(|b| b.count_ones() as usize).sum::<usize>();
            }
            if bits != nonzeros || u32::try_from(bits).is_err() {
                return Err(damaged(name, format!("{bits} bits are set, not {nonzeros}")));
            }
            let values = read_values(read, &format!("{base}.values"), values, &[nonzeros], rows)?;
            Bitmask::pack(rows, cols, &mask, &values).into()
        }
        Layout::NofM { rows, cols, values, n, m } => {
            if n == 0 || n >= m || m > 256 {
                return Err(MatrixError::Pattern(format!(
                    "layer `{base}`: {n}:{m} is not a pattern; 1 <= n < m <= 256 is"
                )));
            }
            let shape = [rows, cols.div_ceil(m) * n];
            let values = read_values(read, &format!("{base}.values"), values, &shape, rows)?;
            let name = format!("{base}.codes");
            let shape = [rows, crate::nofm::code_bytes_per_row(cols, n, m)];
            let codes: Buffer<u8> = read_part(read, &name, PartType::U8, &shape)?;
            if let Some((r, c)) = NofM::first_outside((rows, cols), (n, m), &codes) {
                return Err(damaged(name, format!("row {r} names column {c} of {cols}")));
            }
            NofM::pack((rows, cols), (n, m), &codes, &values).into()
        }
        Layout::BlockDiagonal { rows, cols, blocks, values } => {
            if blocks == 0
                || rows == 0
                || cols == 0
                || !rows.is_multiple_of(blocks)
                || !cols.is_multiple_of(blocks)
            {
                let what = format!("{blocks} blocks do not divide {rows} x {cols}");
                return Err(damaged(base.to_owned(), what));
            }
            let (name, width) = (dense_name(base, top), cols / blocks);
            let values = read_values(read, &name, values, &[rows, width], rows)?;
            BlockDiagonal::from_stored(&Dense { rows, cols: width, values }, blocks).into()
        }
        Layout::Transposed { ref inner } => {
            Transposed::new(read_matrix(&format!("{base}.transposed"), inner, false, read)?).into()
        }
        Layout::Product { ref left, ref right } => {
            if left.cols() != right.rows() {
                let what = format!("inner dimensions {} and {} differ", left.cols(), right.rows());
                return Err(damaged(base.to_owned(), what));
            }
            let names = children(layout);
            let left = read_matrix(&format!("{base}.{}", names[0].0), left, false, read)?;
            let right = read_matrix(&format!("{base}.{}", names[1].0), right, false, read)?;
            Product::new(left, right).into()
        }
        Layout::Sum { ref terms } => {
            let shape = |l: &Layout| (l.rows(), l.cols());
            if terms.is_empty() || terms.iter().any(|t| shape(t) != shape(&terms[0])) {
                return Err(damaged(base.to_owned(), "terms are missing or differ in shape".into()));
            }
            let read_term =
                |(i, t): (usize, &Layout)| read_matrix(&format!("{base}.term{i}"), t, false, read);
            Sum::new(terms.iter().enumerate().map(read_term).collect::<Result<_, _>>()?).into()
        }
    })
}
