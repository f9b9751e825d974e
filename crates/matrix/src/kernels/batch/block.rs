//! Unpacked rows of a sparse matrix, in column tiles, and their products with panels.

#![allow(unsafe_code)] // calls the kernels of `simd` and shares the output between threads

use super::panel::{Output, Panel, Scratch};
use super::simd::{Bound, GROUP, GroupTile, Isa, Kernels, SparseTile, prefetch, transpose};
use super::{Rows, TILE_BYTES};

/// Consecutive rows of a block.
pub(super) enum Run {
    /// Each with its own columns.
    Own { first: usize, rows: usize },
    /// At most [`GROUP`] that share their columns.
    Shared { first: usize, rows: usize },
}

/// Unpacked rows and the scratch to multiply them.
#[derive(Default)]
pub(super) struct Block {
    pub(super) columns: Vec<u16>,
    pub(super) values: Vec<f32>,
    /// Where each row starts; one longer than rows.
    pub(super) offsets: Vec<u32>,
    /// From 0: `tiles x rows`, where the entries of each row in each column tile start. From
    /// `first_end`: where they end. The two overlap if a row's entries lie in one piece.
    pub(super) bounds: Vec<u32>,
    pub(super) first_end: usize,
    pub(super) runs: Vec<Run>,
    pub(super) wide: Vec<u32>,
    pub(super) sums: Scratch,
}

impl Block {
    pub(super) fn clear(&mut self) {
        self.columns.clear();
        self.values.clear();
        self.offsets.clear();
        self.offsets.push(0);
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn end_row(&mut self) {
        assert_eq!(self.columns.len(), self.values.len(), "an unpacked row lost a value");
        self.offsets.push(self.columns.len() as u32);
    }

    /// Unpacks rows `rows` of `source` and finds where they cross multiples of `tile` columns.
    pub(super) fn unpack(&mut self, isa: Isa, source: &dyn Rows, rows: std::ops::Range<usize>, tile: usize) {
        let cols = source.shape().1;
        self.clear();
        if cols <= 1 << 16 {
            for row in rows {
                source.unpack(isa, row, &mut self.columns, &mut self.values);
                self.end_row();
            }
            self.find_bounds(isa.kernels(), cols, tile);
            return;
        }
        self.first_end = rows.len();
        let (count, tiles) = (rows.len(), tile_count(cols, tile));
        self.bounds.clear();
        self.bounds.resize((tiles + 1) * count, 0);
        for (r, row) in rows.enumerate() {
            self.wide.clear();
            source.unpack_wide(row, &mut self.wide, &mut self.values);
            let start = self.offsets[r];
            self.sort_wide(start as usize);
            for (t, (_, end)) in tile_ranges(cols, tile).enumerate() {
                let below = self.wide.partition_point(|&c| (c as usize) < end) as u32;
                self.bounds[(t + 1) * count + r] = start + below;
            }
            self.bounds[r] = start;
            self.columns.extend(self.wide.iter().map(|&c| c as u16));
            self.end_row();
        }
    }

    /// Brings the last unpacked row into rising order: its columns must not straddle 65 536.
    pub(super) fn sort_wide(&mut self, start: usize) {
        if !self.wide.is_sorted() {
            let mut pairs: Vec<_> =
                self.wide.iter().copied().zip(self.values[start..].iter().copied()).collect();
            pairs.sort_by_key(|p| p.0);
            for (i, (c, w)) in pairs.into_iter().enumerate() {
                (self.wide[i], self.values[start + i]) = (c, w);
            }
        }
    }

    /// As above for at most 65 536 columns, from the unpacked ones.
    pub(super) fn find_bounds(&mut self, kernels: &Kernels, cols: usize, tile: usize) {
        assert!(cols <= 1 << 16, "16 bits do not name {cols} columns");
        let (rows, tiles) = (self.rows(), tile_count(cols, tile));
        self.bounds.resize((tiles + 1) * rows, 0);
        self.first_end = rows;
        self.bounds[..rows].copy_from_slice(&self.offsets[..rows]);
        for (t, (_, end)) in tile_ranges(cols, tile).enumerate() {
            let (before, after) = self.bounds.split_at_mut((t + 1) * rows);
            if t + 1 == tiles {
                after[..rows].copy_from_slice(&self.offsets[1..]);
                break;
            }
            let bound = Bound {
                columns: &self.columns,
                starts: &before[t * rows..],
                limits: &self.offsets,
                column: end as u16, // below 65 536: the last tile left the loop
                ends: &mut after[..rows],
            };
            // SAFETY: the kernels are those of an instruction set this machine has.
            unsafe { (kernels.ends)(bound) };
        }
    }

    /// Finds runs of rows that share their columns.
    pub(super) fn find_runs(&mut self) {
        self.runs.clear();
        let (rows, offsets) = (self.rows(), &self.offsets);
        let row = |r: usize| &self.columns[offsets[r] as usize..offsets[r + 1] as usize];
        let mut first = 0;
        while first < rows {
            let mut end = first + 1;
            while end < rows && row(end) == row(first) {
                end += 1;
            }
            match self.runs.last_mut() {
                Some(Run::Own { rows, .. }) if end == first + 1 => *rows += 1,
                _ if end == first + 1 => self.runs.push(Run::Own { first, rows: 1 }),
                _ => {
                    // Equal pieces: 8 = 4 + 4, not 6 + 2.
                    let pieces = (end - first).div_ceil(GROUP);
                    for p in 0..pieces {
                        let (from, to) = ((end - first) * p / pieces, (end - first) * (p + 1) / pieces);
                        self.runs.push(Run::Shared { first: first + from, rows: to - from });
                    }
                }
            }
            first = end;
        }
    }

    /// Multiplies the rows with a panel and writes them to columns `first_row..` of the output.
    pub(super) fn multiply(
        &mut self,
        isa: Isa,
        panel: &Panel,
        tile: usize,
        first_item: usize,
        first_row: usize,
        out: Output,
    ) {
        let kernels = isa.kernels();
        let (rows, width) = (self.rows(), panel.width);
        self.sums.grow(rows * width);
        let next_per_row = (tile * width).div_ceil(rows).next_multiple_of(16);
        for (first, items, data) in panel.tiles() {
            let sums = &mut self.sums.slice()[..rows * width];
            sums.fill(0.0);
            for (t, (start, end)) in tile_ranges(panel.cols, tile).enumerate() {
                let starts = &self.bounds[t * rows..][..rows];
                let ends = &self.bounds[self.first_end + t * rows..][..rows];
                // Columns are named by their low 16 bits and a tile never crosses 65 536.
                let segment = start >> 16 << 16;
                let base = &data[segment * width..(segment + (1 << 16)).min(panel.cols) * width];
                for run in &self.runs {
                    match *run {
                        Run::Own { first, rows } => {
                            let job = SparseTile {
                                rows,
                                starts: starts[first..][..rows].as_ptr(),
                                ends: ends[first..][..rows].as_ptr(),
                                columns: self.columns.as_ptr(),
                                values: self.values.as_ptr(),
                                panel: base.as_ptr(),
                                y: sums[first * width..][..rows * width].as_mut_ptr(),
                                next: data.as_ptr().wrapping_add(end * width + first * next_per_row),
                                next_per_row,
                            };
                            // SAFETY: bounds are positions in columns and values, which are as long;
                            // columns are below `cols` by the contract of `Rows`, and those of
                            // this tile are relative to `base`; sums hold `rows x width`.
                            unsafe { (kernels.sparse[panel.vectors - 1])(&job) };
                        }
                        Run::Shared { first, rows } => {
                            let (from, to) = (starts[first] as usize, ends[first] as usize);
                            let mut values = [std::ptr::null(); GROUP];
                            for g in 0..rows {
                                let from = starts[first + g] as usize;
                                values[g] = self.values[from..from + (to - starts[first] as usize)].as_ptr();
                            }
                            let mut vector = 0;
                            while vector < panel.vectors {
                                let left = panel.vectors - vector;
                                let passes = left.div_ceil(isa.group_vectors());
                                let vectors = left.div_ceil(passes);
                                let offset = vector * isa.lanes();
                                let job = GroupTile {
                                    len: to - from,
                                    columns: self.columns[from..to].as_ptr(),
                                    values,
                                    panel: base[offset..].as_ptr(),
                                    width,
                                    y: sums[first * width + offset..][..rows * width - offset].as_mut_ptr(),
                                    next: data.as_ptr().wrapping_add(end * width + first * next_per_row),
                                    next_lines: if vector == 0 { rows * next_per_row / 16 } else { 0 },
                                };
                                // SAFETY: as above; `vectors` more fit into the width.
                                unsafe { (kernels.shared[rows - 1][vectors - 1])(&job) };
                                vector += vectors;
                            }
                        }
                    }
                }
            }
            // SAFETY: no other block writes these rows; the output has `first_item + first + items`
            // items and `first_row + rows` columns.
            unsafe {
                let to = out.at(first_item + first, first_row);
                transpose(isa, sums.as_ptr(), width, (rows, items), to, out.stride, out.add);
            }
        }
    }
}

/// Column tiles: `tile` wide, cut at multiples of 65 536.
pub(super) fn tile_ranges(cols: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        (start < cols).then(|| {
            let end = (start + tile).min((start >> 16 << 16) + (1 << 16)).min(cols);
            (std::mem::replace(&mut start, end), end)
        })
    })
}

pub(super) fn tile_count(cols: usize, tile: usize) -> usize {
    tile_ranges(cols, tile).count()
}

/// Columns whose panel rows fit a tile.
pub(super) fn tile_columns(width: usize) -> usize {
    (TILE_BYTES / (4 * width)).max(16)
}

impl Block {
    /// The transpose of columns `start..start + cols`, tile `index` of the unpacked rows. Entries
    /// are sorted `tile` rows at a time and stay in that order: a sort through the whole height
    /// would write to as many places as columns, at distances that collide in the cache.
    pub(super) fn gather(
        &mut self,
        unpacked: &[Block],
        index: usize,
        start: usize,
        cols: usize,
        tile: usize,
        next: &mut Vec<u32>,
    ) {
        // Spans lie far apart, in memory that no hardware prefetcher foresees.
        const AHEAD: usize = 8;
        let low = start as u16;
        let chunk = unpacked[0].rows();
        let count = unpacked.iter().map(Block::rows).sum::<usize>();
        let span = |row: usize| {
            let (block, r) = (&unpacked[row / chunk], row % chunk);
            let at = index * block.rows() + r;
            let span = block.bounds[at] as usize..block.bounds[at + block.rows()] as usize;
            (&block.columns[span.clone()], &block.values[span])
        };
        self.clear();
        self.offsets.resize(cols + 1, 0); // only their number counts here
        self.runs.clear();
        self.runs.push(Run::Own { first: 0, rows: cols });
        let tiles = tile_count(count, tile);
        self.first_end = tiles * cols;
        self.bounds.clear();
        self.bounds.resize(2 * tiles * cols, 0);
        let total = (0..count).map(|row| span(row).0.len()).sum();
        self.columns.resize(total, 0);
        self.values.resize(total, 0.0);
        let mut at = 0;
        for (t, (first, end)) in tile_ranges(count, tile).enumerate() {
            next.clear();
            next.resize(cols, 0);
            for row in first..end {
                if row + AHEAD < count {
                    let (columns, values) = span(row + AHEAD);
                    prefetch(columns);
                    prefetch(values);
                }
                for c in span(row).0 {
                    next[c.wrapping_sub(low) as usize] += 1;
                }
            }
            for c in 0..cols {
                self.bounds[t * cols + c] = at;
                at += std::mem::replace(&mut next[c], at);
                self.bounds[self.first_end + t * cols + c] = at;
            }
            for row in first..end {
                let (columns, values) = span(row);
                for (c, &w) in columns.iter().zip(values) {
                    let slot = &mut next[c.wrapping_sub(low) as usize];
                    self.columns[*slot as usize] = row as u16;
                    self.values[*slot as usize] = w;
                    *slot += 1;
                }
            }
        }
    }
}
