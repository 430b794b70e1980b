#!/usr/bin/env bash
# Packs what a GPU machine without Rust or network needs to check and to time this program: the
# binary, the tests, ggml's shared libraries and the golden checkpoints. There, ./check.sh runs everything.
#
#   gpu/bundle.sh [FEATURES] [OUT]      cuda and katari-gpu.tar.gz unless given
#
# Needs what `cargo build --features FEATURES` needs (docs/gpu.md). CUDA is built for the
# architectures in CMAKE_CUDA_ARCHITECTURES, 90 (H100, H200) unless set.
set -euo pipefail
cd "$(dirname "$0")/.."
features=${1:-cuda} out=${2:-katari-gpu.tar.gz}
# The bundle must travel: what is larger lies in cuBLAS, which is taken from the machine.
limit=$((64 << 20))
export CMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES:-90}
target=${CARGO_TARGET_DIR:-target}

cargo build --release --features "$features"
tests=$(cargo test --release --features "$features" --test integration --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*integration[^"]*\)".*/\1/p' | tail -1)

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
mkdir -p "$bundle/lib" "$bundle/tests"
cp "$target/release/katari" "$bundle/katari"
cp "$tests" "$bundle/integration"
strip "$bundle/katari" "$bundle/integration"
# Shared libraries only where ggml was built as such.
find "$target/release/" -maxdepth 1 \( -name 'libggml*.so*' -o -name 'libllama*.so*' \) \
    -exec cp -P {} "$bundle/lib/" \;
cp -r tests/golden "$bundle/tests/golden"
cp -r demo "$bundle/demo"
cp gpu/check.sh "$bundle/check.sh"
tar -czf "$out" -C "$bundle" .
size=$(stat -c %s "$out")
echo "$out: $((size >> 20)) MiB; unpack it on the GPU machine and run ./check.sh"
if [ "$size" -gt "$limit" ]; then
    echo "error: $out has $size bytes, more than the $limit it may have; build fewer architectures" >&2
    exit 1
fi
