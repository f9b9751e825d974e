//! One loop, compiled once per instruction set and chosen at run time.
//!
//! [`vectorised!`](crate::vectorised) makes a function whose body the compiler vectorises three times: for AVX-512, for
//! AVX2 with FMA, and for the build's baseline. Reductions must keep their partial sums in arrays of
//! [`LANES`]: the compiler does not reorder additions of floats.

/// Partial sums of a reduction: several vectors wide, so that additions do not wait for each other.
pub const LANES: usize = 32;

/// The instruction set that vectorised loops use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F, BW, DQ, VL and CD, FMA.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What the build targets.
    Baseline,
}

impl Level {
    /// The best level of this machine.
    #[inline]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("fma")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }
}

/// Defines functions that run the copy of their body made for the machine's best instruction set.
///
/// ```
/// sparseland_matrix::vectorised! {
///     /// `y += x`.
///     pub fn add(x: &[f32], y: &mut [f32]) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y += x;
///         }
///     }
/// }
/// let mut y = [1.0, 2.0];
/// add(&[10.0, 20.0], &mut y);
/// assert_eq!(y, [11.0, 22.0]);
/// ```
///
/// A generic function names its parameter and its one bound: `fn add<R: Real>(...)`. Functions called in
/// the body are compiled for the same instruction set only if they are inlined.
#[macro_export]
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<$R:ident: $bound:path>)? (
        $($argument:ident: $type:ty),* $(,)?
    ) $(-> $output:ty)? $body:block)+) => {$(
        $(#[$meta])*
        $vis fn $name $(<$R: $bound>)? ($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn body $(<$R: $bound>)? ($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,fma")]
            fn avx512 $(<$R: $bound>)? ($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$R: $bound>)? ($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }

            // The calls differ from safe ones only in the instructions, which were just looked for.
            #[allow(unsafe_code)]
            match $crate::simd::Level::detect() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has these instructions.
                $crate::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has these instructions.
                $crate::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                _ => body($($argument),*),
            }
        }
    )+};
}
