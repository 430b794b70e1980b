#!/usr/bin/env bash
# Packs what a GPU machine without Rust or network needs to check and to time this program: the
# binary (which has the demo's checkpoint inside), the tests, the comparison with llama.cpp, ggml's
# shared libraries and the golden checkpoints. There, ./check.sh runs everything.
#
#   gpu/bundle.sh [FEATURES] [OUT]      cuda and katari-gpu.tar.gz unless given
#
# Needs what `cargo build --features FEATURES` needs (docs/gpu.md). CUDA is built for the
# architectures in CMAKE_CUDA_ARCHITECTURES, 90-real (H100, H200) unless set: `-real` leaves out the
# PTX for later cards, half of the library.
set -euo pipefail
cd "$(dirname "$0")/.."
features=${1:-cuda} out=${2:-katari-gpu.tar.gz}
# The bundle must travel: what is larger lies in cuBLAS, which is taken from the machine.
limit=$((64 << 20))
export CMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES:-90-real}
target=${CARGO_TARGET_DIR:-target}

# llama-cpp-sys-2 leaves links here that point to nothing, and stops where it finds them again.
rm -f "$target"/release/{,deps/,examples/}lib{ggml,llama}*.so

build() { cargo "$@" --release --features "$features"; }
build build --bin katari --example beside-llama
messages=$(build test --test integration --no-run --message-format json)
# The last value of a key that has NAME in it.
value() { sed -n 's/.*"'"$1"'":"\([^"]*'"$2"'[^"]*\)".*/\1/p' <<<"$messages" | tail -1; }
tests=$(value executable integration) libraries=$(value out_dir llama-cpp-sys-2)/lib

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
mkdir -p "$bundle/lib" "$bundle/tests"
cp "$target/release/katari" "$target/release/examples/beside-llama" "$bundle/"
cp "$tests" "$bundle/integration"
# Shared libraries only where ggml was built as such; under the names they are asked for by.
for library in "$libraries"/lib{ggml,llama}*.so; do
    [ -e "$library" ] || continue
    name=$(objdump -p "$library" | sed -n 's/^ *SONAME *//p')
    cp -L "$library" "$bundle/lib/${name:-$(basename "$library")}"
done
find "$bundle" -maxdepth 2 -type f -exec strip {} +
cp -r tests/golden "$bundle/tests/golden"
cp gpu/check.sh "$bundle/check.sh"
tar -czf "$out" -C "$bundle" .
size=$(stat -c %s "$out")
echo "$out: $((size >> 20)) MiB; unpack it on the GPU machine and run ./check.sh"
if [ "$size" -gt "$limit" ]; then
    echo "error: $out has $size bytes, more than the $limit it may have; build fewer architectures" >&2
    exit 1
fi
