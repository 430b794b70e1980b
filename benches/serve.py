"""Tokens a second that `katari serve` writes in eight streams at once, in turns with what `katari
bench` says of the forward pass alone: a prompt of eight tokens (pp8), eight sequences that decode
together (tgNx8).

    python benches/serve.py target/release/katari demo.gguf [TOKENS]
"""

import json
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time

BINARY, FILE = sys.argv[1:3]
TOKENS = int(sys.argv[3]) if len(sys.argv) > 3 else 200
STREAMS, ROUNDS = 8, 9

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
        address = line.split("http://")[1].split('"')[0]
HOST, PORT = address.split(":")
threading.Thread(target=server.stderr.read, daemon=True).start()


def ask(i, n):
    """A connection on which stream `i` of `n` tokens was asked for."""
    body = json.dumps(
        {"prompt": "昔々、あるところに", "max_tokens": n, "ignore_eos": True, "stream": True,
         "stream_options": {"include_usage": True}, "seed": i}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection((HOST, PORT))
    connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
    return connection


def together(n):
    """Tokens a second. What comes is only kept while the clock runs, and looked at afterwards: the
    client takes time of the processor that the server needs."""
    start = time.monotonic()
    came = {ask(i, n): [] for i in range(STREAMS)}
    with selectors.DefaultSelector() as selector:
        for connection in came:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                part = key.fileobj.recv(1 << 16)
                came[key.fileobj].append(part)
                if not part:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    seconds = time.monotonic() - start
    for parts in came.values():
        text = b"".join(parts)
        assert text.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in text, text[:200]
        assert f'"completion_tokens":{n},'.encode() in text, text[-400:]
    return STREAMS * n / seconds


def alone():
    """Tokens a second of the forward pass: of each of its tests by name, behind nothing and behind
    as much as the streams have at their middle."""
    bench = [BINARY, "bench", FILE, "-p", "8", "-n", "32", "-b", str(STREAMS), "-d", f"0,{TOKENS // 2}"]
    bench += ["-r", "5", "--stream", "64", "--json"]
    tests = json.loads(subprocess.run(bench, capture_output=True, check=True).stdout)
    return {test["test"]: test["tokens_per_second"] for test in tests}


# In turns, since others use the machine too, now more and now less.
together(8)
rounds = [(together(TOKENS), alone(), together(TOKENS)) for _ in range(ROUNDS)]
server.terminate()
server.wait()
served = [rate for before, _, after in rounds for rate in (before, after)]
print(f"{STREAMS} streams of {TOKENS}: {statistics.median(served):.0f} tokens/s ({min(served):.0f} to {max(served):.0f})")
for name in rounds[0][1]:
    rates = [passes[name] for _, passes, _ in rounds]
    shares = [(before + after) / 2 / passes[name] for before, passes, after in rounds]
    print(
        f"{name}: {statistics.median(rates):.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f});"
        f" the streams reach {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    )
