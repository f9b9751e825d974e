//! Products of every layout with a vector (`gemv*`) and with many (`batch*`), and dense ones in bf16 (`gemm*`).

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod batch;
pub(crate) mod combine;
pub(crate) mod gemm_bf16;
#[cfg(target_arch = "x86_64")]
mod gemm_bf16_avx512;
pub(crate) mod gemv;
#[cfg(target_arch = "x86_64")]
mod gemv_avx2;
#[cfg(target_arch = "x86_64")]
mod gemv_avx512;
#[cfg(target_arch = "x86_64")]
mod gemv_int8;
mod gemv_scalar;
#[cfg(test)]
mod gemv_tests;
mod gemv_transposed;
pub(crate) mod pattern;

/// Writes the positions of the set bits of `mask` and gives their number; `out` must have room for
/// 32 more.
pub(crate) fn positions(mask: &[u8], out: &mut [u16]) -> usize {
    batch::simd::positions(batch::simd::Isa::detect(), mask, out)
}

/// Reads `out.len() - 32` codes of `bits` bits.
pub(crate) fn codes(codes: &[u8], bits: usize, out: &mut [u16]) {
    // Columns of groups of width zero are the codes themselves.
    batch::simd::code_columns(batch::simd::Isa::detect(), codes, bits, (32, 0), out);
}
