//! Decompositions and solves as concrete f32/f64 functions over faer.
