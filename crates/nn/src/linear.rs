//! A linear layer over any matrix, and the seven linear layers of a decoder block.

use sparseland_data::{Checkpoint, DType, TensorSource};
use sparseland_matrix::{Buffer, Dense, LinearMap, Matrix, ValueType, Values};

use crate::structure::Structure;
use crate::{InputSelection, ModelConfig, NnError};

/// `y = W x + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `out x in`.
    pub weight: Matrix,
    /// `out` numbers.
    pub bias: Option<Vec<f32>>,
    /// Which inputs are read; all without one.
    pub selection: Option<Box<InputSelection>>,
}

impl Linear {
    /// `Y = X Wᵀ + b` with `X: batch x in`, `Y: batch x out`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn forward(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        match &self.selection {
            Some(selection) if batch == 1 || selection.rule.all_tokens => {
                selection.forward(&self.weight, x, batch, y);
            }
            _ if batch == 1 => self.weight.apply(x, y),
            _ => self.weight.apply_batch(x, batch, y),
        }
        self.add_bias(y);
    }

    /// Adds the bias to every row of `y`.
    pub(crate) fn add_bias(&self, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}

/// How weights are loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Re-encode the dense linear weights of the blocks in this type. Embedding, head and structured
    /// layers keep theirs.
    pub values: Option<ValueType>,
}

/// The linear layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearSite {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The attention's output.
    O,
    /// The MLP's gate.
    Gate,
    /// The MLP's first layer.
    Up,
    /// The MLP's second layer.
    Down,
}

/// The distinct inputs of a block's linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearInput {
    /// Normed hidden states: of queries, keys and values.
    Attention,
    /// Heads, concatenated: of the attention's output.
    AttentionOutput,
    /// Normed hidden states: of gate and up.
    Mlp,
    /// Gated activations: of down.
    MlpActivation,
}

impl LinearSite {
    /// All sites in the network's order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The full name in a checkpoint, without `.weight`.
    pub fn full_name(self, layer: usize) -> String {
        let part = match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        };
        format!("model.layers.{layer}.{part}")
    }

    /// Which input it reads.
    pub fn input(self) -> LinearInput {
        match self {
            Self::Q | Self::K | Self::V => LinearInput::Attention,
            Self::O => LinearInput::AttentionOutput,
            Self::Gate | Self::Up => LinearInput::Mlp,
            Self::Down => LinearInput::MlpActivation,
        }
    }

    /// `(out, in)`.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Q => (config.query_width(), hidden),
            Self::K | Self::V => (config.key_width(), hidden),
            Self::O => (hidden, config.query_width()),
            Self::Gate | Self::Up => (inner, hidden),
            Self::Down => (hidden, inner),
        }
    }

    pub(crate) fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Q | Self::K | Self::V => config.attention_bias.0,
            Self::O => config.attention_bias.1,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }

    /// Reads the layer from a checkpoint.
    pub(crate) fn load(
        self,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        structure: &Structure,
        layer: usize,
        options: &LoadOptions,
    ) -> Result<Linear, NnError> {
        let name = self.full_name(layer);
        let shape = self.shape(config);
        let weight = load_weight(checkpoint, structure, &name, shape, options)?;
        let bias = match self.has_bias(config) {
            true => Some(load_vector(checkpoint, &format!("{name}.bias"), shape.0)?),
            false => None,
        };
        let selection = match structure.layers.get(&name).and_then(|l| l.inputs.as_ref()) {
            Some(rule) => Some(Box::new(InputSelection::read(checkpoint, &name, rule, shape)?)),
            None => None,
        };
        Ok(Linear { weight, bias, selection })
    }
}

/// Reads the weight of layer `name`: structured as the configuration says, else dense.
pub(crate) fn load_weight(
    checkpoint: &Checkpoint,
    structure: &Structure,
    name: &str,
    (rows, cols): (usize, usize),
    options: &LoadOptions,
) -> Result<Matrix, NnError> {
    if let Some(structured) = structure.layers.get(name) {
        let layout = &structured.layout;
        if (layout.rows(), layout.cols()) != (rows, cols) {
            return Err(NnError::Config(format!(
                "layer {name} is {} x {}, the model needs {rows} x {cols}",
                layout.rows(),
                layout.cols()
            )));
        }
    }
    if let Some(matrix) = structure.read_layer(checkpoint, name)? {
        return Ok(matrix);
    }
    let dense = load_dense(checkpoint, &format!("{name}.weight"), rows, cols)?;
    Ok(match options.values {
        Some(values) if values != dense.values().value_type() => {
            Dense::from_f32(rows, cols, &dense.to_dense(), values).into()
        }
        _ => dense.into(),
    })
}

/// Reads a vector as finite f32.
pub(crate) fn load_vector(checkpoint: &Checkpoint, name: &str, length: usize) -> Result<Vec<f32>, NnError> {
    checkpoint.expect_shape(name, &[length])?;
    Ok(checkpoint.read_f32_finite(name)?)
}

/// Reads a dense matrix in its stored type, checked to be finite.
pub(crate) fn load_dense(
    checkpoint: &Checkpoint,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Dense, NnError> {
    let info = checkpoint.expect_shape(name, &[rows, cols])?;
    let values = match info.dtype {
        DType::BF16 => {
            let mut buffer = Buffer::<half::bf16>::zeros(rows * cols);
            checkpoint.read_into(name, bytemuck::cast_slice_mut(&mut buffer))?;
            check_finite(checkpoint, name, &buffer, |v| v.is_finite())?;
            Values::Bf16(buffer)
        }
        DType::F16 => {
            let mut buffer = Buffer::<half::f16>::zeros(rows * cols);
            checkpoint.read_into(name, bytemuck::cast_slice_mut(&mut buffer))?;
            check_finite(checkpoint, name, &buffer, |v| v.is_finite())?;
            Values::F16(buffer)
        }
        _ => Values::F32(Buffer::from_slice(&checkpoint.read_f32_finite(name)?)),
    };
    Ok(Dense::from_values(rows, cols, values))
}

fn check_finite<T: Copy>(
    checkpoint: &Checkpoint,
    name: &str,
    values: &[T],
    finite: impl Fn(T) -> bool,
) -> Result<(), NnError> {
    if values.iter().all(|&v| finite(v)) {
        return Ok(());
    }
    // The slow reader makes the error that names the index.
    checkpoint.read_f32_finite(name)?;
    Ok(())
}
