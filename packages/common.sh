# What the packages share; sourced by each script, which has changed to the repository's root.
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
out=target/packages
mkdir -p $out

# documents TARGET FOLDER: the licences, those of the crates that are linked in, the README.
documents() {
    mkdir -p "$2"
    cp README.md LICENSE-MIT LICENSE-APACHE "$2"
    cargo metadata --format-version 1 --locked --filter-platform "$1" |
        python3 packages/third_party.py >"$2/THIRD-PARTY.txt"
}

# completions PROGRAM FOLDER: for bash, zsh and fish, by the names they are looked for.
completions() {
    mkdir -p "$2"
    "$1" completions bash >"$2/katari"
    "$1" completions zsh >"$2/_katari"
    "$1" completions fish >"$2/katari.fish"
}
