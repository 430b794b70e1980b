"""Tokens a second that `katari serve` writes in eight streams at once, beside what `katari bench`
says of the forward pass alone: a prompt of eight tokens (pp8), eight sequences that decode
together (tgNx8).

    python benches/serve.py target/release/katari demo.gguf [TOKENS]
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request

BINARY, FILE = sys.argv[1:3]
TOKENS = int(sys.argv[3]) if len(sys.argv) > 3 else 200
STREAMS = 8

server = subprocess.Popen(
    [BINARY, "serve", FILE, "--port", "0", "--slots", str(STREAMS), "--log-json"],
    stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
)
address, loaded = None, False
while not (address and loaded):
    line = server.stderr.readline()
    assert line, "the server ended"
    loaded = loaded or "model loaded" in line
    if "http://" in line:
        address = "http://" + line.split("http://")[1].split('"')[0]
threading.Thread(target=server.stderr.read, daemon=True).start()


def stream(i, n):
    body = {"prompt": "昔々、あるところに", "max_tokens": n, "ignore_eos": True, "stream": True, "seed": i}
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode())
    urllib.request.urlopen(request).read()


def together(n):
    start = time.monotonic()
    threads = [threading.Thread(target=stream, args=(i, n)) for i in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return STREAMS * n / (time.monotonic() - start)


together(8)
print(f"serve: {together(TOKENS):.1f} tokens/s in {STREAMS} streams of {TOKENS}")
server.terminate()
server.wait()
bench = [BINARY, "bench", FILE, "-p", "0", "-n", "32", "-b", str(STREAMS), "-r", "3", "--stream", "256"]
print(subprocess.run(bench, capture_output=True, text=True, check=True).stdout)
