//! Finite differences: whether an operation's way back belongs to its way forward.

use crate::{Parameters, Tape, Var};

/// The step of the central difference; its error is of the order of its square.
const STEP: f64 = 1e-5;

/// The largest relative difference between the gradients of `loss` and central differences, over the entries of all
/// inputs and parameters, relative to the larger of 1 and the entry.
///
/// `loss` records a value of one number from the inputs. It runs twice per entry: keep shapes small.
///
/// # Panics
/// If `loss` does.
pub fn gradient_error(
    parameters: &mut Parameters<f64>,
    inputs: &[(usize, usize, Vec<f64>)],
    loss: impl Fn(&mut Tape<f64>, &Parameters<f64>, &[Var]) -> Var,
) -> f64 {
    let run = |parameters: &mut Parameters<f64>, inputs: &[(usize, usize, Vec<f64>)], back: bool| {
        let mut tape = Tape::new();
        let vars: Vec<Var> = inputs.iter().map(|(r, c, v)| tape.variable(*r, *c, v)).collect();
        let out = loss(&mut tape, parameters, &vars);
        let value = tape.value(out)[0];
        let mut gradients = Vec::new();
        if back {
            parameters.zero_gradients();
            tape.backward(out, parameters);
            let gradient = |(var, input): (&Var, &(usize, usize, Vec<f64>))| {
                tape.gradient(*var).map_or(vec![0.0; input.2.len()], <[f64]>::to_vec)
            };
            gradients = vars.iter().zip(inputs).map(gradient).collect();
        }
        (value, gradients)
    };
    let (_, by_inputs) = run(parameters, inputs, true);
    let by_parameters: Vec<Vec<f64>> = parameters.iter().map(|p| p.gradient.to_vec()).collect();
    let mut worst = 0.0f64;
    let mut compare = |plus: f64, minus: f64, found: f64| {
        let want = (plus - minus) / (2.0 * STEP);
        let error = (want - found).abs() / want.abs().max(1.0);
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
    };
    let mut inputs = inputs.to_vec();
    for which in 0..inputs.len() {
        for i in 0..inputs[which].2.len() {
            let start = inputs[which].2[i];
            inputs[which].2[i] = start + STEP;
            let plus = run(parameters, &inputs, false).0;
            inputs[which].2[i] = start - STEP;
            let minus = run(parameters, &inputs, false).0;
            inputs[which].2[i] = start;
            compare(plus, minus, by_inputs[which][i]);
        }
    }
    for (id, found) in parameters.ids().zip(&by_parameters) {
        for i in 0..found.len() {
            let start = parameters.value(id)[i];
            parameters.value_mut(id)[i] = start + STEP;
            let plus = run(parameters, &inputs, false).0;
            parameters.value_mut(id)[i] = start - STEP;
            let minus = run(parameters, &inputs, false).0;
            parameters.value_mut(id)[i] = start;
            compare(plus, minus, found[i]);
        }
    }
    worst
}
