#!/usr/bin/env python3
"""Measure katari beside llama.cpp and ik_llama.cpp, or beside itself on fewer threads, and print tables.

    compare.py speed FILE.gguf... --llama DIR [--ik DIR] --isa avx2 [-p 128,512] [-n 32] [-d 0,1800] [-t 2]
    compare.py quantize DIR --llama DIR --work DIR [--types q4_0,q8_0,q4_k_m] [-t 2]
    compare.py threads --shape rinna-neox-3.6b --types q4_0 --isa avx2

`speed` runs `katari bench` and llama.cpp's `llama-bench` on the same file in turns (A B A B ...),
each round with one repetition after a warm-up, and prints the medians and their ratio. --llama is
a folder that holds llama-bench, llama-quantize and their libraries. llama.cpp takes the best
instruction set there is a library for, so keep one folder for each, with one libggml-cpu-*.so:
haswell for avx2, alderlake for avx2-vnni, zen4 for avx512-vnni. --ik is a folder with the
llama-bench of ik_llama.cpp, which is asked to lay weights anew when it loads them (-rtr 1). Without
either katari is measured alone.

`quantize` times `katari quantize` on a checkpoint folder, `llama-quantize` on the same weights as
an F16 GGUF (which katari makes first, in --work), and `dd` moving as many bytes in and out, each
after its input was read once, so that it comes from memory.

`threads` runs `katari bench` on 1 and 2 threads and holds the gain against that of a loop in
registers.

--prefix is put before each measured command, as `taskset -c 0,1`. Needs Python 3.9, nothing else.
"""

import argparse
import json
import mmap
import os
import shlex
import statistics
import struct
import subprocess
import sys
import time

KATARI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "katari")


def call(args, command):
    """Runs a command under the prefix, gives what it printed and the seconds it took."""
    command = shlex.split(args.prefix) + [str(part) for part in command]
    print("+", shlex.join(command), file=sys.stderr, flush=True)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout, seconds


def katari_bench(args, source, tests, isa=None, threads=None, repetitions=1):
    prompt, decode, depth = tests
    command = [args.katari, "bench", *source, "--json", "-r", repetitions, "-p", prompt, "-n", decode]
    command += ["-d", depth, "-t", threads or args.threads, "--kv", args.kv]
    if isa:
        command += ["--isa", isa]
    return json.loads(call(args, command)[0])


def llama_bench(args, folder, more, file, tests):
    """The rates of the llama-bench in `folder`, by the names that katari gives the tests."""
    prompt, decode, depth = tests
    keys, values = (args.kv.split(",") * 2)[:2]
    command = [os.path.join(folder, "llama-bench"), "-m", file, "-o", "json", "-r", 1, *more]
    command += ["-p", prompt, "-n", decode, "-t", args.threads, "-ctk", keys, "-ctv", values]
    if depth:
        command += ["-d", depth]
    if values not in ("f16", "f32"):
        command += ["-fa", "1"]
    rates = {}
    for row in json.loads(call(args, command)[0]):
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        if row.get("n_depth"):
            name += f"@d{row['n_depth']}"
        rates[name] = row["avg_ts"]
    return rates


def speed(args):
    peers = {}
    if args.llama:
        peers["llama.cpp"] = (args.llama, [])
    if args.ik:
        peers["ik_llama.cpp"] = (args.ik, ["-rtr", 1])
    beside = "".join(f" {name} | ratio |" for name in peers)
    print(f"| type | ISA | KV | test | katari, tokens/s |{beside} bandwidth, GB/s | of memory's | arithmetic, of the kernel's |")
    print("|---" * (8 + 2 * len(peers)) + "|", flush=True)
    everything = []
    for file in args.files:
        tests = [(p, 0, d) for d in args.depth for p in args.prompt if p]
        tests += [(0, n, d) for d in args.depth for n in args.decode if n]
        for test in tests:
            ours, theirs = [], {name: [] for name in peers}
            for _ in range(args.rounds):
                ours += katari_bench(args, [file], test, args.isa)
                for name, (folder, more) in peers.items():
                    theirs[name].append(llama_bench(args, folder, more, file, test)[ours[-1]["test"]])
            rate = statistics.median(row["tokens_per_second"] for row in ours)
            row = sorted(ours, key=lambda row: row["tokens_per_second"])[len(ours) // 2]
            others = {name: statistics.median(rates) for name, rates in theirs.items()}
            everything.append(dict(row, tokens_per_second=rate, **others))
            beside = "".join(f" {other:.2f} | {rate / other:.2f} x |" for other in others.values())
            print(
                f"| {row['type']} | {row['isa']} | {row['kv']} | {row['test']} | {rate:.2f} |{beside}"
                + f" {row['bandwidth_gb_s']:.1f} | {row['bandwidth_share']:.0%} of {row['stream_gb_s']:.1f}"
                + f" | {row['arithmetic_share']:.0%} of {row['kernel_gmac_s']:.0f} GMAC/s |",
                flush=True,
            )
    if args.save:
        with open(args.save, "a") as out:
            for row in everything:
                out.write(json.dumps(row) + "\n")


# Sizes of GGUF's scalar types by number; 8 is a string, 9 an array.
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32


def tensors(data):
    """Where each tensor of a GGUF file lies: name -> (type number, bytes), from its mapped bytes."""
    at = 0

    def number(kind="I"):
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return value

    def text():
        nonlocal at
        n = number("Q")
        at += n
        return bytes(data[at - n : at])

    def skip(kind):
        nonlocal at
        if kind == 8:
            text()
        elif kind == 9:
            inner, n = number(), number("Q")
            if inner in SCALARS:
                at += n * SCALARS[inner]
            else:
                for _ in range(n):
                    skip(inner)
        else:
            at += SCALARS[kind]

    magic, _, n_tensors, n_keys = number(), number(), number("Q"), number("Q")
    assert magic == 0x46554747, "no GGUF"
    for _ in range(n_keys):
        text()
        skip(number())
    listed = []
    for _ in range(n_tensors):
        name = text()
        for _ in range(number()):
            number("Q")
        listed.append((number(), number("Q"), name))
    start = -(-at // ALIGNMENT) * ALIGNMENT
    ordered = sorted(listed, key=lambda tensor: tensor[1])
    ends = [offset for _, offset, _ in ordered[1:]] + [len(data) - start]
    return {name: (kind, memoryview(data)[start + a : start + b]) for (kind, a, name), b in zip(ordered, ends)}


def differences(one, other):
    """How many tensors of two files differ in type or in a byte, and how many there are."""
    maps = []
    for path in (one, other):
        with open(path, "rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    ours, theirs = map(tensors, maps)
    names = ours.keys() | theirs.keys()

    def same(name):
        (kind, a), (other_kind, b) = ours.get(name, (None, b"")), theirs.get(name, (None, b""))
        n = min(len(a), len(b))
        # What follows the shorter one is padding.
        return kind == other_kind and a[:n] == b[:n] and not any(a[n:]) and not any(b[n:])

    return sum(not same(name) for name in names), len(names)


def read(path):
    """Reads a file, or a folder's files, so that what reads them next finds them in memory."""
    paths = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(16 << 20):
                pass


def quantize(args):
    work = args.work
    os.makedirs(work, exist_ok=True)
    f16, out = os.path.join(work, "f16.gguf"), os.path.join(work, "out.gguf")
    tokenizer = ["--tokenizer", args.tokenizer] if args.tokenizer else []
    if not os.path.exists(f16):
        call(args, [args.katari, "quantize", args.checkpoint, "--type", "f16", "-o", f16, *tokenizer])
    size = os.path.getsize(f16)
    print("| type | katari, s | llama-quantize, s | ratio | tensors that differ | dd in and out, s | katari / dd |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for file_type in args.types:
        ours, theirs, copies, differing = [], [], [], ""
        for _ in range(args.rounds):
            read(args.checkpoint)
            ours.append(call(args, [
                args.katari, "quantize", args.checkpoint, "--type", file_type, "-o", out, "--force",
                "--threads", args.threads, *tokenizer,
            ])[1])
            written = os.path.getsize(out)
            if args.llama:
                tool, other = os.path.join(args.llama, "llama-quantize"), out + ".llama"
                read(f16)
                theirs.append(call(args, [tool, f16, other, file_type, args.threads])[1])
                if len(theirs) == 1:
                    differing = "%d of %d" % differences(out, other)
                os.remove(other)
            os.remove(out)
            # As katari does, dd ends when the disk has the bytes.
            count = written >> 20
            read(f16)
            copies.append(
                call(args, ["dd", f"if={f16}", "of=/dev/null", "bs=1M"])[1]
                + call(args, ["dd", f"if={f16}", f"of={out}", "bs=1M", f"count={count}", "conv=fsync"])[1]
            )
            os.remove(out)
        ours, copies = statistics.median(ours), statistics.median(copies)
        theirs = statistics.median(theirs) if theirs else None
        print(
            f"| {file_type} | {ours:.1f} | "
            + (f"{theirs:.1f} | {theirs / ours:.2f} x" if theirs else " | ")
            + f" | {differing} | {copies:.1f} | {ours / copies:.2f} |",
            flush=True,
        )
    print(f"\nFrom {size / 1e9:.2f} GB of F16.")


def threads(args):
    print("| type | ISA | test | 1 thread | 2 threads | gain | gain in registers | share |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for file_type in args.types:
        source = ["--shape", args.shape, "--type", file_type]
        for test in [(p, 0, 0) for p in args.prompt if p]:
            runs = {n: [] for n in (1, 2)}
            for _ in range(args.rounds):
                for n in runs:
                    runs[n] += katari_bench(args, source, test, args.isa, threads=n)
            middle = {
                n: {
                    key: statistics.median(row[key] for row in rows)
                    for key in ("tokens_per_second", "registers_gflop_s")
                }
                for n, rows in runs.items()
            }
            gain = middle[2]["tokens_per_second"] / middle[1]["tokens_per_second"]
            limit = middle[2]["registers_gflop_s"] / middle[1]["registers_gflop_s"]
            row = runs[1][0]
            print(
                f"| {row['type']} | {row['isa']} | {row['test']} | {middle[1]['tokens_per_second']:.2f} | "
                f"{middle[2]['tokens_per_second']:.2f} | {gain:.3f} x | {limit:.3f} x | {gain / limit:.0%} |",
                flush=True,
            )


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--katari", default=KATARI, help="the binary [target/release/katari]")
    shared.add_argument("--llama", help="folder of llama.cpp's binaries")
    shared.add_argument("--ik", help="folder of ik_llama.cpp's llama-bench")
    shared.add_argument("--isa", help="katari's instruction set")
    shared.add_argument("--kv", default="f16", help="types of keys and values")
    shared.add_argument("-t", "--threads", type=int, default=2)
    shared.add_argument("-p", "--prompt", type=numbers, default=[128, 512])
    shared.add_argument("-n", "--decode", type=numbers, default=[32])
    shared.add_argument("-d", "--depth", type=numbers, default=[0])
    shared.add_argument("--types", type=lambda text: text.split(","), default=["q4_0", "q8_0", "q4_k_m"])
    shared.add_argument("--rounds", type=int, default=3)
    shared.add_argument("--prefix", default="")
    shared.add_argument("--save", help="append each row as a line of JSON to this file")
    verb = verbs.add_parser("speed", parents=[shared])
    verb.add_argument("files", nargs="+", metavar="FILE")
    verb.set_defaults(run=speed)
    verb = verbs.add_parser("quantize", parents=[shared])
    verb.add_argument("checkpoint", metavar="DIR")
    verb.add_argument("--work", required=True, help="folder for the files that are made")
    verb.add_argument("--tokenizer", help="as of katari quantize")
    verb.set_defaults(run=quantize)
    verb = verbs.add_parser("threads", parents=[shared])
    verb.add_argument("--shape", default="rinna-neox-3.6b")
    verb.set_defaults(run=threads)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
