#!/usr/bin/env bash
# Builds target/packages/linux/katari for x86-64 and glibc 2.17 or later: what the tarball and the
# .deb carry. Takes Python 3, for PyPI's ziglang (whose linker knows the old glibc) and
# cargo-zigbuild, unless they are installed already.
set -euo pipefail
cd "$(dirname "$0")/.."
. packages/common.sh
target=x86_64-unknown-linux-gnu glibc=2.17

if ! command -v cargo-zigbuild >/dev/null; then
    tools=$out/tools
    [ -x $tools/bin/cargo-zigbuild ] || {
        python3 -m venv $tools
        $tools/bin/pip install -q ziglang==0.17.1 cargo-zigbuild==0.24.0
    }
    export PATH="$PWD/$tools/bin:$PATH"
fi
cargo zigbuild --release --locked --bin katari --target $target.$glibc --target-dir target-portable
mkdir -p $out/linux
cp target-portable/$target/release/katari $out/linux/katari

needs=$(objdump -T $out/linux/katari | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "newest symbols: $needs"
[ "$(printf '%s\n' "$needs" GLIBC_$glibc | sort -V | tail -1)" = GLIBC_$glibc ]
