//! Loss and gradients of a small convolutional net against PyTorch's.
//!
//! `fixtures/conv.safetensors` was written by PyTorch 2.15 (f32, one thread): six random 8 x 8 images, the weights of
//! two 3 x 3 convolutions (each with pooling and ReLU), a hidden layer and a head, the logits, and the gradients of the
//! mean cross entropy. Convolution weights stand as rows of height, width, channel; the hidden layer reads channels
//! last.

use sparseland_data::{TensorFile, TensorSource};
use sparseland_tape::Tape;
use sparseland_train::{Classifier, Images, Recipe, Task};

#[test]
fn gradients_equal_those_of_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/conv.safetensors");
    let reference = TensorFile::open(path).unwrap();
    let read = |name: &str| reference.read_f32(name).unwrap();
    let labels = reference.read("labels").unwrap();
    let labels: Vec<u32> =
        labels.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let images = Images { pixels: read("pixels"), labels, shape: (8, 8), classes: 3 };
    let recipe = Recipe::parse(
        "[net]\nkind = \"conv\"\nchannels = [3, 4]\nhidden = 5\n[data]\n[training]\nsteps = 1\nbatch = 6\n\
         learning_rate = 0.1\n",
    )
    .unwrap();
    let mut net = Classifier::with_data(&recipe, images.clone(), images).unwrap();
    for p in net.parameters().iter_mut() {
        p.value.copy_from_slice(&read(&p.name));
    }
    let pixels = net.validation().pixels.clone();
    close("logits", &net.predict(&mut Tape::new(), &pixels), &read("logits"));
    // One batch holds all items; their order does not matter to the mean.
    let mut tape = Tape::new();
    let loss = net.loss(&mut tape, 0, 0, 1);
    close("loss", tape.value(loss), &read("loss"));
    tape.backward(loss, net.parameters());
    assert_eq!(net.parameters().iter().count(), 8);
    for p in net.parameters().iter() {
        close(&p.name, &p.gradient, &read(&format!("{}.gradient", p.name)));
    }
}

/// Asserts that all numbers agree to 1e-4 of the largest.
fn close(name: &str, found: &[f32], want: &[f32]) {
    assert_eq!(found.len(), want.len(), "{name}");
    let largest = want.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    assert!(largest > 0.0, "{name} is all zero");
    for (i, (found, want)) in found.iter().zip(want).enumerate() {
        assert!((found - want).abs() <= 1e-4 * largest, "{name}[{i}]: {found} {want}");
    }
}
