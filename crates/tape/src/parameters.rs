//! Trainable tensors: values and gradients, outside the tape.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use sparseland_matrix::{Buffer, Real};

/// Names one parameter of a [`Parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(crate) usize);

impl ParamId {
    /// The position in the order of creation.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One trainable tensor.
#[derive(Debug, Clone)]
pub struct Parameter<R: Real> {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// The values.
    pub value: Buffer<R>,
    /// The gradient, summed over the backward passes since [`Parameters::zero_gradients`].
    pub gradient: Buffer<R>,
    /// Whether weight decay applies: usual for matrices, unusual for biases and norms.
    pub decays: bool,
    /// Whether optimisers change it.
    pub trains: bool,
}

/// All trainable tensors of a model.
#[derive(Debug, Clone)]
pub struct Parameters<R: Real> {
    list: Vec<Parameter<R>>,
}

impl<R: Real> Default for Parameters<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Real> Parameters<R> {
    /// No parameters.
    pub fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Adds a tensor; matrices decay, vectors do not.
    ///
    /// # Panics
    /// If `values` does not fill the shape.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], values: &[R]) -> ParamId {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill the shape {shape:?}");
        self.list.push(Parameter {
            name: name.into(),
            shape: shape.to_vec(),
            value: Buffer::from_slice(values),
            gradient: Buffer::zeros(values.len()),
            decays: shape.len() > 1,
            trains: true,
        });
        ParamId(self.list.len() - 1)
    }

    /// Adds a tensor of independent draws from `N(0, deviation²)`.
    pub fn add_normal(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        deviation: f64,
        rng: &mut impl Rng,
    ) -> ParamId {
        let len = shape.iter().product();
        let draw =
            |_| R::real(deviation * <StandardNormal as Distribution<f64>>::sample(&StandardNormal, rng));
        let values: Vec<R> = (0..len).map(draw).collect();
        self.add(name, shape, &values)
    }

    /// Adds a tensor of independent draws from `U(-bound, bound)`.
    pub fn add_uniform(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        bound: f64,
        rng: &mut impl Rng,
    ) -> ParamId {
        let len = shape.iter().product();
        let values: Vec<R> = (0..len).map(|_| R::real(bound * (2.0 * rng.random::<f64>() - 1.0))).collect();
        self.add(name, shape, &values)
    }

    /// Adds a tensor of one value.
    pub fn add_constant(&mut self, name: impl Into<String>, shape: &[usize], value: R) -> ParamId {
        self.add(name, shape, &vec![value; shape.iter().product()])
    }

    /// The values of a parameter.
    pub fn value(&self, id: ParamId) -> &[R] {
        &self.list[id.0].value
    }

    /// The values of a parameter, to change.
    pub fn value_mut(&mut self, id: ParamId) -> &mut [R] {
        &mut self.list[id.0].value
    }

    /// The gradient of a parameter.
    pub fn gradient(&self, id: ParamId) -> &[R] {
        &self.list[id.0].gradient
    }

    /// The values, to read, and the gradient, to write.
    pub fn value_and_gradient(&mut self, id: ParamId) -> (&[R], &mut [R]) {
        let p = &mut self.list[id.0];
        (&p.value, &mut p.gradient)
    }

    /// A parameter.
    pub fn get(&self, id: ParamId) -> &Parameter<R> {
        &self.list[id.0]
    }

    /// A parameter, to change.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Parameter<R> {
        &mut self.list[id.0]
    }

    /// All parameters in the order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter<R>> {
        self.list.iter()
    }

    /// All parameters in the order of creation, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter<R>> {
        self.list.iter_mut()
    }

    /// All identifiers in the order of creation.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<R> {
        (0..self.list.len()).map(ParamId)
    }

    /// The number of values over all parameters.
    pub fn count(&self) -> usize {
        self.list.iter().map(|p| p.value.len()).sum()
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&mut self) {
        self.list.iter_mut().for_each(|p| p.gradient.fill(R::ZERO));
    }

    /// The Euclidean norm of the gradients of all parameters that train, summed in f64.
    pub fn gradient_norm(&self) -> f64 {
        let square = |p: &Parameter<R>| p.gradient.iter().map(|g| g.to_f64() * g.to_f64()).sum::<f64>();
        self.list.iter().filter(|p| p.trains).map(square).sum::<f64>().sqrt()
    }

    /// The first value or gradient that is not finite: the parameter's name, the position, and whether it is a
    /// gradient.
    pub fn first_not_finite(&self) -> Option<(&str, usize, bool)> {
        self.list.iter().find_map(|p| {
            let bad = |data: &[R]| data.iter().position(|v| !v.is_finite());
            let value = bad(&p.value).map(|i| (p.name.as_str(), i, false));
            value.or_else(|| bad(&p.gradient).map(|i| (p.name.as_str(), i, true)))
        })
    }
}
