//! The multiplying loops over tiles of a panel, and products with few vectors.

#![allow(unsafe_code)] // pointer loops: bounds are the callers' contract, stated per function

use half::{bf16, f16};

use super::{GROUP, Simd};
use crate::Element;

/// One column tile of consecutive rows that have patterns of their own.
pub(crate) struct SparseTile {
    /// Number of rows.
    pub(crate) rows: usize,
    /// Per row: where its entries of this tile start.
    pub(crate) starts: *const u32,
    /// Per row: where they end.
    pub(crate) ends: *const u32,
    /// Columns, relative to `panel`.
    pub(crate) columns: *const u16,
    /// Values beside the columns.
    pub(crate) values: *const f32,
    /// The panel row of column 0 (modulo 65 536).
    pub(crate) panel: *const f32,
    /// `rows x width`, added to.
    pub(crate) y: *mut f32,
    /// What the next tile reads, to be fetched into the L2 cache meanwhile.
    pub(crate) next: *const f32,
    /// Floats of `next` per row.
    pub(crate) next_per_row: usize,
}

/// `y[r] += sum of values[i] * panel[columns[i]]` over the entries of every row.
///
/// # Safety
/// For every row, `starts..ends` lies inside columns and values, `panel` is readable for `width`
/// floats at every column named, and `y` is writable for `rows * width` floats.
#[inline(always)]
pub(crate) unsafe fn sparse_tile<S: Simd, const A: usize>(t: &SparseTile) {
    let width = A * S::LANES;
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        for r in 0..t.rows {
            let (mut i, end) = (*t.starts.add(r) as usize, *t.ends.add(r) as usize);
            let y = t.y.add(r * width);
            for line in 0..t.next_per_row / 16 {
                S::prefetch(t.next.wrapping_add(r * t.next_per_row + line * 16));
            }
            if r + 3 < t.rows {
                let ahead = *t.starts.add(r + 3) as usize;
                S::prefetch(t.values.add(ahead));
                S::prefetch(t.values.add(ahead).wrapping_add(16));
                S::prefetch(t.columns.add(ahead).cast());
            }
            let mut sums: [S::V; A] = std::array::from_fn(|a| S::load(y.add(a * S::LANES)));
            if A <= 3 {
                // Few sums: the latency of an addition would show, so keep four sets.
                let mut sets = [[S::splat(0.0); A]; 4];
                while i + 4 <= end {
                    for u in 0..4 {
                        let w = S::splat(*t.values.add(i + u));
                        let x = t.panel.add(*t.columns.add(i + u) as usize * width);
                        for a in 0..A {
                            sets[u][a] = S::fma(w, S::load(x.add(a * S::LANES)), sets[u][a]);
                        }
                    }
                    i += 4;
                }
                for a in 0..A {
                    let pairs = (S::add(sets[0][a], sets[1][a]), S::add(sets[2][a], sets[3][a]));
                    sums[a] = S::add(sums[a], S::add(pairs.0, pairs.1));
                }
            }
            while i < end {
                let w = S::splat(*t.values.add(i));
                let x = t.panel.add(*t.columns.add(i) as usize * width);
                for a in 0..A {
                    sums[a] = S::fma(w, S::load(x.add(a * S::LANES)), sums[a]);
                }
                i += 1;
            }
            for a in 0..A {
                S::store(y.add(a * S::LANES), sums[a]);
            }
        }
    }
}

/// One column tile of consecutive rows, multiplied from the left.
pub(crate) struct ScatterTile {
    /// Number of rows.
    pub(crate) rows: usize,
    /// Per row: where its entries of this tile start.
    pub(crate) starts: *const u32,
    /// Per row: where they end.
    pub(crate) ends: *const u32,
    /// Columns, relative to `y`.
    pub(crate) columns: *const u16,
    /// Values beside the columns.
    pub(crate) values: *const f32,
    /// `rows x width`: what each row is multiplied with.
    pub(crate) panel: *const f32,
    /// Sums of column 0 (modulo 65 536), `width` a column, added to. May point outside of memory
    /// as long as the columns named do not.
    pub(crate) y: *mut f32,
}

/// `y[columns[i]] += values[i] * panel[r]` over the entries of every row.
///
/// # Safety
/// For every row, `starts..ends` lies inside columns and values; `panel` is readable for
/// `rows * width` floats; `y` is valid for `width` floats at every column named.
#[inline(always)]
pub(crate) unsafe fn scatter_tile<S: Simd, const A: usize>(t: &ScatterTile) {
    const AHEAD: usize = 6;
    let width = A * S::LANES;
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        for r in 0..t.rows {
            if r + AHEAD < t.rows {
                // Spans lie far apart, in memory that no hardware prefetcher foresees.
                let ahead = *t.starts.add(r + AHEAD) as usize;
                S::prefetch(t.values.add(ahead));
                S::prefetch(t.values.add(ahead).wrapping_add(16));
                S::prefetch(t.columns.add(ahead).cast());
            }
            let x = t.panel.add(r * width);
            let xs: [S::V; A] = std::array::from_fn(|a| S::load(x.add(a * S::LANES)));
            for i in *t.starts.add(r) as usize..*t.ends.add(r) as usize {
                let w = S::splat(*t.values.add(i));
                let y = t.y.wrapping_add(*t.columns.add(i) as usize * width);
                for a in 0..A {
                    let y = y.wrapping_add(a * S::LANES);
                    S::store(y, S::fma(w, xs[a], S::load(y)));
                }
            }
        }
    }
}

/// A few rows that share their columns.
pub(crate) struct GroupTile {
    /// Number of entries of a row.
    pub(crate) len: usize,
    /// Their columns relative to `panel`; null: `0..len`.
    pub(crate) columns: *const u16,
    /// The values of each row.
    pub(crate) values: [*const f32; GROUP],
    /// The panel row of column 0.
    pub(crate) panel: *const f32,
    /// Floats from one row of the panel, and of y, to the next.
    pub(crate) width: usize,
    /// `G` rows, added to.
    pub(crate) y: *mut f32,
    /// What the next tile reads, to be fetched into the L2 cache meanwhile.
    pub(crate) next: *const f32,
    /// Cache lines of `next`.
    pub(crate) next_lines: usize,
}

/// `y[g] += sum of values[g][i] * panel[columns[i]]`, `G` rows x `A` vectors in registers.
///
/// # Safety
/// Columns (unless null) and the first `G` values are readable for `len` entries, `panel` for `A`
/// vectors at every column named; `y` is writable for `A` vectors at each of `G` rows.
#[inline(always)]
pub(crate) unsafe fn group<S: Simd, const G: usize, const A: usize, const INDEXED: bool>(t: &GroupTile) {
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        let mut sums: [[S::V; A]; G] =
            std::array::from_fn(|g| std::array::from_fn(|a| S::load(t.y.add(g * t.width + a * S::LANES))));
        let values: [*const f32; G] = std::array::from_fn(|g| t.values[g]);
        let mut x = t.panel;
        for line in 0..t.next_lines {
            S::prefetch(t.next.wrapping_add(line * 16));
        }
        for i in 0..t.len {
            if INDEXED {
                x = t.panel.add(*t.columns.add(i) as usize * t.width);
            }
            let xs: [S::V; A] = std::array::from_fn(|a| S::load(x.add(a * S::LANES)));
            for g in 0..G {
                let w = S::splat(*values[g].add(i));
                for a in 0..A {
                    sums[g][a] = S::fma(w, xs[a], sums[g][a]);
                }
            }
            if !INDEXED {
                x = x.add(t.width);
            }
        }
        for g in 0..G {
            for a in 0..A {
                S::store(t.y.add(g * t.width + a * S::LANES), sums[g][a]);
            }
        }
    }
}

/// A stored number as [`dots`] reads it.
pub(crate) trait Stored: Element {
    /// # Safety
    /// `p` must be readable for `S::LANES` numbers.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

macro_rules! stored {
    ($($type:ty, $load:ident);*) => {$(
        impl Stored for $type {
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const Self) -> S::V {
                // SAFETY: by contract.
                unsafe { S::$load(p) }
            }
        }
    )*};
}
stored!(f32, load; bf16, load_bf16; f16, load_f16; i8, load_i8);

/// `y[b * y_stride + r] = scales[r] * sum of w[r * k + i] * x[b * x_stride + i]` for `R` rows and `B` items: a
/// product with a few vectors at once, vectorised over columns. No scales: they are one.
///
/// # Safety
/// `w` is readable for `R * k` numbers, `scales` (unless null) for `R`, `x` for `k` floats at each of `B` items; `y` is writable
/// for `R` floats at each.
#[inline(always)]
pub(crate) unsafe fn dots<S: Simd, T: Stored, const R: usize, const B: usize>(
    w: *const T,
    scales: *const f32,
    k: usize,
    x: *const f32,
    x_stride: usize,
    y: *mut f32,
    y_stride: usize,
    add: bool,
) {
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        let mut sums = [[S::splat(0.0); B]; R];
        let whole = k / S::LANES * S::LANES;
        let mut i = 0;
        while i < whole {
            let xs: [S::V; B] = std::array::from_fn(|b| S::load(x.add(b * x_stride + i)));
            for r in 0..R {
                let w = T::load::<S>(w.add(r * k + i));
                for b in 0..B {
                    sums[r][b] = S::fma(w, xs[b], sums[r][b]);
                }
            }
            i += S::LANES;
        }
        for r in 0..R {
            for b in 0..B {
                let mut parts = [0.0f32; 16];
                S::store(parts.as_mut_ptr(), sums[r][b]);
                let mut half = S::LANES / 2;
                while half > 0 {
                    for l in 0..half {
                        parts[l] += parts[l + half];
                    }
                    half /= 2;
                }
                let mut sum = parts[0];
                for i in whole..k {
                    sum += (*w.add(r * k + i)).widen() * *x.add(b * x_stride + i);
                }
                if !scales.is_null() {
                    sum *= *scales.add(r);
                }
                let to = y.add(b * y_stride + r);
                *to = if add { *to + sum } else { sum };
            }
        }
    }
}

/// Items that [`dots`] takes at once.
pub(crate) const DOT_ITEMS: usize = 4;
/// Rows that [`dots`] takes at once.
pub(crate) const DOT_ROWS: usize = 4;

/// By rows (1, or all), then by items.
pub(crate) type Dots<T> = [[Few<T>; DOT_ITEMS]; 2];
pub(crate) type Few<T> = unsafe fn(*const T, *const f32, usize, *const f32, usize, *mut f32, usize, bool);
