//! Dense and structured matrices, their bytes, their products and the SIMD kernels behind them.
