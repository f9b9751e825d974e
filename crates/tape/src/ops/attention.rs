//! Causal attention with rotary positions, fused: no matrix of scores is kept.

use rayon::prelude::*;
use sparseland_matrix::{Buffer, Real, Threads, View, ViewMut, gemm};

use super::{dot, largest, sum};
use crate::{Backward, Forward, Op, Parameters, Pool, Tape, Var};

/// Query rows whose scores stand in memory at a time.
const BLOCK: usize = 64;

/// The shape of an attention layer. Inputs are rows of tokens, sequence after sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Tokens of every sequence.
    pub length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / key_heads` query heads.
    pub key_heads: usize,
    /// Numbers per head; even.
    pub width: usize,
    /// Base of the rotary angles; `None` leaves positions out.
    pub rope_theta: Option<f64>,
}

struct Attention<R: Real> {
    shape: AttentionShape,
    /// `ln sum e^score` of every head and token.
    kept: Option<Buffer<R>>,
}

/// Gradients of the query heads of a group, and of its key and value head.
type HeadGradients<R> = (Vec<Vec<R>>, Vec<R>, Vec<R>);

/// Cosines and sines: `length x width / 2` each.
struct Angles<R: Real> {
    cos: Vec<R>,
    sin: Vec<R>,
}

impl<R: Real> Angles<R> {
    /// Angles in f32, in the order in which transformers computes them, whatever `R`.
    fn new(shape: &AttentionShape) -> Option<Self> {
        let theta = shape.rope_theta?;
        let half = shape.width / 2;
        let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / shape.width as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = (0..shape.length).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (sin, cos) =
            angles.map(|a| a.sin_cos()).map(|(s, c)| (R::real(s.into()), R::real(c.into()))).unzip();
        Some(Self { cos, sin })
    }

    /// Turns row `t`, forwards or back.
    fn turn(&self, row: &mut [R], t: usize, back: bool) {
        let half = row.len() / 2;
        let (low, high) = row.split_at_mut(half);
        let range = t * half..(t + 1) * half;
        let sign = if back { -R::ONE } else { R::ONE };
        for (((low, high), cos), sin) in
            low.iter_mut().zip(high).zip(&self.cos[range.clone()]).zip(&self.sin[range])
        {
            let (a, b, sin) = (*low, *high, sign * *sin);
            *low = a * *cos - b * sin;
            *high = b * *cos + a * sin;
        }
    }
}

/// The part of a row-major matrix that belongs to one head of one sequence, copied out and turned.
fn head<R: Real>(
    x: &[R],
    stride: usize,
    column: usize,
    width: usize,
    angles: Option<&Angles<R>>,
    out: &mut Vec<R>,
) {
    out.clear();
    for (t, row) in x.chunks_exact(stride).enumerate() {
        out.extend_from_slice(&row[column..column + width]);
        if let Some(angles) = angles {
            let at = out.len() - width;
            angles.turn(&mut out[at..], t, false);
        }
    }
}

/// Buffers of one thread.
struct Work<R: Real> {
    q: Vec<R>,
    k: Vec<R>,
    v: Vec<R>,
    scores: Vec<R>,
    slopes: Vec<R>,
    dq: Vec<R>,
    dk: Vec<R>,
    dv: Vec<R>,
    out: Vec<R>,
    out_gradient: Vec<R>,
}

impl<R: Real> Work<R> {
    fn new() -> Self {
        let none = Vec::new;
        Self {
            q: none(),
            k: none(),
            v: none(),
            scores: none(),
            slopes: none(),
            dq: none(),
            dk: none(),
            dv: none(),
            out: none(),
            out_gradient: none(),
        }
    }
}

sparseland_matrix::vectorised! {
    /// `x = e^(x - top)`.
    fn exp_minus<R: Real>(x: &mut [R], top: R) {
        for v in x.iter_mut() {
            *v = (*v - top).exp();
        }
    }
    fn scale<R: Real>(factor: R, x: &mut [R]) {
        for v in x.iter_mut() {
            *v *= factor;
        }
    }
    /// `d = p * (d - along)`.
    fn score_slopes<R: Real>(p: &[R], along: R, d: &mut [R]) {
        for (d, p) in d.iter_mut().zip(p) {
            *d = *p * (*d - along);
        }
    }
}

impl AttentionShape {
    fn group(&self) -> usize {
        self.heads / self.key_heads
    }

    fn scale<R: Real>(&self) -> R {
        R::real(1.0 / (self.width as f64).sqrt())
    }
}

/// A slice that threads write at places of their own: rows of one sequence, columns of one head.
struct Columns<R: Real> {
    parts: Vec<Vec<R>>,
}

impl<R: Real> Columns<R> {
    /// Puts `length x width` blocks, sequence by sequence and head by head, at their columns of `out`, adding.
    fn place(self, out: &mut [R], length: usize, heads: usize, width: usize, add: bool) {
        let stride = heads * width;
        out.par_chunks_mut(length * stride).enumerate().for_each(|(sequence, rows)| {
            for head in 0..heads {
                let part = &self.parts[sequence * heads + head];
                for (row, part) in rows.chunks_exact_mut(stride).zip(part.chunks_exact(width)) {
                    let row = &mut row[head * width..(head + 1) * width];
                    if add {
                        row.iter_mut().zip(part).for_each(|(r, p)| *r += *p);
                    } else {
                        row.copy_from_slice(part);
                    }
                }
            }
        });
    }
}

impl<R: Real> Op<R> for Attention<R> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let shape = self.shape;
        let AttentionShape { length, heads, key_heads, width, .. } = shape;
        let (qs, ks) = (heads * width, key_heads * width);
        let [q, k, v] = on.inputs else { unreachable!("three inputs") };
        let angles = Angles::new(&shape);
        let sequences = q.len() / (length * qs);
        let mut kept = on.pool.take(sequences * heads * length);
        let parts = kept
            .par_chunks_mut(length)
            .enumerate()
            .with_max_len(1)
            .map_init(Work::new, |work, (index, kept)| {
                let (sequence, h) = (index / heads, index % heads);
                let (rows, key_rows) = (
                    sequence * length * qs..(sequence + 1) * length * qs,
                    sequence * length * ks..(sequence + 1) * length * ks,
                );
                let key_column = h / shape.group() * width;
                head(&q[rows], qs, h * width, width, angles.as_ref(), &mut work.q);
                head(&k[key_rows.clone()], ks, key_column, width, angles.as_ref(), &mut work.k);
                head(&v[key_rows], ks, key_column, width, None, &mut work.v);
                let mut out = vec![R::ZERO; length * width];
                for first in (0..length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(length);
                    work.scores(shape, first, last);
                    for (i, t) in (first..last).enumerate() {
                        let row = &mut work.scores[i * last..(i + 1) * last];
                        let (seen, unseen) = row.split_at_mut(t + 1);
                        let top = largest(seen);
                        exp_minus(seen, top);
                        let total = sum(seen);
                        scale(R::ONE / total, seen);
                        unseen.fill(R::ZERO);
                        kept[t] = top + total.ln();
                    }
                    let p = View::new(&work.scores, last - first, last);
                    let values = View::new(&work.v, last, width);
                    let out = ViewMut::new(&mut out[first * width..last * width], last - first, width);
                    gemm(Threads::One, R::ONE, p, values, R::ZERO, out);
                }
                out
            })
            .collect();
        Columns { parts }.place(on.output, length, heads, width, false);
        if on.recording {
            self.kept = Some(kept);
        } else {
            on.pool.give(kept);
        }
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let shape = self.shape;
        let AttentionShape { length, heads, key_heads, width, .. } = shape;
        let (qs, ks) = (heads * width, key_heads * width);
        let [q, k, v] = on.inputs else { unreachable!("three inputs") };
        let angles = Angles::new(&shape);
        let sequences = q.len() / (length * qs);
        let kept = self.kept.as_ref().expect("recorded");
        let group = shape.group();
        let parts: Vec<HeadGradients<R>> = (0..sequences * key_heads)
            .into_par_iter()
            .with_max_len(1)
            .map_init(Work::new, |work, index| {
                let (sequence, key_head) = (index / key_heads, index % key_heads);
                let rows = sequence * length * qs..(sequence + 1) * length * qs;
                let key_rows = sequence * length * ks..(sequence + 1) * length * ks;
                head(&k[key_rows.clone()], ks, key_head * width, width, angles.as_ref(), &mut work.k);
                head(&v[key_rows], ks, key_head * width, width, None, &mut work.v);
                for d in [&mut work.dk, &mut work.dv] {
                    d.clear();
                    d.resize(length * width, R::ZERO);
                }
                let mut queries = Vec::with_capacity(group);
                for h in key_head * group..(key_head + 1) * group {
                    head(&q[rows.clone()], qs, h * width, width, angles.as_ref(), &mut work.q);
                    head(&on.output[rows.clone()], qs, h * width, width, None, &mut work.out);
                    head(&on.gradient[rows.clone()], qs, h * width, width, None, &mut work.out_gradient);
                    let at = (sequence * heads + h) * length;
                    work.head_back(shape, &kept[at..at + length]);
                    turn_back(angles.as_ref(), &mut work.dq, width);
                    queries.push(work.dq.clone());
                }
                turn_back(angles.as_ref(), &mut work.dk, width);
                (queries, work.dk.clone(), work.dv.clone())
            })
            .collect();
        let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
        for (queries, keys, values) in parts {
            dq.extend(queries);
            dk.push(keys);
            dv.push(values);
        }
        let [gq, gk, gv] = on.gradients else { unreachable!("three inputs") };
        for (gradient, parts, heads) in [(gq, dq, heads), (gk, dk, key_heads), (gv, dv, key_heads)] {
            if let Some(gradient) = gradient {
                let (out, beta) = gradient.scaled();
                Columns { parts }.place(out, length, heads, width, beta != R::ZERO);
            }
        }
    }

    fn release(&mut self, pool: &mut Pool<R>) {
        if let Some(kept) = self.kept.take() {
            pool.give(kept);
        }
    }
}

fn turn_back<R: Real>(angles: Option<&Angles<R>>, rows: &mut [R], width: usize) {
    if let Some(angles) = angles {
        rows.chunks_exact_mut(width).enumerate().for_each(|(t, row)| angles.turn(row, t, true));
    }
}

impl<R: Real> Work<R> {
    /// Scores of the queries `first..last` against the keys `0..last`.
    fn scores(&mut self, shape: AttentionShape, first: usize, last: usize) {
        let (rows, width) = (last - first, shape.width);
        self.scores.resize(BLOCK.max(rows) * last, R::ZERO);
        let q = View::new(&self.q[first * width..last * width], rows, width);
        let k = View::new(&self.k, last, width);
        gemm(Threads::One, shape.scale(), q, k.t(), R::ZERO, ViewMut::new(&mut self.scores, rows, last));
    }

    /// Fills `dq` and adds to `dk` and `dv` for one head.
    fn head_back(&mut self, shape: AttentionShape, kept: &[R]) {
        let AttentionShape { length, width, .. } = shape;
        self.dq.clear();
        self.dq.resize(length * width, R::ZERO);
        for first in (0..length).step_by(BLOCK) {
            let last = (first + BLOCK).min(length);
            let rows = last - first;
            let range = first * width..last * width;
            self.scores(shape, first, last);
            self.slopes.resize(BLOCK.max(rows) * last, R::ZERO);
            let upstream = View::new(&self.out_gradient[range.clone()], rows, width);
            let values = View::new(&self.v, last, width);
            gemm(
                Threads::One,
                R::ONE,
                upstream,
                values.t(),
                R::ZERO,
                ViewMut::new(&mut self.slopes, rows, last),
            );
            for (i, t) in (first..last).enumerate() {
                let (p, rest) = self.scores[i * last..(i + 1) * last].split_at_mut(t + 1);
                exp_minus(p, kept[t]);
                rest.fill(R::ZERO);
                let row = t * width..(t + 1) * width;
                let along = dot(&self.out[row.clone()], &self.out_gradient[row]);
                let (d, rest) = self.slopes[i * last..(i + 1) * last].split_at_mut(t + 1);
                score_slopes(p, along, d);
                rest.fill(R::ZERO);
            }
            let (p, d) = (View::new(&self.scores, rows, last), View::new(&self.slopes, rows, last));
            let (q, k) = (View::new(&self.q[range.clone()], rows, width), View::new(&self.k, last, width));
            let dv = ViewMut::new(&mut self.dv, last, width);
            gemm(Threads::One, R::ONE, p.t(), upstream, R::ONE, dv);
            let dk = ViewMut::new(&mut self.dk, last, width);
            gemm(Threads::One, shape.scale(), d.t(), q, R::ONE, dk);
            let dq = ViewMut::new(&mut self.dq[range], rows, width);
            gemm(Threads::One, shape.scale(), d, k, R::ZERO, dq);
        }
    }
}

impl<R: Real> Tape<R> {
    /// Causal attention of each sequence: `q: tokens x (heads * width)`, `k` and `v: tokens x (key_heads * width)`;
    /// the output is like `q`. Memory grows with the tokens, not with their square.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn attention(
        &mut self,
        parameters: &Parameters<R>,
        q: Var,
        k: Var,
        v: Var,
        shape: AttentionShape,
    ) -> Var {
        let (tokens, cols) = self.shape(q);
        let AttentionShape { length, heads, key_heads, width, .. } = shape;
        assert!(length > 0 && tokens.is_multiple_of(length), "{tokens} tokens are no whole sequences");
        assert!(key_heads > 0 && heads.is_multiple_of(key_heads), "heads are no multiple of key heads");
        assert!(cols == heads * width && width.is_multiple_of(2), "queries do not fit the heads");
        for other in [k, v] {
            assert_eq!(self.shape(other), (tokens, key_heads * width), "keys or values do not fit");
        }
        self.push(parameters, Attention { shape, kept: None }, &[q, k, v], tokens, cols)
    }
}
