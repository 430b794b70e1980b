//! What AVX2's products and their additions reach by themselves, in registers and the first-level
//! cache, in the order of `src/cpu/dot/step.rs`: what a prompt on AVX2 is held against.
//!
//! `cargo bench --bench steps`, on one thread, products a second. A turn is 2048 products, 16 rows
//! of weights times 4 of activations in one group of 32:
//!
//! - `unsigned` the products of bytes alone
//! - `unsigned-apart` with as many additions, none of which waits for a product
//! - `unsigned-added` with additions of the products
//! - `unsigned-tile` these with weights loaded and activations broadcast, as a tile does
//! - `signed`, `signed-apart`, `signed-added`, `signed-tile` the same of integers that are widened to
//!   16 bits

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

    /// Defines a function that repeats `$lines` `$times` times a turn. Sums are in registers 0 to 7,
    /// weights in 8 and 9, activations in 10, products in those after it.
    macro_rules! turns {
        ($name:ident: $times:literal x $($line:expr),*) => {
            /// # Safety
            /// AVX2.
            #[target_feature(enable = "avx2")]
            unsafe fn $name(operands: &Operands) {
                // SAFETY: writes registers only, which are all named, and reads `operands`.
                unsafe {
                    asm!(
                        "vzeroall",
                        "vmovdqa ymm8, [{w}]",
                        "vmovdqa ymm9, [{w} + 32]",
                        "vpbroadcastd ymm10, dword ptr [{x}]",
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
        };
    }

    /// Four products, each in a register of its own.
    macro_rules! products {
        ($name:ident: $times:literal x $mul:literal) => {
            turns!($name: $times x
                concat!($mul, " ymm11, ymm8, ymm10"),
                concat!($mul, " ymm12, ymm8, ymm10"),
                concat!($mul, " ymm13, ymm8, ymm10"),
                concat!($mul, " ymm14, ymm8, ymm10")
            );
        };
    }

    /// Four products, each followed by an addition: of `$of`, or of the product.
    macro_rules! sums {
        ($name:ident: $times:literal x $mul:literal $add:literal $of:literal) => {
            sums!($name: $times x $mul $add $of $of $of $of);
        };
        ($name:ident: $times:literal x $mul:literal $add:literal) => {
            sums!($name: $times x $mul $add "ymm11" "ymm12" "ymm13" "ymm14");
        };
        (
            $name:ident: $times:literal x
            $mul:literal $add:literal $a:literal $b:literal $c:literal $d:literal
        ) => {
            turns!($name: $times x
                concat!($mul, " ymm11, ymm8, ymm10"),
                concat!($add, " ymm0, ymm0, ", $a),
                concat!($mul, " ymm12, ymm8, ymm10"),
                concat!($add, " ymm1, ymm1, ", $b),
                concat!($mul, " ymm13, ymm8, ymm10"),
                concat!($add, " ymm2, ymm2, ", $c),
                concat!($mul, " ymm14, ymm8, ymm10"),
                concat!($add, " ymm3, ymm3, ", $d)
            );
        };
    }

    /// What `src/cpu/dot/step.rs` does for one row of activations.
    macro_rules! step {
        ($mul:literal $add:literal $word:literal $first:literal $second:literal) => {
            concat!(
                "vpbroadcastd ymm10, dword ptr [{x} + ",
                $word,
                "]\n",
                $mul,
                " ymm11, ymm8, ymm10\n",
                $mul,
                " ymm10, ymm9, ymm10\n",
                $add,
                " ",
                $first,
                ", ",
                $first,
                ", ymm11\n",
                $add,
                " ",
                $second,
                ", ",
                $second,
                ", ymm10",
            )
        };
    }

    /// A register's step for four rows of activations.
    macro_rules! tile {
        ($name:ident: $times:literal x $mul:literal $add:literal) => {
            turns!($name: $times x
                "vmovdqa ymm8, [{w}]",
                "vmovdqa ymm9, [{w} + 32]",
                step!($mul $add "0" "ymm0" "ymm1"),
                step!($mul $add "4" "ymm2" "ymm3"),
                step!($mul $add "8" "ymm4" "ymm5"),
                step!($mul $add "12" "ymm6" "ymm7")
            );
        };
    }

    products!(unsigned: "16" x "vpmaddubsw");
    sums!(unsigned_apart: "16" x "vpmaddubsw" "vpaddw" "ymm8");
    sums!(unsigned_added: "16" x "vpmaddubsw" "vpaddw");
    tile!(unsigned_tile: "8" x "vpmaddubsw" "vpaddw");
    products!(signed: "32" x "vpmaddwd");
    sums!(signed_apart: "32" x "vpmaddwd" "vpaddd" "ymm8");
    sums!(signed_added: "32" x "vpmaddwd" "vpaddd");
    tile!(signed_tile: "16" x "vpmaddwd" "vpaddd");

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
        let loops: [(&str, Loop); 8] = [
            ("unsigned", unsigned),
            ("unsigned-apart", unsigned_apart),
            ("unsigned-added", unsigned_added),
            ("unsigned-tile", unsigned_tile),
            ("signed", signed),
            ("signed-apart", signed_apart),
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
