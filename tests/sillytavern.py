"""SillyTavern's own server against a running one, which has a chat template: each of its backend
types that this server speaks. For one seed, what streams is what comes whole.

    npm install --ignore-scripts sillytavern
    katari quantize demo --type q8_0 --chat-template rinna -o demo-chat.gguf
    katari serve demo-chat.gguf --port 8080 &
    python tests/sillytavern.py http://127.0.0.1:8080 node_modules/sillytavern
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

BASE, FOLDER = sys.argv[1].rstrip("/"), sys.argv[2]
PORT = 18123
PROMPT = "昔々、あるところに"

# What its page sends of samplers, whatever the backend, and several spellings at once.
SAMPLERS = {
    "max_new_tokens": 24, "max_tokens": 24, "n_predict": 24, "num_predict": 24, "max_length": 24,
    "truncation_length": 8192, "max_context_length": 8192, "num_ctx": 8192,
    "temperature": 0.9, "top_p": 0.95, "typical_p": 1, "typical": 1, "min_p": 0, "top_k": 40,
    "top_a": 0, "tfs": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "rep_pen": 1.1,
    "repetition_penalty": 1.1, "repeat_penalty": 1.1, "rep_pen_range": 0, "rep_pen_slope": 1,
    "repetition_penalty_range": 0, "repeat_last_n": 0, "no_repeat_ngram_size": 0,
    "presence_penalty": 0, "frequency_penalty": 0, "smoothing_factor": 0, "smoothing_curve": 1,
    "dry_allowed_length": 2, "dry_multiplier": 0, "dry_base": 1.75,
    "dry_sequence_breakers": '["\\n", ":", "\\"", "*"]', "dry_penalty_last_n": 0,
    "mirostat_mode": 0, "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1,
    "dynamic_temperature": False, "dynatemp_low": 1, "dynatemp_high": 1, "dynatemp_range": 0,
    "dynatemp_exponent": 1, "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0,
    "guidance_scale": 1, "negative_prompt": "", "grammar_string": "", "json_schema": {},
    "banned_tokens": "", "banned_strings": [], "custom_token_bans": "", "logit_bias": [],
    "ban_eos_token": False, "ignore_eos": False, "skip_special_tokens": True,
    "add_bos_token": True, "include_reasoning": True, "sampler_order": [6, 0, 1, 3, 4, 2, 5],
    "sampler_priority": ["repetition_penalty", "temperature", "top_k", "top_p", "quadratic_sampling"],
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "tfs_z", "typical_p", "top_p",
                 "min_p", "xtc", "temperature"],
    "stop": ["\nYou:"], "stopping_strings": ["\nYou:"], "stop_sequence": ["\nYou:"],
    "seed": 7, "sampler_seed": 7, "n": 1, "legacy_api": False,
}


def post(path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read().decode()


def events(text):
    data = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(value) for value in data if value != "[DONE]"]


def text_completion(kind):
    server = {"api_type": kind, "api_server": BASE}
    status = json.loads(post("/api/backends/text-completions/status", server))
    assert status["result"] and status["data"], status
    ask = {**SAMPLERS, **server, "prompt": PROMPT, "model": status["result"]}
    whole = json.loads(post("/api/backends/text-completions/generate", {**ask, "stream": False}))
    pieces = events(post("/api/backends/text-completions/generate", {**ask, "stream": True}))
    if kind == "llamacpp":
        whole, pieces = whole["content"], [piece["content"] for piece in pieces]
    else:
        # Ollama's pieces come as OpenAI's.
        whole = whole["response"] if kind == "ollama" else whole["choices"][0]["text"]
        pieces = [piece["choices"][0]["text"] for piece in pieces]
    assert whole == "".join(pieces) != "", (whole, pieces)
    if kind in ("llamacpp", "koboldcpp", "vllm"):
        url = {"api_type": kind, "url": BASE, "text": PROMPT}
        tokens = json.loads(post("/api/tokenizers/remote/textgenerationwebui/encode", url))
        # vLLM names the text otherwise than llama.cpp does; it only counts.
        assert kind == "vllm" or tokens["count"] == len(tokens["ids"]) > 0, tokens
    if kind in ("llamacpp", "koboldcpp"):
        props = json.loads(post("/api/backends/text-completions/props", server))
        assert props["chat_template"] and props["chat_template_hash"], props
    return whole


def kobold():
    server = {"api_server": f"{BASE}/api"}
    status = json.loads(post("/api/backends/kobold/status", server))
    assert status["koboldCppVersion"] == "KoboldCpp" and status["model"] != "no_connection", status
    ask = {**SAMPLERS, **server, "prompt": PROMPT, "can_abort": True, "use_default_badwordsids": False}
    whole = json.loads(post("/api/backends/kobold/generate", {**ask, "streaming": False}))
    pieces = events(post("/api/backends/kobold/generate", {**ask, "streaming": True}))
    whole = whole["results"][0]["text"]
    assert whole == "".join(piece["token"] for piece in pieces) != "", (whole, pieces)
    tokens = json.loads(post("/api/tokenizers/remote/kobold/count", {"url": f"{BASE}/api", "text": PROMPT}))
    assert tokens["count"] == len(tokens["ids"]) > 0, tokens
    return whole


def chat():
    source = {"chat_completion_source": "custom", "custom_url": f"{BASE}/v1", "custom_include_body": "",
              "custom_exclude_body": "", "custom_include_headers": "", "custom_prompt_post_processing": ""}
    status = json.loads(post("/api/backends/chat-completions/status", source))
    assert status["data"][0]["id"], status
    messages = [{"role": "system", "content": "短く答える。"}, {"role": "user", "content": "こんにちは"}]
    ask = {**source, "messages": messages, "model": "", "max_tokens": 24, "temperature": 0.9, "seed": 7,
           "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "stop": []}
    whole = json.loads(post("/api/backends/chat-completions/generate", {**ask, "stream": False}))
    pieces = events(post("/api/backends/chat-completions/generate", {**ask, "stream": True}))
    whole = whole["choices"][0]["message"]["content"]
    pieces = [piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"]]
    assert whole == "".join(pieces) != "", (whole, pieces)
    return whole


checks = {"KoboldAI": kobold, "chat completion, custom": chat}
for kind in ("koboldcpp", "llamacpp", "generic", "ollama", "ooba", "vllm", "aphrodite"):
    checks[f"text completion, {kind}"] = lambda kind=kind: text_completion(kind)

failed = []
with tempfile.TemporaryDirectory() as data:
    command = ["node", "server.js", "--dataRoot", data, "--configPath", os.path.join(data, "config.yaml")]
    command += ["--port", str(PORT), "--browserLaunchEnabled", "false", "--disableCsrf", "true"]
    with open(os.path.join(data, "log"), "w") as log:
        server = subprocess.Popen(command, cwd=FOLDER, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5).read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    if server.poll() is not None:
                        break
                    time.sleep(0.5)
            for name, check in checks.items():
                try:
                    print(f"ok      {name}: {check()[:30]!r}")
                except Exception as error:
                    failed.append(name)
                    print(f"FAILED  {name}: {type(error).__name__}: {error}")
        finally:
            server.terminate()
            server.wait()
            if failed:
                print(open(os.path.join(data, "log")).read()[-4000:])
sys.exit(1 if failed else 0)
