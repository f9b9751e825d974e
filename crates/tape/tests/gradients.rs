//! Every operation's way back against central differences, in f64.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_matrix::{Bitmask, Csr, Dense, LinearMap, Matrix, Pattern, Product, Sum, ValueType};
use sparseland_tape::check::gradient_error;
use sparseland_tape::weight::FixedStructure;
use sparseland_tape::{
    Activation, AttentionShape, BatchStatistics, ConvShape, IGNORED, Masked, Parameters, Parametrisation,
    PatchShape, PoolShape, Tape, Var,
};

type Input = (usize, usize, Vec<f64>);

fn numbers(n: usize, rng: &mut Pcg64) -> Vec<f64> {
    (0..n).map(|_| rng.random::<f64>() * 2.0 - 1.0).collect()
}

fn input(rows: usize, cols: usize, rng: &mut Pcg64) -> Input {
    (rows, cols, numbers(rows * cols, rng))
}

/// A loss that weighs every number of a value differently.
fn weigh(tape: &mut Tape<f64>, p: &Parameters<f64>, x: Var) -> Var {
    let (rows, cols) = tape.shape(x);
    let weights: Vec<f64> = (0..rows * cols).map(|i| ((i * 29 + 7) % 17) as f64 / 8.0 - 1.0).collect();
    let w = tape.input(rows, cols, &weights);
    let product = tape.mul(p, x, w);
    tape.sum(p, product)
}

fn check(
    name: &str,
    mut parameters: Parameters<f64>,
    inputs: &[Input],
    loss: impl Fn(&mut Tape<f64>, &Parameters<f64>, &[Var]) -> Var,
) {
    let error = gradient_error(&mut parameters, inputs, loss);
    assert!(error < 1e-5, "{name}: {error:e}");
}

fn rng() -> Pcg64 {
    Pcg64::seed_from_u64(5)
}

#[test]
fn products() {
    let mut rng = rng();
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[5, 4], 1.0, &mut rng);
    let b = p.add_normal("b", &[5], 1.0, &mut rng);
    check("linear", p, &[input(3, 4, &mut rng)], |t, p, x| {
        let y = t.linear(p, x[0], w, Some(b));
        let y = t.bias(p, y, b);
        weigh(t, p, y)
    });
    check("matmul", Parameters::new(), &[input(3, 4, &mut rng), input(4, 2, &mut rng)], |t, p, x| {
        let y = t.matmul(p, x[0], x[1]);
        weigh(t, p, y)
    });
    // The square of a value: one input at two places.
    check("matmul of itself", Parameters::new(), &[input(3, 3, &mut rng)], |t, p, x| {
        let y = t.matmul(p, x[0], x[0]);
        weigh(t, p, y)
    });
}

#[test]
fn activations_and_pairs() {
    let mut rng = rng();
    for kind in [
        Activation::Relu,
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softplus,
    ] {
        // Away from the kink of the rectifier.
        let mut x = input(4, 9, &mut rng);
        x.2.iter_mut().for_each(|v| *v = 3.0 * (*v + 0.01 * v.signum()));
        check(&format!("{kind:?}"), Parameters::new(), &[x], |t, p, x| {
            let y = t.activation(p, x[0], kind);
            weigh(t, p, y)
        });
    }
    let pair = [input(3, 5, &mut rng), input(3, 5, &mut rng)];
    check("pairs", Parameters::new(), &pair, |t, p, x| {
        let sum = t.add(p, x[0], x[1]);
        let difference = t.sub(p, sum, x[1]);
        let scaled = t.scale(p, difference, 1.5);
        let product = t.mul(p, scaled, x[1]);
        let twice = t.add(p, product, product);
        weigh(t, p, twice)
    });
    check("swiglu", Parameters::new(), &pair, |t, p, x| {
        let y = t.swiglu(p, x[0], x[1]);
        weigh(t, p, y)
    });
}

#[test]
fn norms() {
    let mut rng = rng();
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[7], 1.0, &mut rng);
    let b = p.add_normal("b", &[7], 1.0, &mut rng);
    let x = [input(4, 7, &mut rng)];
    check("rms norm", p.clone(), &x, |t, p, x| {
        let y = t.rms_norm(p, x[0], w, 1e-5);
        weigh(t, p, y)
    });
    check("layer norm", p, &x, |t, p, x| {
        let y = t.layer_norm(p, x[0], w, b, 1e-5);
        weigh(t, p, y)
    });
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[3], 1.0, &mut rng);
    let b = p.add_normal("b", &[3], 1.0, &mut rng);
    for momentum in [Some(0.1), None] {
        check(&format!("batch norm {momentum:?}"), p.clone(), &[input(4, 6, &mut rng)], |t, p, x| {
            let mut running = BatchStatistics { mean: vec![0.1, -0.2, 0.3], variance: vec![0.5, 1.5, 2.0] };
            let y = t.batch_norm(p, x[0], (w, b), &mut running, momentum, 1e-5);
            weigh(t, p, y)
        });
    }
}

#[test]
fn batch_statistics_move_towards_the_batch() {
    let mut p = Parameters::<f64>::new();
    let (w, b) = (p.add("w", &[1], &[1.0]), p.add("b", &[1], &[0.0]));
    let mut running = BatchStatistics::new(1);
    let mut tape = Tape::new();
    let x = tape.input(2, 2, &[1.0, 2.0, 3.0, 6.0]);
    tape.batch_norm(&p, x, (w, b), &mut running, Some(0.5), 0.0);
    // Mean 3; unbiased variance 14/3.
    assert!((running.mean[0] - 1.5).abs() < 1e-12);
    assert!((running.variance[0] - (0.5 + 7.0 / 3.0)).abs() < 1e-12);
}

#[test]
fn tables() {
    let mut rng = rng();
    let mut p = Parameters::new();
    let table = p.add_normal("table", &[6, 3], 1.0, &mut rng);
    check("embedding", p, &[], |t, p, _| {
        let y = t.embedding(p, table, &[4, 0, 4, 5, 4]);
        weigh(t, p, y)
    });
    check("gather and scatter", Parameters::new(), &[input(4, 3, &mut rng)], |t, p, x| {
        let rows = t.gather(p, x[0], &[3, 1, 3]);
        let sums = t.scatter(p, rows, &[2, 0, 2], 4);
        weigh(t, p, sums)
    });
}

#[test]
fn reductions_and_losses() {
    let mut rng = rng();
    let x = [input(4, 5, &mut rng)];
    check("mean and softmax", Parameters::new(), &x, |t, p, x| {
        let y = t.softmax(p, x[0]);
        let y = weigh(t, p, y);
        let mean = t.mean(p, x[0]);
        t.add(p, y, mean)
    });
    let targets = [3, IGNORED, 0, 4];
    check("cross entropy", Parameters::new(), &x, |t, p, x| t.cross_entropy(p, x[0], &targets));
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[6, 5], 1.0, &mut rng);
    check("linear cross entropy", p, &x, |t, p, x| t.linear_cross_entropy(p, x[0], w, &targets));
    let goal = numbers(20, &mut rng);
    check("mean square", Parameters::new(), &x, |t, p, x| t.mean_square(p, x[0], &goal));
    let goal: Vec<f64> = goal.iter().map(|v| v.abs()).collect();
    check("binary cross entropy", Parameters::new(), &x, |t, p, x| t.binary_cross_entropy(p, x[0], &goal));
}

#[test]
fn the_fused_loss_equals_the_plain_one_over_several_pieces() {
    let mut rng = rng();
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[11, 4], 1.0, &mut rng);
    let (_, _, x) = input(700, 4, &mut rng);
    let targets: Vec<u32> = (0..700).map(|i| if i % 9 == 0 { IGNORED } else { i * 5 % 11 }).collect();
    let mut run = |fused: bool| {
        let mut tape = Tape::new();
        p.zero_gradients();
        let x = tape.variable(700, 4, &x);
        let loss = if fused {
            tape.linear_cross_entropy(&p, x, w, &targets)
        } else {
            let logits = tape.linear(&p, x, w, None);
            tape.cross_entropy(&p, logits, &targets)
        };
        let value = tape.value(loss)[0];
        tape.backward(loss, &mut p);
        (value, tape.gradient(x).unwrap().to_vec(), p.gradient(w).to_vec())
    };
    let (fused, plain) = (run(true), run(false));
    assert!((fused.0 - plain.0).abs() < 1e-12);
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&fused.1, &plain.1) && close(&fused.2, &plain.2));
}

/// Attention written out.
fn plain_attention(q: &[f64], k: &[f64], v: &[f64], s: AttentionShape) -> Vec<f64> {
    let (qs, ks) = (s.heads * s.width, s.key_heads * s.width);
    let turned = |x: &[f64], row: usize, column: usize, t: usize| -> Vec<f64> {
        let x = &x[row + column..row + column + s.width];
        let Some(theta) = s.rope_theta else { return x.to_vec() };
        let half = s.width / 2;
        (0..s.width)
            .map(|i| {
                let angle = t as f64 / theta.powf((i % half * 2) as f64 / s.width as f64);
                if i < half {
                    x[i] * angle.cos() - x[i + half] * angle.sin()
                } else {
                    x[i] * angle.cos() + x[i - half] * angle.sin()
                }
            })
            .collect()
    };
    let mut out = vec![0.0; q.len()];
    for first in (0..q.len() / qs).step_by(s.length) {
        for h in 0..s.heads {
            let key_column = h / (s.heads / s.key_heads) * s.width;
            for t in 0..s.length {
                let query = turned(q, (first + t) * qs, h * s.width, t);
                let score = |u: usize| {
                    let key = turned(k, (first + u) * ks, key_column, u);
                    let dot: f64 = query.iter().zip(&key).map(|(a, b)| a * b).sum();
                    (dot / (s.width as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=t).map(score).collect();
                let total: f64 = scores.iter().sum();
                for i in 0..s.width {
                    let value = |u: usize| scores[u] / total * v[(first + u) * ks + key_column + i];
                    out[(first + t) * qs + h * s.width + i] = (0..=t).map(value).sum();
                }
            }
        }
    }
    out
}

#[test]
fn attention() {
    let mut rng = rng();
    for (length, heads, key_heads, width, rope_theta) in
        [(5, 4, 2, 2, Some(100.0)), (3, 2, 2, 4, None), (6, 3, 1, 2, Some(10_000.0))]
    {
        let shape = AttentionShape { length, heads, key_heads, width, rope_theta };
        let tokens = 2 * length;
        let mut inputs = [heads, key_heads, key_heads].map(|h| input(tokens, h * width, &mut rng));
        inputs[0].2.iter_mut().for_each(|v| *v *= 3.0);
        check(&format!("{shape:?}"), Parameters::new(), &inputs, |t, p, x| {
            let y = t.attention(p, x[0], x[1], x[2], shape);
            weigh(t, p, y)
        });
    }
    // Several blocks of queries.
    let shape = AttentionShape { length: 150, heads: 2, key_heads: 1, width: 4, rope_theta: Some(50.0) };
    let inputs = [2, 1, 1].map(|h| input(300, h * 4, &mut rng));
    let mut tape = Tape::new();
    let vars: Vec<Var> = inputs.iter().map(|(r, c, v)| tape.input(*r, *c, v)).collect();
    let out = tape.attention(&Parameters::new(), vars[0], vars[1], vars[2], shape);
    let plain = plain_attention(&inputs[0].2, &inputs[1].2, &inputs[2].2, shape);
    // Angles are computed in f32.
    assert!(tape.value(out).iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn gradients_of_long_attention() {
    // Two blocks of queries; a few entries by differences would take long in full.
    let mut rng = rng();
    let shape = AttentionShape { length: 70, heads: 1, key_heads: 1, width: 2, rope_theta: Some(50.0) };
    let inputs = [1, 1, 1].map(|h| input(70, h * 2, &mut rng));
    check("long attention", Parameters::new(), &inputs, |t, p, x| {
        let y = t.attention(p, x[0], x[1], x[2], shape);
        weigh(t, p, y)
    });
}

#[test]
fn images() {
    let mut rng = rng();
    for (kernel, stride, padding) in [(3, 1, 1), (2, 2, 0), (3, 2, 1), (1, 1, 0), (5, 3, 2)] {
        let shape = ConvShape { channels: 2, height: 5, width: 6, kernel, stride, padding };
        let mut p = Parameters::new();
        let w = p.add_normal("w", &[3, shape.fan_in()], 1.0, &mut rng);
        let b = p.add_normal("b", &[3], 1.0, &mut rng);
        let x = [input(2, 60, &mut rng)];
        let (height, width) = shape.output();
        let mut tape = Tape::new();
        let v = tape.input(2, 60, &x[0].2);
        let y = tape.convolution(&p, v, w, Some(b), shape);
        // Written out.
        for image in 0..2 {
            for o in 0..3 {
                for i in 0..height {
                    for j in 0..width {
                        let mut sum = p.value(b)[o];
                        for c in 0..2 {
                            for (di, dj) in (0..kernel * kernel).map(|k| (k / kernel, k % kernel)) {
                                let (r, s) = (i * stride + di, j * stride + dj);
                                if r >= padding && r < 5 + padding && s >= padding && s < 6 + padding {
                                    let at = (c * 5 + r - padding) * 6 + s - padding;
                                    let k = (c * kernel + di) * kernel + dj;
                                    sum += p.value(w)[o * shape.fan_in() + k] * x[0].2[image * 60 + at];
                                }
                            }
                        }
                        let found = tape.value(y)[((image * 3 + o) * height + i) * width + j];
                        assert!((found - sum).abs() < 1e-12, "{shape:?}");
                    }
                }
            }
        }
        check(&format!("{shape:?}"), p, &x, |t, p, x| {
            let y = t.convolution(p, x[0], w, Some(b), shape);
            weigh(t, p, y)
        });
    }
    let shape = PoolShape { channels: 2, height: 5, width: 4, window: 2 };
    let x = [input(3, 40, &mut rng)];
    check("max pool", Parameters::new(), &x, |t, p, x| {
        let y = t.max_pool(p, x[0], shape);
        weigh(t, p, y)
    });
    check("mean pool", Parameters::new(), &x, |t, p, x| {
        let y = t.mean_pool(p, x[0], shape);
        weigh(t, p, y)
    });
}

#[test]
fn dropout_keeps_its_share_and_its_mean() {
    let mut rng = rng();
    check("dropout", Parameters::new(), &[input(4, 5, &mut rng)], |t, p, x| {
        let y = t.dropout(p, x[0], 0.4, 9);
        let z = t.dropout(p, y, 0.0, 9);
        weigh(t, p, z)
    });
    let mut tape = Tape::<f64>::new();
    let x = tape.input(100, 100, &[1.0; 10_000]);
    let y = tape.dropout(&Parameters::new(), x, 0.25, 3);
    let kept = tape.value(y).iter().filter(|&&v| v != 0.0).count();
    // Four standard deviations of a binomial.
    assert!((kept as f64 - 7_500.0).abs() < 4.0 * (10_000.0 * 0.25 * 0.75f64).sqrt());
    assert!(tape.value(y).iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-12));
}

fn sparse_numbers(n: usize, rng: &mut Pcg64) -> Vec<f32> {
    (0..n).map(|_| if rng.random_bool(0.4) { rng.random::<f32>() - 0.5 } else { 0.0 }).collect()
}

#[test]
fn sparse_weights() {
    let mut rng = rng();
    let entries: Vec<(usize, usize)> = (0..30).filter(|i| i % 3 != 1).map(|i| (i / 6, i % 6)).collect();
    let pattern = Arc::new(Pattern::new(5, 6, &entries).unwrap());
    let mut p = Parameters::new();
    let values = p.add_normal("values", &[entries.len()], 1.0, &mut rng);
    check("sparse linear", p, &[input(4, 6, &mut rng)], |t, p, x| {
        let y = t.sparse_linear(p, x[0], &pattern, values);
        let y = t.activation(p, y, Activation::Tanh);
        let y = t.add_sparse_linear(p, x[0], y, &pattern, values);
        weigh(t, p, y)
    });
    let sparse = |rows, cols, rng: &mut Pcg64| {
        Csr::from_dense(rows, cols, &sparse_numbers(rows * cols, rng), ValueType::F32)
    };
    let dictionary: Vec<f32> = numbers(15, &mut rng).iter().map(|&v| v as f32).collect();
    let product = Product::new(sparse(7, 3, &mut rng), Dense::from_f32(3, 5, &dictionary, ValueType::F32));
    let mask = Bitmask::from_dense(7, 5, &sparse_numbers(35, &mut rng), ValueType::F32);
    let matrix = Matrix::from(Sum::new(vec![product.into(), mask.into()]));
    let mut p = Parameters::new();
    let weight = FixedStructure::new(&mut p, "w", &matrix).unwrap();
    check("fixed structure", p.clone(), &[input(4, 5, &mut rng)], |t, p, x| {
        let y = weight.apply(t, p, x[0]);
        weigh(t, p, y)
    });
    // As used, it is the matrix, and its export has the same structure.
    let export = weight.export(&p, ValueType::F32);
    assert_eq!(export.layout(), matrix.layout());
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&export.to_dense(), &matrix.to_dense()));
}

#[test]
fn patches_and_masks() {
    let mut rng = rng();
    let shape = PatchShape { height: 4, width: 5, channels: 2, side: 3, stride: 1, padding: 1 };
    let pool = PatchShape { side: 2, stride: 2, padding: 0, channels: 3, ..shape };
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[3, shape.patch_len()], 1.0, &mut rng);
    let x = [input(2, 40, &mut rng)];
    check("patches", p.clone(), &x, |t, p, x| {
        let rows = t.patches(p, x[0], shape);
        let y = t.linear(p, rows, w, None);
        let y = t.max_pool_last(p, y, pool);
        weigh(t, p, y)
    });
    // The same convolution with channels first.
    let first = ConvShape { channels: 2, height: 4, width: 5, kernel: 3, stride: 1, padding: 1 };
    let reorder = |v: &[f64], inner: usize, outer: usize| -> Vec<f64> {
        (0..outer).flat_map(|o| (0..inner).map(move |i| v[i * outer + o])).collect()
    };
    let images: Vec<f64> = x[0].2.chunks(40).flat_map(|image| reorder(image, 20, 2)).collect();
    let kernels: Vec<f64> = p.value(w).chunks(18).flat_map(|kernel| reorder(kernel, 9, 2)).collect();
    let mut q = Parameters::new();
    let kernels = q.add("w", &[3, 18], &kernels);
    let mut tape = Tape::new();
    let a = tape.input(2, 40, &images);
    let a = tape.convolution(&q, a, kernels, None, first);
    let b = tape.input(2, 40, &x[0].2);
    let b = tape.patches(&p, b, shape);
    let b = tape.linear(&p, b, w, None);
    let b: Vec<f64> = tape.value(b).chunks(60).flat_map(|image| reorder(image, 20, 3)).collect();
    assert!(tape.value(a).iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12));

    // Straight through: the gradient of the used weight, given to every entry.
    let mut p = Parameters::new();
    let w = p.add_normal("w", &[3, 4], 1.0, &mut rng);
    let mask: Vec<bool> = (0..12).map(|i| i % 3 != 0).collect();
    let used: Vec<f64> = p.value(w).iter().zip(&mask).map(|(w, &m)| if m { *w } else { 0.0 }).collect();
    let mut q = Parameters::new();
    let dense = q.add("w", &[3, 4], &used);
    let masked = Arc::new(Masked { mask, packed: None });
    let x = input(5, 4, &mut rng);
    let mut tape = Tape::new();
    let v = tape.variable(5, 4, &x.2);
    let y = tape.masked_linear(&p, v, w, &masked);
    let loss = weigh(&mut tape, &p, y);
    tape.backward(loss, &mut p);
    let mut other = Tape::new();
    let u = other.variable(5, 4, &x.2);
    let y = other.linear(&q, u, dense, None);
    let loss = weigh(&mut other, &q, y);
    other.backward(loss, &mut q);
    assert_eq!(p.gradient(w), q.gradient(dense));
    assert_eq!(tape.gradient(v), other.gradient(u));
}
