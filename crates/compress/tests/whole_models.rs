//! Methods on a whole (tiny) model: Fisher information against finite differences, WeLore's plan through the pipeline and
//! back from the checkpoint.

use std::path::PathBuf;

use sparseland_compress::calibrate::Calibration;
use sparseland_compress::methods::fwsvd::{Axis, Fisher, Fwsvd};
use sparseland_compress::methods::welore::{
    Class, LRC_CUT, Normalise, Spectra, Target, Welore, low_rank_layers,
};
use sparseland_compress::pipeline::Job;
use sparseland_core::Context;
use sparseland_data::{Checkpoint, DType, TensorSource, TensorSpec, TensorWriter};
use sparseland_linalg::{Mat, svd_values};
use sparseland_matrix::LinearMap;
use sparseland_nn::structure::Structure;
use sparseland_nn::{ModelConfig, TrainableDecoder};
use sparseland_tape::weight::{DenseWeight, from_f32};
use sparseland_tape::{IGNORED, Tape};

fn checkpoint() -> Checkpoint {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama-bias");
    Checkpoint::open(dir).unwrap()
}

fn sequences() -> Vec<Vec<u32>> {
    vec![(0..20).map(|i| (i * 7 + 3) % 64).collect(), (0..9).map(|i| (i * 5 + 1) % 64).collect()]
}

#[test]
fn fisher_information_is_the_mean_square_of_single_gradients() {
    let checkpoint = checkpoint();
    let context = Context::new(0, 2).unwrap();
    let found =
        Fisher::measure(&checkpoint, &Calibration { sequences: sequences() }, Axis::Kronecker, &context)
            .unwrap();
    let mut model = TrainableDecoder::<f64>::from_checkpoint(&checkpoint, |parameters, name, matrix| {
        let shape = [matrix.rows(), matrix.cols()];
        let id = parameters.add(format!("{name}.weight"), &shape, &from_f32::<f64>(&matrix.to_dense()));
        Ok(Box::new(DenseWeight::new(parameters, id)))
    })
    .unwrap();
    // The negative log-likelihood of a sequence.
    let loss = |model: &TrainableDecoder<f64>, s: &[u32]| {
        let mut tape = Tape::new();
        tape.set_recording(false);
        let targets: Vec<u32> = s[1..].iter().copied().chain([IGNORED]).collect();
        let loss = model.loss(&mut tape, s, &targets, s.len());
        tape.value(loss)[0] * (s.len() - 1) as f64
    };
    for (layer, input, output) in
        [("model.layers.0.self_attn.q_proj", 5, 9), ("model.layers.1.mlp.down_proj", 3, 17)]
    {
        let linear = model.linears().find(|l| l.name == layer).unwrap();
        let (rows, cols) = linear.weight.shape();
        let id = linear.weight.parameters()[0];
        let mut squared = |places: Vec<usize>| -> f64 {
            let mut sum = 0.0;
            for place in places {
                for s in sequences() {
                    let mut at = |step: f64| {
                        model.parameters.value_mut(id)[place] += step;
                        let found = loss(&model, &s);
                        model.parameters.value_mut(id)[place] -= step;
                        found
                    };
                    sum += ((at(1e-5) - at(-1e-5)) / 2e-5).powi(2) / 2.0;
                }
            }
            sum
        };
        let by_input = squared((0..rows).map(|o| o * cols + input).collect());
        let by_output = squared((0..cols).map(|i| output * cols + i).collect());
        let sums = found.layer(layer, cols, rows).unwrap();
        // Correlations: their diagonals are the sums, their entries symmetric and bounded by them.
        let full = sums.correlations.as_ref().unwrap();
        for (m, diagonal) in [(&full.inputs, &sums.inputs), (&full.outputs, &sums.outputs)] {
            for (i, d) in diagonal.iter().enumerate() {
                assert!((m.at(i, i) - d).abs() <= 1e-9 * d.abs(), "{} {d}", m.at(i, i));
                let bounded = |j: usize| m.at(i, j).powi(2) <= m.at(i, i) * m.at(j, j) * (1.0 + 1e-9) + 1e-30;
                assert!((0..m.rows).all(|j| m.at(i, j) == m.at(j, i) && bounded(j)));
            }
        }
        assert!((sums.inputs[input] / by_input - 1.0).abs() < 1e-3, "{} {by_input}", sums.inputs[input]);
        assert!(
            (sums.outputs[output] / by_output - 1.0).abs() < 1e-3,
            "{} {by_output}",
            sums.outputs[output]
        );
    }
}

#[test]
fn fisher_information_is_kept_for_the_same_model_and_text_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("work/fisher.safetensors");
    let context = Context::new(0, 1).unwrap();
    let text = |n: usize| Calibration { sequences: sequences()[..n].to_vec() };
    let one = Fisher::cached(&checkpoint(), &text(1), Axis::Input, &path, &context).unwrap();
    assert_eq!(one, Fisher::load(&path).unwrap());
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(one, Fisher::cached(&checkpoint(), &text(1), Axis::Input, &path, &context).unwrap());
    assert_eq!(written, std::fs::metadata(&path).unwrap().modified().unwrap(), "measured again");
    let two = Fisher::cached(&checkpoint(), &text(2), Axis::Input, &path, &context).unwrap();
    assert_ne!(one, two);
    let none = Calibration { sequences: vec![vec![3]] };
    assert!(Fisher::measure(&checkpoint(), &none, Axis::Input, &context).is_err());
}

#[test]
fn importances_of_a_file_serve_any_text_and_are_written_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("importances.safetensors");
    let context = Context::new(0, 1).unwrap();
    let text = |n: usize| Calibration { sequences: sequences()[..n].to_vec() };
    let one = Fisher::shared(&checkpoint(), &text(1), Axis::Input, &path, &context).unwrap();
    assert_eq!(one, Fisher::measure(&checkpoint(), &text(1), Axis::Input, &context).unwrap());
    assert_eq!(
        one,
        Fisher::shared(&checkpoint(), &text(2), Axis::Input, &path, &context).unwrap(),
        "read, not measured"
    );
    // Correlations travel, too, and a file without them is refused where they are needed.
    let full = dir.path().join("full.safetensors");
    let measured = Fisher::shared(&checkpoint(), &text(2), Axis::Kronecker, &full, &context).unwrap();
    assert_eq!(measured, Fisher::load(&full).unwrap());
    let weight = Mat::identity(32);
    let layer = "model.layers.0.self_attn.q_proj";
    let method = |fisher: Fisher| Fwsvd { fisher, axis: Axis::Kronecker };
    assert!(method(measured).decompose(layer, &weight).is_ok());
    let error = method(one).decompose(layer, &weight).unwrap_err().to_string();
    assert!(error.contains("axis=kronecker"), "{error}");
    // Another program's file may hold the inputs' side alone.
    let specs = [TensorSpec::new("layer.fisher", DType::F32, [2])];
    let mut writer = TensorWriter::create(&path, &specs, &Default::default()).unwrap();
    writer.write_typed("layer.fisher", &[1.0f32, 4.0]).unwrap();
    writer.finish().unwrap();
    let found = Fisher::load(&path).unwrap().layer("layer", 2, 3).unwrap();
    assert_eq!((found.inputs, found.outputs), (vec![1.0, 4.0], vec![1.0; 3]));
    let foreign = dir.path().join("other.safetensors");
    TensorWriter::create(&foreign, &[], &Default::default()).unwrap().finish().unwrap();
    let error =
        Fisher::shared(&checkpoint(), &text(1), Axis::Input, &foreign, &context).unwrap_err().to_string();
    assert!(error.contains("other.safetensors") && error.contains("LAYER.fisher"), "{error}");
    std::fs::write(&foreign, b"not a tensor file").unwrap();
    assert!(Fisher::load(&foreign).unwrap_err().to_string().contains("other.safetensors"));
}

#[test]
fn a_checkpoint_tells_which_layers_are_low_rank_and_leaves_the_others_alone() {
    let checkpoint = checkpoint();
    let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let context = Context::new(0, 2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("spectra.safetensors");
    let spectra = Spectra::analyze(&checkpoint, &config, Some(&cache), &context).unwrap();
    assert_eq!(spectra, Spectra::analyze(&checkpoint, &config, Some(&cache), &context).unwrap());
    let q = &spectra.layers[0];
    let stored = checkpoint.read_f32(&format!("{}.weight", q.name)).unwrap();
    let w = Mat::from_vec(32, 32, stored.iter().map(|&v| f64::from(v)).collect()).unwrap();
    let expected = svd_values(&w).unwrap();
    assert!(q.values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9));

    let found = spectra.threshold(Target::Ranks(0.55), Normalise::MinMax).unwrap();
    let split = spectra.split(&spectra.ranks(found.value, Normalise::MinMax), LRC_CUT, true);
    let low: Vec<&str> =
        split.iter().filter(|l| l.class == Class::LowRank).map(|l| l.name.as_str()).collect();
    assert!(!low.is_empty() && low.len() < split.len(), "{} of {}", low.len(), split.len());
    let plan = spectra.plan(&split, None);
    let method = Welore::default();
    let job = Job {
        checkpoint: &checkpoint,
        config: &config,
        calibration: Calibration { sequences: Vec::new() },
        method: &method,
        parameters: String::new(),
        values: None,
        ignored: Default::default(),
        budget: plan.budget,
    };
    let out = dir.path().join("out");
    let run = job.start(&out, Some(&plan)).unwrap();
    let built = run.build(&plan, "plan", &out, &context).unwrap();
    run.finish().unwrap();
    for (row, layer) in split.iter().zip(&built.layers) {
        assert_eq!((layer.layout.parameters(), &layer.name), (row.after, &row.name));
    }
    let written = Checkpoint::open(&out).unwrap();
    let structure = Structure::read(written.config()).unwrap();
    let mut expected: Vec<String> = low.iter().map(|&n| n.to_owned()).collect();
    expected.sort();
    assert_eq!(low_rank_layers(&structure, LRC_CUT), expected);
    for row in split.iter().filter(|l| !l.factored) {
        let name = format!("{}.weight", row.name);
        assert_eq!(checkpoint.read_f32(&name).unwrap(), written.read_f32(&name).unwrap(), "{name}");
    }
}
