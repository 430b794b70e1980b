#!/usr/bin/env bash
# Builds target/packages/katari-VERSION-x86_64-linux.tar.gz.
set -euo pipefail
cd "$(dirname "$0")/.."
packages/linux-binary.sh
. packages/common.sh
name=katari-$version-x86_64-linux
staged=$out/$name
rm -rf "$staged"
mkdir -p "$staged/bin"
cp $out/linux/katari "$staged/bin"
"$staged/bin/katari" man "$staged/share/man/man1"
completions "$staged/bin/katari" "$staged/share/completions"
documents x86_64-unknown-linux-gnu "$staged"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$SOURCE_DATE_EPOCH \
    -C $out -c "$name" | gzip -9n >"$staged.tar.gz"
echo "$staged.tar.gz"
