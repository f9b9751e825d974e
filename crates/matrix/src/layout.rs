//! The structure of a matrix without its numbers.

use serde::{Deserialize, Serialize};

use crate::ValueType;

/// Kind, shape and value type of a matrix. Serialised into a checkpoint's `config.json`; counts
/// bytes and parameters before anything is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// See [`crate::Dense`].
    Dense {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Type of the values.
        values: ValueType,
    },
    /// See [`crate::Csr`].
    Csr {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Type of the values.
        values: ValueType,
        /// Stored entries.
        nonzeros: usize,
    },
    /// See [`crate::Csc`].
    Csc {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Type of the values.
        values: ValueType,
        /// Stored entries.
        nonzeros: usize,
    },
    /// See [`crate::Bitmask`].
    Bitmask {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Type of the values.
        values: ValueType,
        /// Stored entries.
        nonzeros: usize,
    },
    /// See [`crate::NofM`].
    NofM {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Type of the values.
        values: ValueType,
        /// Kept values per group.
        n: usize,
        /// Columns per group.
        m: usize,
    },
    /// See [`crate::BlockDiagonal`].
    BlockDiagonal {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// Blocks along the diagonal.
        blocks: usize,
        /// Type of the values.
        values: ValueType,
    },
    /// See [`crate::Product`].
    Product {
        /// The factor applied last, `rows x k`.
        left: Box<Layout>,
        /// The factor applied first, `k x cols`.
        right: Box<Layout>,
    },
    /// See [`crate::Sum`].
    Sum {
        /// The terms, all of one shape.
        terms: Vec<Layout>,
    },
    /// See [`crate::Transposed`].
    Transposed {
        /// What is stored.
        inner: Box<Layout>,
    },
}

impl Layout {
    /// Rows (outputs).
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { rows, .. }
            | Self::Csr { rows, .. }
            | Self::Csc { rows, .. }
            | Self::Bitmask { rows, .. }
            | Self::NofM { rows, .. }
            | Self::BlockDiagonal { rows, .. } => *rows,
            Self::Product { left, .. } => left.rows(),
            Self::Sum { terms } => terms.first().map_or(0, Layout::rows),
            Self::Transposed { inner } => inner.cols(),
        }
    }

    /// Columns (inputs).
    pub fn cols(&self) -> usize {
        match self {
            Self::Dense { cols, .. }
            | Self::Csr { cols, .. }
            | Self::Csc { cols, .. }
            | Self::Bitmask { cols, .. }
            | Self::NofM { cols, .. }
            | Self::BlockDiagonal { cols, .. } => *cols,
            Self::Product { right, .. } => right.cols(),
            Self::Sum { terms } => terms.first().map_or(0, Layout::cols),
            Self::Transposed { inner } => inner.rows(),
        }
    }

    /// The kind as tables show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Csr { .. } => "csr",
            Self::Csc { .. } => "csc",
            Self::Bitmask { .. } => "bitmask",
            Self::NofM { .. } => "n-of-m",
            Self::BlockDiagonal { .. } => "block-diagonal",
            Self::Product { left, .. } if matches!(**left, Self::Dense { .. }) => "low-rank",
            Self::Product { .. } => "dictionary-sparse",
            Self::Sum { .. } => "sum",
            Self::Transposed { inner } => inner.kind(),
        }
    }

    /// The number of stored values: the "parameters" of the papers, indices not counted.
    pub fn parameters(&self) -> u64 {
        match *self {
            Self::Dense { rows, cols, .. } => rows as u64 * cols as u64,
            Self::Csr { nonzeros, .. } | Self::Csc { nonzeros, .. } | Self::Bitmask { nonzeros, .. } => {
                nonzeros as u64
            }
            Self::NofM { rows, cols, n, m, .. } => rows as u64 * (cols.div_ceil(m) * n) as u64,
            Self::BlockDiagonal { rows, cols, blocks, .. } => rows as u64 * (cols / blocks.max(1)) as u64,
            Self::Product { ref left, ref right } => left.parameters() + right.parameters(),
            Self::Sum { ref terms } => terms.iter().map(Layout::parameters).sum(),
            Self::Transposed { ref inner } => inner.parameters(),
        }
    }

    /// The bytes in a file: values, indices, masks, codes and scales.
    pub fn stored_bytes(&self) -> u64 {
        let values = |kind: ValueType, scales: usize| {
            self.parameters() * kind.bytes() as u64 + kind.scale_bytes(scales) as u64
        };
        match *self {
            Self::Dense { rows, values: kind, .. } => values(kind, rows),
            Self::Csr { rows, nonzeros, values: kind, .. } => {
                values(kind, rows) + 2 * nonzeros as u64 + 4 * (rows as u64 + 1)
            }
            Self::Csc { cols, nonzeros, values: kind, .. } => {
                values(kind, cols) + 2 * nonzeros as u64 + 4 * (cols as u64 + 1)
            }
            Self::Bitmask { rows, cols, values: kind, .. } => {
                values(kind, rows) + rows as u64 * cols.div_ceil(8) as u64
            }
            Self::NofM { rows, cols, n, m, values: kind } => {
                values(kind, rows) + rows as u64 * crate::nofm::code_bytes_per_row(cols, n, m) as u64
            }
            Self::BlockDiagonal { rows, values: kind, .. } => values(kind, rows),
            Self::Product { ref left, ref right } => left.stored_bytes() + right.stored_bytes(),
            Self::Sum { ref terms } => terms.iter().map(Layout::stored_bytes).sum(),
            Self::Transposed { ref inner } => inner.stored_bytes(),
        }
    }

    /// The cheapest sparse kind for a `rows x cols` matrix with `nonzeros` values: CSR where its
    /// indices take fewer bytes than a bit per entry (above about 94 % zeros) and a 16-bit index
    /// can name every column, bitmask otherwise.
    pub fn sparse(rows: usize, cols: usize, values: ValueType, nonzeros: usize) -> Self {
        let csr = Self::Csr { rows, cols, values, nonzeros };
        let bitmask = Self::Bitmask { rows, cols, values, nonzeros };
        if cols <= 1 << 16 && csr.stored_bytes() < bitmask.stored_bytes() { csr } else { bitmask }
    }
}
