"""The built-in page in a real browser, by keyboard and by mouse, light and dark.

    katari quantize demo --type q8_0 --chat-template rinna -o demo-chat.gguf
    katari serve demo-chat.gguf --port 8080 &
    apt-get install chromium fonts-noto-cjk && pip install playwright
    python tests/page.py http://127.0.0.1:8080 screenshots

Leaves pictures in the folder; look at them.
"""

import os
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

BASE, FOLDER = sys.argv[1].rstrip("/"), sys.argv[2]
BEGINNING = "昔々、あるところに、"
os.makedirs(FOLDER, exist_ok=True)


def text(page):
    return page.input_value("#text")


def settle(page):
    expect(page.locator("#stop")).to_be_disabled(timeout=60_000)


def setting(page, name, value):
    page.fill(f"#settings [name={name}]", value)


def story(page):
    area = page.locator("#text")
    area.fill(BEGINNING)
    setting(page, "n_predict", "60")
    setting(page, "seed", "1")
    area.focus()
    # It streams: a person sees it grow.
    page.evaluate("""() => {
        window.seen = new Set();
        const look = () => { seen.add(document.querySelector('#text').value); requestAnimationFrame(look); };
        look();
    }""")
    page.keyboard.press("Control+Enter")
    settle(page)
    first = text(page)
    seen = page.evaluate("[...seen]")
    assert len(seen) > 3 and all(first.startswith(early) for early in seen), seen
    assert "�" not in first
    expect(page.locator("#status")).to_contain_text("tokens")
    expect(page.locator("#count")).to_contain_text(" of ")
    page.screenshot(path=f"{FOLDER}/story.png")

    # Undo and retry by keyboard: the same seed gives the same text.
    page.keyboard.press("Alt+r")
    settle(page)
    assert text(page) == first
    # Another seed gives another one.
    setting(page, "seed", "2")
    page.keyboard.press("Alt+r")
    page.wait_for_function("first => document.querySelector('#text').value !== first", arg=first)
    settle(page)
    assert text(page) != first and text(page).startswith(BEGINNING)
    setting(page, "seed", "1")
    page.keyboard.press("Alt+z")
    assert text(page) == BEGINNING
    expect(page.locator("#undo")).to_be_disabled()

    # Stopping keeps what was written, and writing goes on from it.
    setting(page, "n_predict", "4000")
    page.click("#write")
    page.wait_for_function("n => document.querySelector('#text').value.length > n", arg=len(BEGINNING))
    page.keyboard.press("Escape")
    settle(page)
    stopped = text(page)
    expect(page.locator("#status")).to_contain_text("stopped")
    page.wait_for_timeout(500)
    assert text(page) == stopped
    setting(page, "n_predict", "5")
    page.click("#write")
    settle(page)
    assert text(page).startswith(stopped) and len(text(page)) > len(stopped)

    # A stop string is never shown.
    page.click("#undo")
    setting(page, "stop", "。")
    setting(page, "n_predict", "200")
    page.click("#write")
    settle(page)
    assert "。" not in text(page)[len(stopped):]
    setting(page, "stop", "")
    # It is all there after the page was loaded again.
    kept = text(page)
    page.reload()
    expect(page.locator("#model")).not_to_be_empty()
    assert text(page) == kept


def chat(page):
    page.focus("#tab-story")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#chat")).to_be_visible()
    setting(page, "n_predict", "30")
    page.fill("#say", "こんにちは。お元気ですか？")
    page.focus("#say")
    page.keyboard.press("Control+Enter")
    settle(page)
    answer = page.locator("#log li.assistant").last
    expect(answer).not_to_be_empty()
    first = answer.inner_text()
    page.click("#retry")
    settle(page)
    assert page.locator("#log li.assistant").last.inner_text() == first
    setting(page, "seed", "2")
    page.click("#retry")
    expect(page.locator("#log li.assistant").last).not_to_have_text(first)
    settle(page)
    assert page.locator("#log li.assistant").last.inner_text() not in ("", first)
    expect(page.locator("#log li")).to_have_count(2)
    page.screenshot(path=f"{FOLDER}/chat.png")
    page.click("#undo")
    expect(page.locator("#log li")).to_have_count(0)
    assert page.input_value("#say") == "こんにちは。お元気ですか？"


def looks(page):
    page.click("#tab-story")
    for theme in ["dark", "light"]:
        if page.evaluate("document.documentElement.dataset.theme ?? 'light'") != theme:
            page.click("#theme")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, background[4:-1].split(",")[:3])) > 380
        assert light == (theme == "light"), (theme, background)
        page.screenshot(path=f"{FOLDER}/{theme}.png")
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    expect(page.locator("#settings")).to_be_hidden()
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide, "a phone would scroll sideways"
    page.screenshot(path=f"{FOLDER}/phone.png")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
    faults, elsewhere = [], []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: r.url.startswith(BASE) or elsewhere.append(r.url))
    page.goto(BASE)
    expect(page.locator("#model")).not_to_be_empty()
    for check in [story, chat, looks]:
        check(page)
        print(f"ok      {check.__name__}")
    assert not faults, faults
    assert not elsewhere, elsewhere
    browser.close()
