"""The page in a real browser: headless chromium, driven by playwright; skipped without them."""

import dataclasses
import shutil
import time

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

LIMIT = 120_000  # ms that a loaded machine may take for one thing
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page on a telephone; fails for anything it asks of another host or logs as an error."""
    context = browser.new_context(viewport={"width": 390, "height": 780})
    page = context.new_page()
    page.set_default_timeout(LIMIT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    yield page
    context.close()
    assert all(url.startswith((server.url, "data:")) for url in asked), asked
    assert not errors


def say_and_wait(page, text):
    page.fill("#input", text)
    page.press("#input", "Enter")
    page.wait_for_selector(".again")


def test_a_thought_is_folded_and_the_answer_is_text(page, say):
    say("<think>\nhm\n</think>\n\n<b>Yes</b>")
    say_and_wait(page, "the cat?")
    assert page.inner_text("#model") == "tiny"
    assert page.text_content(".thought .text") == "hm" and not page.is_visible(".thought .text")
    page.click(".thought summary")
    assert page.is_visible(".thought .text")
    assert page.inner_text(".assistant > .text") == "<b>Yes</b>"  # no markup of the model's
    assert "tokens/s" in page.inner_text(".facts")
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)


def test_mode_and_budget_are_sent(page, say):
    say("Yes.")
    page.select_option("#mode", "on")
    page.fill("#budget", "4")
    assert page.inner_text("#budget-shown") == "64"
    with page.expect_request("**/v1/chat/completions") as sent:
        say_and_wait(page, "the cat?")
    body = sent.value.post_data_json
    assert body["thinking_budget"] == 64
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


def test_an_automatic_budget_is_offered_where_the_model_has_a_head(page, server, say, monkeypatch):
    page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
    assert not page.is_visible("#automatic")  # this one has none
    with_head = {"has_budget_head": True, "choose_budget": lambda prompt, quality: 8}
    monkeypatch.setattr(server.app, "model", dataclasses.replace(server.app.model, **with_head))
    page.reload()
    page.check("#automatic")
    assert page.is_disabled("#budget") and page.inner_text("#budget-shown") == ""
    say("Yes.")
    with page.expect_request("**/v1/chat/completions") as sent:
        say_and_wait(page, "the cat?")
    assert sent.value.post_data_json["thinking_budget"] == "auto"
    page.uncheck("#automatic")
    page.fill("#budget", "4")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click("#new")
        say_and_wait(page, "the cat?")
    assert sent.value.post_data_json["thinking_budget"] == 64


def test_calls_are_shown_and_their_results_sent(page, say):
    say(CALL)
    page.click("#more summary")
    page.fill("#tools", TOOLS)
    say_and_wait(page, "weather?")
    assert 'weather({"city":"Rome"})' in page.inner_text(".call")
    say("Sunny.")
    page.fill(".results textarea", "sun")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click(".results button")
    page.wait_for_selector(".assistant:nth-of-type(3) .facts")
    roles = [message["role"] for message in sent.value.post_data_json["messages"]]
    assert roles == ["user", "assistant", "tool"]


def test_stop_regenerate_and_the_keyboard(page, say, server, monkeypatch):
    engine = server.app.engine_thread.engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.2), step()))
    say([100] * 450)  # long: eleven seconds
    page.fill("#input", "the cat?")
    page.press("#input", "Enter")
    page.wait_for_selector(".assistant > .text")
    page.keyboard.press("Escape")
    page.wait_for_selector(".again")
    assert "stopped" in page.inner_text(".facts")
    say("Short.")
    page.keyboard.press("Alt+r")
    page.get_by_text("Short.").wait_for()
    page.wait_for_selector(".again")
    assert len(page.query_selector_all(".assistant")) == 1
    page.keyboard.press("Alt+n")
    assert not page.query_selector_all("article")


def test_an_error_is_shown(page, say):
    page.fill("#input", "the cat " * 500)
    page.press("#input", "Enter")
    page.wait_for_selector(".error")
    assert "the context of 512" in page.inner_text(".error")
