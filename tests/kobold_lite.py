"""KoboldAI Lite's page in a real browser against a running server: it connects, writes in each of
its three ways of streaming, tries again, undoes and aborts.

    pip download --no-deps aphrodite-engine==0.10.0    # its wheel carries the page
    unzip -p aphrodite_engine-*.whl aphrodite/endpoints/openai/klite.embd >klite.html
    katari serve demo.gguf --port 8080 --ctx 4096 --cors http://127.0.0.1:18124 &
    apt-get install chromium fonts-noto-cjk && pip install playwright
    python tests/kobold_lite.py http://127.0.0.1:8080 klite.html screenshots

Leaves pictures in the folder; look at them.
"""

import http.server
import json
import os
import shutil
import sys
import threading
import urllib.parse
import urllib.request

from playwright.sync_api import expect, sync_playwright

BASE, PAGE, FOLDER = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]
PORT = 18124  # its origin is what the server's --cors names
BEGINNING = "昔々、あるところに"
STORY = 1
SSE, POLLED, WHOLE = 2, 1, 0
os.makedirs(FOLDER, exist_ok=True)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path.split("?")[0] == "/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if found:
            with open(PAGE, "rb") as file:
                self.wfile.write(file.read())

    def log_message(self, *_):
        pass


def told(page):
    """What the page has of the story."""
    return page.evaluate("gametext_arr.join('')")


def settle(page):
    page.wait_for_function("pending_response_id == '' && gametext_arr.length > 0", timeout=60_000)
    expect(page.locator("#btnsend")).to_be_enabled(timeout=10_000)


def send(page, text):
    page.fill("#input_text", text)
    expect(page.locator("#btnsend")).to_be_enabled(timeout=10_000)
    page.click("#btnsend")


def begin(page, way, length):
    page.evaluate("restart_new_game(false)")
    settings = {
        "opmode": STORY, "tokenstreammode": way, "max_length": length, "sampler_seed": 1,
        "trimsentences": False,  # the page would leave out what follows the last full stop
    }
    page.evaluate("settings => Object.assign(localsettings, settings)", settings)


def asked_again(request):
    """The text that the page's own request gives where it comes whole."""
    body = json.loads(request.post_data) | {"genkey": "again"}
    again = urllib.request.Request(f"{BASE}/api/v1/generate", json.dumps(body).encode())
    return json.load(urllib.request.urlopen(again))["results"][0]["text"]


def connects(page, _):
    expect(page.locator("#connectstatus")).to_contain_text("KoboldCpp", timeout=10_000)
    name = json.load(urllib.request.urlopen(f"{BASE}/api/v1/model"))["result"]
    assert page.evaluate("selected_models[0].name") == name
    page.screenshot(path=f"{FOLDER}/lite-connected.png")


def writes(page, requests):
    texts = []
    for way, path in [(SSE, "/generate/stream"), (POLLED, "/v1/generate"), (WHOLE, "/v1/generate")]:
        begin(page, way, 60)
        requests.clear()
        send(page, BEGINNING)
        settle(page)
        sent = [r for r in requests if r.url.endswith(path)]
        assert len(sent) == 1, [r.url for r in requests]
        assert told(page).startswith(BEGINNING)
        assert told(page).removeprefix(BEGINNING).strip() == asked_again(sent[0]).strip() != ""
        texts.append(told(page))
    assert texts[0] == texts[1] == texts[2], texts
    page.screenshot(path=f"{FOLDER}/lite-story.png")


def tries_again(page, _):
    begin(page, SSE, 30)
    send(page, BEGINNING)
    settle(page)
    first = told(page)
    with page.expect_response(lambda r: r.url.endswith("/generate/stream")):
        page.click("#btn_actretry")
    settle(page)
    assert told(page) == first
    page.click("#btn_actundo")  # to the first try
    assert told(page) == first
    page.click("#btn_actundo")
    assert told(page) == BEGINNING
    page.click("#btn_actredo")
    assert told(page) == first


def aborts(page, requests):
    begin(page, SSE, 2000)
    page.evaluate("localsettings.eos_ban_mode = 2")
    requests.clear()
    send(page, BEGINNING)
    # In the page: from here the text would be over before the click.
    page.evaluate("""() => new Promise(clicked => {
        const look = setInterval(() => {
            if (synchro_pending_stream.length > 20) {
                clearInterval(look);
                document.getElementById("abortgen").click();
                clicked();
            }
        }, 1);
    })""")
    settle(page)
    assert any(r.url.endswith("/api/extra/abort") for r in requests)
    assert len(told(page)) > 20
    slots = json.load(urllib.request.urlopen(f"{BASE}/slots"))
    assert not any(slot["is_processing"] for slot in slots), slots


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    faults, refused, requests = [], [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: r.method == "POST" and r.url.startswith(BASE) and requests.append(r))
    page.on("response", lambda r: r.url.startswith(BASE) and r.status >= 400 and refused.append(r.url))
    at = urllib.parse.urlsplit(BASE)
    page.goto(f"http://127.0.0.1:{PORT}/?host={at.hostname}&port={at.port}")
    for check in [connects, writes, tries_again, aborts]:
        check(page, requests)
        print(f"ok      {check.__name__}")
    assert not faults, faults
    # It asks whether there is an image model, and takes any answer.
    assert all("/sdapi/" in url for url in refused), refused
    browser.close()
