#!/usr/bin/env bash
# The whole check on a GPU machine, from an unpacked bundle; one table last.
#
#   ./check.sh [-d DEVICE] [-s SHAPE,..] [-t TYPE,..] [-o FOLDER] [PART..]
#
#   tests     the golden models, the KV cache, batches, split layers and traced operations
#   bench     the shapes timed in each type, beside llama.cpp where it has the architecture
#   partial   the last quarter and the last half of the first shape's layers on the device, in q4_0
#   table     what the parts before left in FOLDER, and what of it is missing or failed
#
# All parts in this order unless some are named. A part that fails or takes too long hides no
# other: the table says so, and the exit code is 1, as it is where the table lacks a part. `bench` alone takes minutes, so where a
# command's time is limited run the parts, and the shapes, one by one. DEVICE is cuda:0 unless
# given, and ggml-cpu checks the bundle where no GPU is. FOLDER is ./results. cuBLAS is found in
# CUDA 13's own folder or in the copy that PyTorch brings.
set -uo pipefail
# Seconds that the tests may take, and one shape in one type.
tests_limit=480 bench_limit=240

device=cuda:0 shapes=genji-jp-6b,rinna-neox-3.6b types=q4_0,q4_k_m,q8_0,f16 folder=
# More for the comparison: less work, to try the bundle.
more=(${BESIDE_OPTIONS-})
while getopts d:s:t:o: option; do
    case $option in
    d) device=$OPTARG ;;
    s) shapes=$OPTARG ;;
    t) types=$OPTARG ;;
    o) mkdir -p "$OPTARG" && folder=$(cd "$OPTARG" && pwd) || exit 2 ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- tests bench partial table

cd "$(dirname "$0")"
[ -n "$folder" ] || folder=$PWD/results
mkdir -p "$folder"
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# The tests' files, and a place for what they write.
export KATARI_TEST_ROOT=$PWD
for libraries in /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib \
    $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null | tr ' ' '\n' |
        sed 's|$|/nvidia/cu13/lib|'); do
    [ -e "$libraries/libcublas.so.13" ] && LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$libraries
done

# The line that `katari devices` has for the device; an error where it has none.
here() {
    ./katari devices >"$folder/devices" || return 1
    grep "^$device " "$folder/devices" && return
    echo "error: there is no device $device here; there is:" >&2
    cat "$folder/devices" >&2
    return 1
}

tests() {
    # Some tests read the demo's checkpoint, which the binary unpacks.
    if [ ! -e demo ]; then
        XDG_CACHE_HOME=$PWD/cache timeout 120 ./katari demo --device cpu -n 1 \
            >"$folder/demo.log" 2>&1 && ln -s cache/katari/demo/checkpoint demo ||
            tail -n 3 "$folder/demo.log" >&2
    fi
    local suite=cuda ignored=(--ignored)
    [ "$device" != ggml-cpu ] || { suite=ggml_cpu ignored=(); }
    timeout "$tests_limit" ./integration "$suite::" ${ignored+"${ignored[@]}"} \
        >"$folder/tests.log" 2>&1
    local rc=$?
    tail -n 40 "$folder/tests.log"
    local passed
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' \
        "$folder/tests.log")
    echo "${passed:-did not end} (exit code $rc)" >"$folder/tests"
    [ $rc = 0 ] && [ "${passed%% *}" != 0 ]
}

# beside SHAPE TYPE LAYERS: rows of the table, in a file of their own.
beside() {
    local shape=$1 type=$2 layers=$3
    local rows=$folder/rows-$shape-$type-$layers
    echo "... $shape $type, $layers layers on $device" >&2
    if ! timeout "$bench_limit" ./beside-llama --shape "$shape" --type "$type" \
        --device "$device" --gpu-layers "$layers" ${more[@]+"${more[@]}"} >"$rows" 2>"$folder/error.log"; then
        local why
        why=$(grep -v '^$' "$folder/error.log" | tail -n 1 | tr '|' '/')
        echo "| $shape | $type | $device | failed: ${why:-no word, or out of time} |" >"$rows"
        cat "$folder/error.log" >&2
        return 1
    fi
    cat "$rows"
}

# What the parts time, a line each: SHAPE TYPE LAYERS.
whole() {
    local shape type
    for shape in ${shapes//,/ }; do
        for type in ${types//,/ }; do
            echo "$shape $type all"
        done
    done
}
# Of 24 to 36 layers.
split() { printf "${shapes%%,*} q4_0 %s\n" 7 14; }

bench() {
    local failed=0 shape type layers
    while read -r shape type layers; do
        beside "$shape" "$type" "$layers" </dev/null || failed=1
    done < <("$@")
    return $failed
}

partial() { bench split; }

table() {
    local failed=0 shape type layers rows tests
    tests=$(cat "$folder/tests" 2>/dev/null || echo 'not run')
    printf '\n=== %s\n' "$(here)"
    printf '=== tests: %s\n\n' "$tests"
    [[ $tests =~ ^[1-9][0-9]*\ passed,\ 0\ failed\ \(exit\ code\ 0\)$ ]] || failed=1
    ./beside-llama --names || failed=1
    while read -r shape type layers; do
        rows=$folder/rows-$shape-$type-$layers
        if grep -i "^| $shape | $type | " "$rows" 2>/dev/null; then
            ! grep -q '| failed: ' "$rows" || failed=1
        else
            echo "| $shape | $type | $layers layers on $device | missing |"
            failed=1
        fi
    done < <(whole; split)
    [ $failed = 0 ] || printf '\nNot complete: something above failed or is missing.\n'
    return $failed
}

failed=0
for part in "$@"; do
    case $part in
    tests | partial) here >&2 && "$part" || failed=1 ;;
    bench) here >&2 && bench whole || failed=1 ;;
    table) table || failed=1 ;;
    *)
        echo "error: there is no part $part (expected tests, bench, partial or table)" >&2
        exit 2
        ;;
    esac
done
exit $failed
