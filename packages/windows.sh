#!/usr/bin/env bash
# Builds target/packages/katari-VERSION-x86_64-windows.zip on Debian, with its packages
# rustc-web, rust-web-src and gcc-mingw-w64-x86-64.
set -euo pipefail
cd "$(dirname "$0")/.."
. packages/common.sh
target=x86_64-pc-windows-gnu
RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc cargo build --release --locked --bin katari \
    -Zbuild-std=std,panic_unwind --target $target --target-dir target-windows
name=katari-$version-x86_64-windows
staged=$out/$name
rm -rf "$staged" "$staged.zip"
documents $target "$staged"
cp target-windows/$target/release/katari.exe "$staged"
(cd $out && python3 -m zipfile -c "$name.zip" "$name")
echo "$staged.zip"
