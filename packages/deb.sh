#!/usr/bin/env bash
# Builds target/packages/katari_VERSION_amd64.deb with dpkg-deb.
set -euo pipefail
cd "$(dirname "$0")/.."
packages/linux-binary.sh
. packages/common.sh
root=$out/deb
rm -rf $root
share=$root/usr/share doc=$root/usr/share/doc/katari
install -D -m 755 $out/linux/katari $root/usr/bin/katari
install -D -m 644 packages/deb/katari.service $root/usr/lib/systemd/system/katari.service
# A key may be written into it.
install -D -m 600 packages/deb/default $root/etc/default/katari
install -d $root/var/lib/katari
$root/usr/bin/katari man $share/man/man1
gzip -9n $share/man/man1/*
completions $root/usr/bin/katari $out/completions
install -D -m 644 $out/completions/katari $share/bash-completion/completions/katari
install -D -m 644 $out/completions/_katari $share/zsh/vendor-completions/_katari
install -D -m 644 $out/completions/katari.fish $share/fish/vendor_completions.d/katari.fish
documents x86_64-unknown-linux-gnu $doc
{
    cat packages/deb/copyright
    echo 'License: Expat'
    sed 's/^$/./; s/^/ /' LICENSE-MIT
} >$doc/copyright
rm $doc/LICENSE-MIT $doc/LICENSE-APACHE
gzip -9n $doc/THIRD-PARTY.txt

install -d $root/DEBIAN
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$(du -sk $root | cut -f1)/" packages/deb/control >$root/DEBIAN/control
echo /etc/default/katari >$root/DEBIAN/conffiles
(cd $root && find usr -type f -print0 | sort -z | xargs -0 md5sum) >$root/DEBIAN/md5sums
for script in postinst prerm postrm; do
    install -m 755 packages/deb/$script $root/DEBIAN/$script
done
dpkg-deb --root-owner-group -Zxz --build $root $out/katari_"$version"_amd64.deb
