//! The product on the tile registers of Intel's AMX: 32 rows by a panel of outputs at a time, in bf16.
//!
//! A tile register holds 16 rows of 64 bytes, and one instruction multiplies two of them: 16 rows of 32 inputs with 32
//! inputs of 16 outputs. That is sixteen times the rate of f32 vectors. The words of rows and panels lie as it wants them.
//! The compiler knows no such registers yet, so that the loop is written in assembly.

use std::{arch::asm, sync::OnceLock};

use super::{
    PANEL,
    kernel::{self, Task},
};
use crate::simd::{Kind, Level};

/// Rows that are summed at once: two tiles.
pub(super) const ROWS: usize = 2 * TILE;
/// Rows of a tile, and words of a row.
const TILE: usize = 16;
const WORD: usize = size_of::<f32>();

/// `[rows][PANEL]`.
#[repr(align(64))]
struct Sums([f32; ROWS * PANEL]);

/// Whether a matrix of so many inputs can be multiplied so.
pub(super) fn take(precision: Kind, inputs: usize) -> bool {
    matches!(precision, Kind::Bf16) && inputs > 0 && inputs.is_multiple_of(2 * TILE) && available()
}

/// Whether the processor has the registers, and the system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_saves_tiles())
}

fn processor_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// AMX-BF16 and AMX-TILE in leaf 7's EDX (Intel's Software Developer's Manual, volume 2A, CPUID).
    const BITS: u32 = 1 << 22 | 1 << 24;
    #[allow(unused_unsafe, reason = "older compilers call it unsafe")]
    // SAFETY: every x86-64 processor has the instruction, and leaf 7 is asked for only where it exists.
    let edx = unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        __cpuid_count(7, 0).edx
    };
    edx & BITS == BITS
}

/// Asks Linux to save the registers of this process's threads, which it does only for who asks
/// (`Documentation/arch/x86/xstate.rst`). They must not have been refused, and the kernel must know them.
#[cfg(target_os = "linux")]
fn system_saves_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes no memory of ours.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn system_saves_tiles() -> bool {
    false
}

/// The shapes of the tile registers, as LDTILECFG reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Sums in 0 to 3, rows of inputs in 4 and 5, weights in 6 and 7, for `upper` and `lower` rows of inputs.
    fn of([upper, lower]: [usize; 2]) -> Self {
        let mut shapes = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        // A register of no rows would be none, and those that are not used may have any shape.
        let lower = if lower == 0 { TILE } else { lower };
        let rows = [upper, upper, lower, lower, upper, lower, TILE, TILE];
        for (register, rows) in rows.into_iter().enumerate() {
            shapes.row_bytes[register] = (TILE * WORD) as u16;
            shapes.rows[register] = rows as u8;
        }
        shapes
    }
}

/// Computes a task, as [`kernel::run`] does.
///
/// # Safety
/// As that function's; [`take`] has said yes to the task's matrix.
pub(super) unsafe fn run(task: &Task<'_>) {
    let mut sums = Sums([0.0; ROWS * PANEL]);
    let sums = sums.0.as_mut_ptr();
    let words = task.product.matrix.words();
    for panel in task.panels.clone() {
        let mut start = task.rows.start;
        while start < task.rows.end {
            let rows = start..task.rows.end.min(start + ROWS);
            start = rows.end;
            let x = &task.x[(rows.start - task.rows.start) * words..];
            // SAFETY: the task has the rows and the panel, and a panel's weights go on with zeros where there are fewer
            // outputs; `sums` has room for ROWS rows; rows and columns are the task's alone. Who has tiles has AVX-512,
            // two of whose vectors are a panel.
            unsafe {
                let weight = task.product.matrix.panel(panel);
                sum(x.as_ptr(), rows.len(), words, weight, sums);
                kernel::finish_columns(Level::Avx512, task, rows, panel * PANEL, sums);
            }
        }
    }
    // SAFETY: the registers are there; released, they cost nothing when the thread is switched.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// `x w` for up to ROWS rows, to `[rows][PANEL]`.
///
/// # Safety
/// The registers may be used; `x` has the rows, of `words` words each, a multiple of TILE; `weight` is a panel; and `to`
/// has room for all rows.
unsafe fn sum(x: *const f32, rows: usize, words: usize, weight: &[f32], to: *mut f32) {
    let halves = [rows.min(TILE), rows.saturating_sub(TILE)];
    let shapes = Shapes::of(halves);
    let stride = words * WORD;
    // SAFETY: the loads stay within the rows and the panel, as the registers have no more rows than these and the loop
    // takes as many steps as there are words; the stores stay within `to`.
    unsafe {
        if halves[1] == 0 {
            asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tileloadd tmm6, [{weight} + {columns}*1]",
                "tileloadd tmm7, [{weight} + {columns}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, 64",
                "add {weight}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{to} + {columns}*1], tmm0",
                "tilestored [{to} + {columns}*1 + 64], tmm1",
                shapes = in(reg) &raw const shapes,
                x = inout(reg) x => _,
                stride = in(reg) stride,
                weight = inout(reg) weight.as_ptr() => _,
                columns = in(reg) PANEL * WORD,
                steps = inout(reg) words / TILE => _,
                to = in(reg) to,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
            return;
        }
        asm!(
            "ldtilecfg [{shapes}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {stride}*1]",
            "tileloadd tmm6, [{weight} + {columns}*1]",
            "tileloadd tmm7, [{weight} + {columns}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{lower} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 64",
            "add {lower}, 64",
            "add {weight}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {columns}*1], tmm0",
            "tilestored [{to} + {columns}*1 + 64], tmm1",
            "tilestored [{lower_to} + {columns}*1], tmm2",
            "tilestored [{lower_to} + {columns}*1 + 64], tmm3",
            shapes = in(reg) &raw const shapes,
            x = inout(reg) x => _,
            lower = inout(reg) x.add(TILE * words) => _,
            stride = in(reg) stride,
            weight = inout(reg) weight.as_ptr() => _,
            columns = in(reg) PANEL * WORD,
            steps = inout(reg) words / TILE => _,
            to = in(reg) to,
            lower_to = in(reg) to.add(TILE * PANEL),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
