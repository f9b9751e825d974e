//! The tile unit (AMX): detection, and a 32 x 32 block of a product of bf16 panels.
//!
//! A tile is a register of 16 rows of 64 bytes. `TDPBF16PS` multiplies a tile of 16 x 32 bf16 with one of
//! 16 pairs of k x 16 columns and adds to 16 x 16 f32; even and odd k are summed apart, then together.
//! Stable Rust has no intrinsics for it, so the instructions are assembly. The compiler itself never uses
//! tile registers: what one piece of assembly leaves in them is there for the next.

#![allow(unsafe_code)] // assembly; bounds are the callers' contract, stated per function

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::gemm_bf16::STEP;

/// Whether the machine has tiles that multiply bf16 and the system lets this process use them. The first
/// call asks for it.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_allows_tiles())
}

/// The processor multiplies bf16 in tiles of the size used here, and the system saves them.
fn processor_has_tiles() -> bool {
    /// CPUID leaf 7, EDX: the tile unit and its bf16 products.
    const TILES: u32 = 1 << 24 | 1 << 22;
    /// CPUID leaf 1, ECX: the system has set up XCR0.
    const OSXSAVE: u32 = 1 << 27;
    /// XCR0: tile configuration and tile data.
    const SAVED: u32 = 1 << 17 | 1 << 18;
    if __cpuid_count(0, 0).eax < 0x1D
        || __cpuid_count(7, 0).edx & TILES != TILES
        || __cpuid_count(1, 0).ecx & OSXSAVE == 0
    {
        return false;
    }
    // Palette 1: EBX is bytes per row and the number of tiles, ECX the rows.
    let palette = __cpuid_count(0x1D, 1);
    let saved: u32;
    // SAFETY: OSXSAVE says that XGETBV may be used; it only reads XCR0.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    saved & SAVED == SAVED
        && palette.ebx & 0xFFFF >= 64
        && palette.ebx >> 16 >= 8
        && palette.ecx & 0xFFFF >= 16
}

/// Linux keeps the large tile state away from processes that have not asked for it.
#[cfg(target_os = "linux")]
fn system_allows_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: the system call changes nothing but this process' permission; the kernel overwrites RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_allows_tiles() -> bool {
    false
}

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles of 16 rows of 64 bytes.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tiles of this thread, ready for [`block`] until dropped. Then the processor may forget them, which
/// makes switches between threads cheap again.
pub(crate) struct Tiles(PhantomData<*const ()>); // not Send: tile state belongs to the thread

impl Tiles {
    /// Configures the tiles of this thread.
    ///
    /// # Safety
    /// [`is_available`] must have said yes.
    pub(crate) unsafe fn configure() -> Self {
        // SAFETY: the unit is there and allowed; the configuration is valid for palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a value of this type exists only where the unit may be used.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// `sums = A B` for panels of 32 rows and 32 columns over `steps` steps of k: see [`super::gemm_bf16`].
///
/// Four tiles of sums are in flight, each fed by one of two tiles of A and one of two of B.
///
/// # Safety
/// `steps * STEP` words must be readable at `a` and `b`.
pub(crate) unsafe fn block(
    _: &Tiles,
    a: *const u32,
    b: *const u32,
    steps: usize,
    sums: &mut [[f32; 32]; 32],
) {
    // SAFETY: every step reads `STEP` words of each panel; the four tiles of sums fill 32 rows of 128 bytes.
    // The tiles are configured, as `Tiles` exists.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "tileloadd tmm6, [{b} + {row}*1]",
            "tileloadd tmm4, [{a} + {row}*1]",
            "tileloadd tmm7, [{b} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, {step}",
            "add {b}, {step}",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "add {row}, {row}",
            "tilestored [{sums} + {row}*1], tmm0",
            "tilestored [{sums} + {row}*1 + 64], tmm1",
            "tilestored [{sums} + {row}*1 + 2048], tmm2",
            "tilestored [{sums} + {row}*1 + 2112], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            row = inout(reg) 64usize => _,
            sums = in(reg) sums.as_mut_ptr(),
            step = const 4 * STEP,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
