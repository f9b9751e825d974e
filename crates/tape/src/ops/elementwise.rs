//! Sums, products and activations, number by number.

use sparseland_matrix::Real;

use super::{pieces, pieces2};
use crate::{Backward, Forward, Op, Parameters, Tape, Var};

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`; derivative 0 at 0.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`.
    Softplus,
}

const GELU: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

/// The derivative of the GELU's tanh form.
#[inline(always)]
fn gelu_slope<R: Real>(x: R) -> R {
    let (c, a) = (R::real(GELU.0), R::real(GELU.1));
    let half = R::real(0.5);
    let t = (c * (x + a * x * x * x)).tanh();
    half * (R::ONE + t) + half * x * (R::ONE - t * t) * c * (R::ONE + R::real(3.0) * a * x * x)
}

sparseland_matrix::vectorised! {
    fn relu<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            // NaN stays NaN.
            *y = if *x < R::ZERO { R::ZERO } else { *x };
        }
    }
    fn silu<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x * x.sigmoid();
        }
    }
    fn gelu<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            let x = *x;
            let t = (R::real(GELU.0) * (x + R::real(GELU.1) * x * x * x)).tanh();
            *y = R::real(0.5) * x * (R::ONE + t);
        }
    }
    fn sigmoid<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.sigmoid();
        }
    }
    fn tanh<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.tanh();
        }
    }
    fn softplus<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.larger(R::ZERO) + (R::ONE + (-x.abs()).exp()).ln();
        }
    }
    /// `dx += dy * slope(x)`.
    fn activation_back<R: Real>(kind: Activation, x: &[R], dy: &[R], dx: &mut [R]) {
        let items = dx.iter_mut().zip(x).zip(dy);
        match kind {
            Activation::Relu => items.for_each(|((d, x), g)| *d += if *x > R::ZERO { *g } else { R::ZERO }),
            Activation::Silu => items.for_each(|((d, x), g)| {
                let s = x.sigmoid();
                *d += *g * s * (R::ONE + *x * (R::ONE - s));
            }),
            Activation::GeluTanh => items.for_each(|((d, x), g)| *d += *g * gelu_slope(*x)),
            Activation::Sigmoid => items.for_each(|((d, x), g)| {
                let s = x.sigmoid();
                *d += *g * s * (R::ONE - s);
            }),
            Activation::Tanh => items.for_each(|((d, x), g)| {
                let t = x.tanh();
                *d += *g * (R::ONE - t * t);
            }),
            Activation::Softplus => items.for_each(|((d, x), g)| *d += *g * x.sigmoid()),
        }
    }
    fn sum<R: Real>(a: &[R], b: &[R], y: &mut [R]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = *a + *b;
        }
    }
    fn difference<R: Real>(a: &[R], b: &[R], y: &mut [R]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = *a - *b;
        }
    }
    fn product<R: Real>(a: &[R], b: &[R], y: &mut [R]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = *a * *b;
        }
    }
    /// `d += a * b`.
    fn add_product<R: Real>(a: &[R], b: &[R], d: &mut [R]) {
        for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
            *d += *a * *b;
        }
    }
    fn subtract<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y -= *x;
        }
    }
    /// `y = silu(gate) * up`.
    fn swiglu<R: Real>(gate: &[R], up: &[R], y: &mut [R]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = *g * g.sigmoid() * *u;
        }
    }
    /// `d = dy * up * slope(gate)`.
    fn swiglu_gate_back<R: Real>(gate: &[R], up: &[R], dy: &[R], d: &mut [R], beta: R) {
        for (((d, g), u), dy) in d.iter_mut().zip(gate).zip(up).zip(dy) {
            let s = g.sigmoid();
            let old = if beta == R::ZERO { R::ZERO } else { *d };
            *d = old + *dy * *u * s * (R::ONE + *g * (R::ONE - s));
        }
    }
    /// `d = dy * silu(gate)`.
    fn swiglu_up_back<R: Real>(gate: &[R], dy: &[R], d: &mut [R], beta: R) {
        for ((d, g), dy) in d.iter_mut().zip(gate).zip(dy) {
            let old = if beta == R::ZERO { R::ZERO } else { *d };
            *d = old + *dy * *g * g.sigmoid();
        }
    }
}

struct Activate(Activation);

impl<R: Real> Op<R> for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let f = match self.0 {
            Activation::Relu => relu,
            Activation::Silu => silu,
            Activation::GeluTanh => gelu,
            Activation::Sigmoid => sigmoid,
            Activation::Tanh => tanh,
            Activation::Softplus => softplus,
        };
        pieces(on.inputs[0], on.output, f);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let kind = self.0;
            pieces2(on.inputs[0], on.gradient, dx.add(), |x, dy, dx| activation_back(kind, x, dy, dx));
        }
    }
}

#[derive(Clone, Copy)]
enum Pair {
    Add,
    Sub,
    Mul,
}

impl<R: Real> Op<R> for Pair {
    fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
        }
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let f = match self {
            Self::Add => sum,
            Self::Sub => difference,
            Self::Mul => product,
        };
        pieces2(on.inputs[0], on.inputs[1], on.output, f);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let [da, db] = on.gradients else { unreachable!("two inputs") };
        match self {
            Self::Add | Self::Sub => {
                if let Some(da) = da {
                    da.accumulate(on.gradient);
                }
                match db {
                    Some(db) if matches!(self, Self::Add) => db.accumulate(on.gradient),
                    Some(db) => pieces(on.gradient, db.add(), subtract),
                    None => {}
                }
            }
            Self::Mul => {
                if let Some(da) = da {
                    pieces2(on.inputs[1], on.gradient, da.add(), add_product);
                }
                if let Some(db) = db {
                    pieces2(on.inputs[0], on.gradient, db.add(), add_product);
                }
            }
        }
    }
}

struct Scale<R>(R);

impl<R: Real> Op<R> for Scale<R> {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let a = self.0;
        pieces(on.inputs[0], on.output, |x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = a * *x));
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let a = self.0;
            pieces(on.gradient, dx.add(), |dy, dx| super::add_scaled(a, dy, dx));
        }
    }
}

/// `silu(gate) * up`.
struct SwiGlu;

impl<R: Real> Op<R> for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        pieces2(on.inputs[0], on.inputs[1], on.output, swiglu);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        use rayon::prelude::*;
        const PIECE: usize = super::PIECE;
        let (gate, up, dy) = (on.inputs[0], on.inputs[1], on.gradient);
        let [dg, du] = on.gradients else { unreachable!("two inputs") };
        if let Some(dg) = dg {
            let (dg, beta) = dg.scaled();
            let inputs = gate.par_chunks(PIECE).zip(up.par_chunks(PIECE)).zip(dy.par_chunks(PIECE));
            dg.par_chunks_mut(PIECE)
                .zip(inputs)
                .for_each(|(d, ((g, u), dy))| swiglu_gate_back(g, u, dy, d, beta));
        }
        if let Some(du) = du {
            let (du, beta) = du.scaled();
            pieces2(gate, dy, du, |g, dy, d| swiglu_up_back(g, dy, d, beta));
        }
    }
}

impl<R: Real> Tape<R> {
    fn pair(&mut self, parameters: &Parameters<R>, kind: Pair, a: Var, b: Var) -> Var {
        let (rows, cols) = self.shape(a);
        assert_eq!((rows, cols), self.shape(b), "shapes differ");
        self.push(parameters, kind, &[a, b], rows, cols)
    }

    /// `a + b`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add(&mut self, parameters: &Parameters<R>, a: Var, b: Var) -> Var {
        self.pair(parameters, Pair::Add, a, b)
    }

    /// `a - b`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn sub(&mut self, parameters: &Parameters<R>, a: Var, b: Var) -> Var {
        self.pair(parameters, Pair::Sub, a, b)
    }

    /// `a * b`, number by number.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn mul(&mut self, parameters: &Parameters<R>, a: Var, b: Var) -> Var {
        self.pair(parameters, Pair::Mul, a, b)
    }

    /// `factor * x`.
    pub fn scale(&mut self, parameters: &Parameters<R>, x: Var, factor: R) -> Var {
        let (rows, cols) = self.shape(x);
        self.push(parameters, Scale(factor), &[x], rows, cols)
    }

    /// A function of every number.
    pub fn activation(&mut self, parameters: &Parameters<R>, x: Var, kind: Activation) -> Var {
        let (rows, cols) = self.shape(x);
        self.push(parameters, Activate(kind), &[x], rows, cols)
    }

    /// `silu(gate) * up`: the gate of a Llama's MLP.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn swiglu(&mut self, parameters: &Parameters<R>, gate: Var, up: Var) -> Var {
        let (rows, cols) = self.shape(gate);
        assert_eq!((rows, cols), self.shape(up), "shapes differ");
        self.push(parameters, SwiGlu, &[gate, up], rows, cols)
    }
}
