"""Open WebUI against a running server, which has a chat template: its server through both kinds of
connection, and its page in a real browser. For one seed, what streams is what comes whole.

    pip install open-webui==0.12.4 playwright    # Python 3.11 or 3.12; several GB
    apt-get install chromium fonts-noto-cjk
    katari quantize demo --type q8_0 --chat-template rinna -o demo-chat.gguf
    katari serve demo-chat.gguf --port 8080 &
    python tests/open_webui.py http://127.0.0.1:8080 open-webui screenshots

The second argument is its program. A smaller environment does too: `pip install --no-deps
open-webui==0.12.4`, then what it requires but accelerate, sentence-transformers, faster-whisper,
rapidocr and opencv-python-headless, which it needs for documents and speech alone.

Leaves pictures in the folder; look at them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from playwright.sync_api import expect, sync_playwright

BASE, PROGRAM, FOLDER = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]
PORT = 18125
WEBUI = f"http://127.0.0.1:{PORT}"
SAID = [{"role": "user", "content": "こんにちは"}]
TOKEN = None
os.makedirs(FOLDER, exist_ok=True)


def ask(path, body=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {TOKEN}"} if TOKEN else {})
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(WEBUI + path, data, headers), timeout=60).read().decode()


def events(text):
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def models():
    return {model["owned_by"]: model["id"] for model in json.loads(ask("/api/models"))["data"]}


def lists():
    name = json.load(urllib.request.urlopen(f"{BASE}/v1/models"))["data"][0]["id"]
    assert models() == {"openai": name, "ollama": f"{name}:latest"}, models()
    assert json.loads(ask("/openai/models"))["data"][0]["id"] == name
    tag = json.loads(ask("/ollama/api/tags"))["models"][0]
    assert tag["model"] == f"{name}:latest"
    assert json.loads(ask("/ollama/api/version"))["version"]
    assert json.loads(ask("/ollama/api/show", {"model": tag["model"]}))["model_info"]


def chats():
    for model in models().values():
        body = {"model": model, "messages": SAID, "seed": 1, "options": {"seed": 1}, "max_tokens": 30}
        whole = json.loads(ask("/api/chat/completions", body | {"stream": False}))
        pieces = events(ask("/api/chat/completions", body | {"stream": True}))
        text = "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces if p.get("choices"))
        assert text == whole["choices"][0]["message"]["content"] != "", (model, whole, text)


def passes_ollama_on():
    model = models()["ollama"]
    body = {"model": model, "messages": SAID, "options": {"seed": 1, "num_predict": 30}}
    whole = json.loads(ask("/ollama/api/chat", body | {"stream": False}))
    pieces = [json.loads(line) for line in ask("/ollama/api/chat", body | {"stream": True}).splitlines() if line]
    text = "".join(piece["message"]["content"] for piece in pieces)
    assert text == whole["message"]["content"] != ""
    assert pieces[-1]["done"] and pieces[-1]["eval_count"] == whole["eval_count"]
    body = {"model": model, "prompt": "昔々、", "options": {"seed": 1, "num_predict": 30}}
    whole = json.loads(ask("/ollama/api/generate", body | {"stream": False}))
    pieces = [json.loads(line) for line in ask("/ollama/api/generate", body | {"stream": True}).splitlines() if line]
    assert "".join(piece["response"] for piece in pieces) == whole["response"] != ""


def tells_what_was_wrong():
    body = {"model": models()["openai"], "messages": SAID, "temperature": "hot", "stream": False}
    try:
        ask("/api/chat/completions", body)
    except urllib.error.HTTPError as error:
        assert error.code == 400 and "temperature" in error.read().decode()
    else:
        raise AssertionError("a temperature that is no number was taken")


def page():
    # Else it begins with a dialogue about what is new.
    ask("/api/v1/users/user/settings/update", {"ui": {"version": json.loads(ask("/api/version"))["version"]}})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.add_init_script(f"localStorage.setItem('token', '{TOKEN}')")
        for kind, model in models().items():
            page.goto(f"{WEBUI}/?models={model}")
            entry = page.locator("#chat-input")
            expect(entry).to_be_visible(timeout=60_000)
            entry.click()
            page.keyboard.type("こんにちは。お元気ですか？")
            page.keyboard.press("Enter")
            answer = page.locator("#response-content-container").last
            expect(answer).not_to_be_empty(timeout=60_000)
            written = ""
            while not written.strip() or answer.inner_text() != written:
                written = answer.inner_text()
                page.wait_for_timeout(2000)
            page.screenshot(path=f"{FOLDER}/open-webui-{kind}.png")
        browser.close()


with tempfile.TemporaryDirectory() as data, open(os.path.join(FOLDER, "open-webui.log"), "w") as log:
    settings = {
        "DATA_DIR": data, "WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "only here", "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1", "USE_SLIM_DOCKER": "true", "VECTOR_DB": "chroma", "RAG_EMBEDDING_ENGINE": "openai",
        "OPENAI_API_BASE_URL": f"{BASE}/v1", "OPENAI_API_KEY": "none", "OLLAMA_BASE_URL": BASE,
    }
    command = [shutil.which(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(PORT)]
    server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                ask("/health")
                break
            except OSError:
                assert server.poll() is None, "Open WebUI ended"
                time.sleep(0.5)
        TOKEN = json.loads(ask("/api/v1/auths/signin", {"email": "", "password": ""}))["token"]
        for check in [lists, chats, passes_ollama_on, tells_what_was_wrong, page]:
            check()
            print(f"ok      {check.__name__}", flush=True)
    finally:
        server.terminate()
        server.wait()
