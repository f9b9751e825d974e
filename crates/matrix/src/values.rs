//! The numbers inside a matrix: f32, bf16, f16, or int8 with one scale per row.

use bytemuck::Pod;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::Buffer;

/// The type in which values are stored. Products always accumulate in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 8-bit integers with one f32 scale per row: `w = scale * q`, `|q| <= 127`.
    I8,
}

impl ValueType {
    /// Bytes per value, scales not counted.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    /// Bytes of the scales of `rows` rows.
    pub fn scale_bytes(self, rows: usize) -> usize {
        if self == Self::I8 { 4 * rows } else { 0 }
    }

    /// The name used in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I8 => "int8",
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A number type that kernels read.
pub trait Element: Pod + Send + Sync {
    /// The stored type.
    const TYPE: ValueType;
    /// The value as f32, before any scale.
    fn widen(self) -> f32;
}

impl Element for f32 {
    const TYPE: ValueType = ValueType::F32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const TYPE: ValueType = ValueType::Bf16;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    const TYPE: ValueType = ValueType::F16;
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for i8 {
    const TYPE: ValueType = ValueType::I8;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

/// Stored values of one matrix, row after row; only the present ones for sparse kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Buffer<f32>),
    /// bfloat16.
    Bf16(Buffer<bf16>),
    /// IEEE half precision.
    F16(Buffer<f16>),
    /// Quantised values and one scale per row.
    I8 {
        /// The integers.
        values: Buffer<i8>,
        /// One scale per row.
        scales: Buffer<f32>,
    },
}

/// Runs `$body` with `$values: &[impl Element]` and `$scales: Option<&[f32]>` bound, once per type.
macro_rules! with_values {
    ($of:expr, |$values:ident, $scales:ident| $body:expr) => {
        match $of {
            $crate::Values::F32(v) => {
                let ($values, $scales): (&[f32], Option<&[f32]>) = (v, None);
                $body
            }
            $crate::Values::Bf16(v) => {
                let ($values, $scales): (&[half::bf16], Option<&[f32]>) = (v, None);
                $body
            }
            $crate::Values::F16(v) => {
                let ($values, $scales): (&[half::f16], Option<&[f32]>) = (v, None);
                $body
            }
            $crate::Values::I8 { values, scales } => {
                let ($values, $scales): (&[i8], Option<&[f32]>) = (values, Some(scales));
                $body
            }
        }
    };
}
pub(crate) use with_values;

/// A reordering of values, whatever their type.
pub(crate) trait Permute {
    /// The values in their new order.
    fn permute<T: Pod>(&self, from: &[T]) -> Buffer<T>;
}

impl Values {
    /// The values in another order; scales stay.
    pub(crate) fn permuted(&self, order: &impl Permute) -> Self {
        match self {
            Self::F32(v) => Self::F32(order.permute(v)),
            Self::Bf16(v) => Self::Bf16(order.permute(v)),
            Self::F16(v) => Self::F16(order.permute(v)),
            Self::I8 { values, scales } => Self::I8 { values: order.permute(values), scales: scales.clone() },
        }
    }

    /// Values `entries`, which are those of `rows`.
    pub(crate) fn slice(&self, entries: std::ops::Range<usize>, rows: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(v) => Self::F32(Buffer::from_slice(&v[entries])),
            Self::Bf16(v) => Self::Bf16(Buffer::from_slice(&v[entries])),
            Self::F16(v) => Self::F16(Buffer::from_slice(&v[entries])),
            Self::I8 { values, scales } => Self::I8 {
                values: Buffer::from_slice(&values[entries]),
                scales: Buffer::from_slice(&scales[rows]),
            },
        }
    }

    /// Values of one type one after another.
    pub(crate) fn concat<'a>(pieces: impl Iterator<Item = &'a Self> + Clone) -> Self {
        macro_rules! join {
            ($pattern:pat => $piece:expr) => {
                pieces
                    .clone()
                    .flat_map(|p| match p {
                        $pattern => $piece.iter().copied(),
                        _ => [].iter().copied(),
                    })
                    .collect()
            };
        }
        match pieces.clone().next() {
            None => Self::F32(Buffer::zeros(0)),
            Some(Self::F32(_)) => Self::F32(join!(Self::F32(v) => v)),
            Some(Self::Bf16(_)) => Self::Bf16(join!(Self::Bf16(v) => v)),
            Some(Self::F16(_)) => Self::F16(join!(Self::F16(v) => v)),
            Some(Self::I8 { .. }) => Self::I8 {
                values: join!(Self::I8 { values, .. } => values),
                scales: join!(Self::I8 { scales, .. } => scales),
            },
        }
    }

    /// Stores `data`, whose row `r` is `data[offsets[r]..offsets[r + 1]]`, in the given type.
    /// Floats round to nearest even; int8 uses `scale = max|w| / 127` of each row.
    pub fn encode(kind: ValueType, data: &[f32], offsets: &[usize]) -> Self {
        match kind {
            ValueType::F32 => Self::F32(Buffer::from_slice(data)),
            ValueType::Bf16 => Self::Bf16(data.iter().map(|&v| bf16::from_f32(v)).collect()),
            ValueType::F16 => Self::F16(data.iter().map(|&v| f16::from_f32(v)).collect()),
            ValueType::I8 => {
                let mut values = Buffer::<i8>::zeros(data.len());
                let mut scales = Buffer::<f32>::zeros(offsets.len() - 1);
                for (r, bounds) in offsets.windows(2).enumerate() {
                    let row = &data[bounds[0]..bounds[1]];
                    let scale = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
                    scales[r] = scale;
                    if scale > 0.0 {
                        for (q, &v) in values[bounds[0]..bounds[1]].iter_mut().zip(row) {
                            *q = (v / scale).round().clamp(-127.0, 127.0) as i8;
                        }
                    }
                }
                Self::I8 { values, scales }
            }
        }
    }

    /// The stored type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::F32(_) => ValueType::F32,
            Self::Bf16(_) => ValueType::Bf16,
            Self::F16(_) => ValueType::F16,
            Self::I8 { .. } => ValueType::I8,
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        with_values!(self, |v, _s| v.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `i` of row `row`, as f32 with its scale applied.
    pub fn get(&self, row: usize, i: usize) -> f32 {
        with_values!(self, |v, s| v[i].widen() * s.map_or(1.0, |s| s[row]))
    }

    /// Values `range` of row `row` widened into `out`, scale applied.
    pub fn decode_into(&self, row: usize, range: std::ops::Range<usize>, out: &mut [f32]) {
        with_values!(self, |v, s| {
            let scale = s.map_or(1.0, |s| s[row]);
            for (o, &v) in out.iter_mut().zip(&v[range]) {
                *o = v.widen() * scale;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_errs_by_at_most_half_a_step() {
        let data: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 7.0).collect();
        let offsets = [0, 20, 20, 64];
        for (kind, step) in [
            (ValueType::F32, 0.0),
            (ValueType::Bf16, 1.0 / 256.0),
            (ValueType::F16, 1.0 / 2048.0),
            (ValueType::I8, 0.0),
        ] {
            let values = Values::encode(kind, &data, &offsets);
            assert_eq!((values.value_type(), values.len()), (kind, 64));
            for r in 0..3 {
                let row = offsets[r]..offsets[r + 1];
                let top = data[row.clone()].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for i in row {
                    let bound = if kind == ValueType::I8 { top / 253.9 } else { data[i].abs() * step };
                    assert!((values.get(r, i) - data[i]).abs() <= bound, "{kind} {i}");
                }
            }
        }
    }

    #[test]
    fn an_all_zero_row_quantises_to_zero() {
        let values = Values::encode(ValueType::I8, &[0.0; 4], &[0, 4]);
        assert_eq!(values.get(0, 3), 0.0);
    }
}
