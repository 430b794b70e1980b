//! What AVX2's products and their additions reach by themselves, in registers and the first-level
//! cache: the ceiling of prompts on AVX2, whatever a kernel does besides.
//!
//! `cargo bench --bench steps`, on one thread, products a second. A turn is 2048 products, 16 rows
//! of weights times 4 of activations in one group of 32:
//!
//! - `unsigned` the products of bytes alone
//! - `unsigned-apart` with as many additions, none of which waits for a product
//! - `unsigned-added` with additions of the products
//! - `unsigned-tile` these with weights loaded and activations broadcast, as a tile does
//! - `signed-added`, `signed-tile` the same of integers that are widened to 16 bits

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use criterion::{Criterion, Throughput};

    /// Turns of a call, enough that what a call costs besides doesn't count.
    const TURNS: u64 = 1000;
    const PRODUCTS: u64 = 2048;

    /// Where the loads go: two registers of weights, and four words of activations.
    #[repr(C, align(64))]
    struct Operands {
        weights: [u8; 64],
        activations: [i8; 16],
    }

    /// One of them; it needs AVX2.
    type Loop = unsafe fn(&Operands);

    /// Defines a function that repeats `$lines` `$times` times a turn.
    macro_rules! loops {
        ($($name:ident: $times:literal x [$($line:literal),* $(,)?];)*) => {$(
            /// # Safety
            /// AVX2.
            #[target_feature(enable = "avx2")]
            unsafe fn $name(operands: &Operands) {
                // SAFETY: writes registers only, which are all named, and reads `operands`.
                unsafe {
                    asm!(
                        "vzeroall",
                        "2:",
                        concat!(".rept ", $times),
                        $($line,)*
                        ".endr",
                        "dec {turns}",
                        "jnz 2b",
                        turns = inout(reg) TURNS => _,
                        w = in(reg) operands.weights.as_ptr(),
                        x = in(reg) operands.activations.as_ptr(),
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                        out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                        out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                        out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                        options(nostack, readonly),
                    );
                }
            }
        )*};
    }

    // Sums are in registers 0 to 7, weights in 8 and 9, activations and products in the others.
    loops! {
        unsigned: "16" x [
            "vpmaddubsw ymm10, ymm8, ymm9 /* {w} {x} */",
            "vpmaddubsw ymm11, ymm8, ymm9",
            "vpmaddubsw ymm12, ymm8, ymm9",
            "vpmaddubsw ymm13, ymm8, ymm9",
        ];
        unsigned_apart: "16" x [
            "vpmaddubsw ymm10, ymm8, ymm9 /* {w} {x} */",
            "vpaddw ymm0, ymm0, ymm8",
            "vpmaddubsw ymm11, ymm8, ymm9",
            "vpaddw ymm1, ymm1, ymm8",
            "vpmaddubsw ymm12, ymm8, ymm9",
            "vpaddw ymm2, ymm2, ymm8",
            "vpmaddubsw ymm13, ymm8, ymm9",
            "vpaddw ymm3, ymm3, ymm8",
        ];
        unsigned_added: "16" x [
            "vpmaddubsw ymm10, ymm8, ymm9 /* {w} {x} */",
            "vpaddw ymm0, ymm0, ymm10",
            "vpmaddubsw ymm11, ymm8, ymm9",
            "vpaddw ymm1, ymm1, ymm11",
            "vpmaddubsw ymm12, ymm8, ymm9",
            "vpaddw ymm2, ymm2, ymm12",
            "vpmaddubsw ymm13, ymm8, ymm9",
            "vpaddw ymm3, ymm3, ymm13",
        ];
        unsigned_tile: "8" x [
            "vmovdqa ymm8, [{w}]",
            "vmovdqa ymm9, [{w} + 32]",
            "vpbroadcastd ymm10, dword ptr [{x}]",
            "vpmaddubsw ymm11, ymm8, ymm10",
            "vpmaddubsw ymm10, ymm9, ymm10",
            "vpaddw ymm0, ymm0, ymm11",
            "vpaddw ymm1, ymm1, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 4]",
            "vpmaddubsw ymm11, ymm8, ymm10",
            "vpmaddubsw ymm10, ymm9, ymm10",
            "vpaddw ymm2, ymm2, ymm11",
            "vpaddw ymm3, ymm3, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 8]",
            "vpmaddubsw ymm11, ymm8, ymm10",
            "vpmaddubsw ymm10, ymm9, ymm10",
            "vpaddw ymm4, ymm4, ymm11",
            "vpaddw ymm5, ymm5, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 12]",
            "vpmaddubsw ymm11, ymm8, ymm10",
            "vpmaddubsw ymm10, ymm9, ymm10",
            "vpaddw ymm6, ymm6, ymm11",
            "vpaddw ymm7, ymm7, ymm10",
        ];
        signed_added: "32" x [
            "vpmaddwd ymm10, ymm8, ymm9 /* {w} {x} */",
            "vpaddd ymm0, ymm0, ymm10",
            "vpmaddwd ymm11, ymm8, ymm9",
            "vpaddd ymm1, ymm1, ymm11",
            "vpmaddwd ymm12, ymm8, ymm9",
            "vpaddd ymm2, ymm2, ymm12",
            "vpmaddwd ymm13, ymm8, ymm9",
            "vpaddd ymm3, ymm3, ymm13",
        ];
        signed_tile: "16" x [
            "vmovdqa ymm8, [{w}]",
            "vmovdqa ymm9, [{w} + 32]",
            "vpbroadcastd ymm10, dword ptr [{x}]",
            "vpmaddwd ymm11, ymm8, ymm10",
            "vpmaddwd ymm10, ymm9, ymm10",
            "vpaddd ymm0, ymm0, ymm11",
            "vpaddd ymm1, ymm1, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 4]",
            "vpmaddwd ymm11, ymm8, ymm10",
            "vpmaddwd ymm10, ymm9, ymm10",
            "vpaddd ymm2, ymm2, ymm11",
            "vpaddd ymm3, ymm3, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 8]",
            "vpmaddwd ymm11, ymm8, ymm10",
            "vpmaddwd ymm10, ymm9, ymm10",
            "vpaddd ymm4, ymm4, ymm11",
            "vpaddd ymm5, ymm5, ymm10",
            "vpbroadcastd ymm10, dword ptr [{x} + 12]",
            "vpmaddwd ymm11, ymm8, ymm10",
            "vpmaddwd ymm10, ymm9, ymm10",
            "vpaddd ymm6, ymm6, ymm11",
            "vpaddd ymm7, ymm7, ymm10",
        ];
    }

    /// All of them, where the processor has AVX2.
    pub fn bench(c: &mut Criterion) {
        if !is_x86_feature_detected!("avx2") {
            return;
        }
        let operands = Operands {
            weights: [7; 64],
            activations: [-3; 16],
        };
        let mut group = c.benchmark_group("steps");
        group.throughput(Throughput::Elements(TURNS * PRODUCTS));
        let loops: [(&str, Loop); 6] = [
            ("unsigned", unsigned),
            ("unsigned-apart", unsigned_apart),
            ("unsigned-added", unsigned_added),
            ("unsigned-tile", unsigned_tile),
            ("signed-added", signed_added),
            ("signed-tile", signed_tile),
        ];
        for (name, run) in loops {
            // SAFETY: there is AVX2.
            group.bench_function(name, |b| b.iter(|| unsafe { run(&operands) }));
        }
    }
}

#[cfg(target_arch = "x86_64")]
criterion::criterion_group!(benches, x86::bench);
#[cfg(target_arch = "x86_64")]
criterion::criterion_main!(benches);

#[cfg(not(target_arch = "x86_64"))]
fn main() {}
