#!/usr/bin/env bash
# The whole check on a GPU machine, from an unpacked bundle: the golden models, the KV cache and
# batches on the device, then the full-size shapes timed; one table last.
#
#   ./check.sh [DEVICE] [SHAPE,..] [TYPE,..]
#
# DEVICE is cuda:0 unless given; ggml-cpu checks the bundle where no GPU is. cuBLAS is found in
# CUDA 13's own folder or in the copy that PyTorch brings.
set -uo pipefail
cd "$(dirname "$0")"
device=${1:-cuda:0}
shapes=${2:-genji-jp-6b,rinna-neox-3.6b}
types=${3:-q4_0,q4_k_m,q8_0,f16}
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# The tests' files, and a place for what they write.
export KATARI_TEST_ROOT=$PWD

for folder in /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib \
    $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null | tr ' ' '\n' |
        sed 's|$|/nvidia/cu13/lib|'); do
    [ -e "$folder/libcublas.so.13" ] && LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$folder
done

case $device in
ggml-cpu) suite=ggml_cpu ignored=() ;;
*) suite=cuda ignored=(--ignored) ;;
esac

./katari devices || exit 1
if ! ./katari devices | grep -q "^$device "; then
    echo "error: there is no device $device here" >&2
    exit 1
fi
./integration "$suite::" ${ignored+"${ignored[@]}"} 2>&1 | tee check.log
passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' check.log)

: >bench.csv
for shape in ${shapes//,/ }; do
    for type in ${types//,/ }; do
        echo "... $shape $type" >&2
        # All shapes have room for a prompt of 512 after 512 tokens.
        if ! ./katari bench --shape "$shape" --type "$type" --device "$device" --gpu-layers all \
            -p 512 -n 64 -d 0,512 -r 3 --csv >one.csv; then
            echo "$shape,$type,failed" >>bench.csv
            continue
        fi
        sed "1d;s/^/$shape,$type,/" one.csv >>bench.csv
        [ -e names.csv ] || head -1 one.csv | sed 's/^/shape,weights,/' >names.csv
    done
done

printf '\n=== %s, %s\n' "$device" "$(./katari devices | grep "^$device ")"
printf '=== tests: %s\n' "${passed:-none ran}"
cat names.csv bench.csv 2>/dev/null
case $passed in
*' 0 failed' | '') [ -n "$passed" ] ;;
*) exit 1 ;;
esac
