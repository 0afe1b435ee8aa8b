"""The service's page in a real browser, where one is installed."""

import base64
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from speakerverif.api.service.app import create_app
from speakerverif.api.service.recognition import Recognition
from speakerverif.api.service.server import listen_at
from tests.api.service.conftest import audio
from tests.conftest import voice
from tests.report.test_browser import NAMES, Browser

DROP = """((id, encoded, names) => {
  const files = new DataTransfer();
  encoded.forEach((one, i) => files.items.add(new File([Uint8Array.from(atob(one), c => c.charCodeAt(0))], names[i])));
  const drop = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  document.getElementById(id).dispatchEvent(drop);
  return drop.defaultPrevented;
})"""
PRESS = """(async (button, output) => {
  document.getElementById(button).click();
  const shown = document.getElementById(output);
  for (let i = 0; i < 600 && document.getElementById(button).disabled; i++) await new Promise(go => setTimeout(go, 50));
  return { text: [...shown.children].map(one => one.textContent), error: shown.classList.contains("error") };
})"""
LOOK = """({
  paper: getComputedStyle(document.body).backgroundColor,
  needed: document.documentElement.scrollWidth, given: document.documentElement.clientWidth,
  nameless: [...document.querySelectorAll("button, input")].filter(one => !one.textContent && !one.ariaLabel
    && !(one.labels && one.labels.length)).map(one => one.outerHTML),
  unreachable: [...document.querySelectorAll("button, input")].filter(one => one.tabIndex < 0).length,
})"""


@pytest.fixture
def address(recognition: Recognition) -> Iterator[str]:
    """A service that listens."""
    place = listen_at("127.0.0.1", 0, has_key=False)
    app = create_app(recognition, recognition.limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    yield f"http://127.0.0.1:{place.getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)
    place.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """The browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, none is installed: {', '.join(NAMES)}")
    started = Browser(program, tmp_path / "profile")
    yield started
    started.close()


def test_recordings_are_compared_enrolled_and_identified(
    browser: Browser, address: str, recognition: Recognition
) -> None:
    session = browser.open(address, 1280, "dark")
    look = browser.ask(session, LOOK)
    assert look["paper"] == "rgb(19, 21, 26)"  # the report's
    assert look["needed"] == look["given"] and look["nameless"] == [] and look["unreachable"] == 0

    def drop(box: str, *sounds: bytes) -> None:
        encoded = [base64.b64encode(sound).decode() for sound in sounds]
        names = [f"{n}.wav" for n in range(len(sounds))]
        assert browser.ask(session, f"{DROP}({box!r}, {encoded}, {names})")

    def press(button: str, output: str) -> dict[str, Any]:
        shown: dict[str, Any] = browser.ask(session, f"{PRESS}({button!r}, {output!r})")
        return shown

    shown = press("verify", "verified")
    assert shown == {"text": ["Choose or record something first."], "error": True}
    drop("enroll", audio(voice(0, 1, 1.2)))
    drop("test", audio(voice(0, 2, 1.2)))
    shown = press("verify", "verified")
    assert not shown["error"] and shown["text"][0] in ("The same person", "Different people")
    text = " ".join(shown["text"])
    assert "cosine similarity" in text and "times as likely if" in text
    assert "log likelihood ratio 0.50" in text and "1 in 100 strangers is let in" in text
    name = "<img src=x onerror=window.hacked=1>"
    browser.ask(session, f"document.getElementById('name').value = {name!r}")
    drop("sample", audio(voice(4, 1, 1.2)), audio(voice(4, 2, 1.2)))
    assert press("add", "added")["text"][0] == f"{name} is enrolled"
    assert name in recognition.store.names()
    assert name in browser.ask(session, "document.getElementById('people').textContent")
    drop("unknown", audio(voice(4, 3, 1.2)))
    shown = press("identify", "identified")
    assert not shown["error"] and any(line.startswith("3. ") for line in shown["text"])
    assert browser.ask(session, "typeof window.hacked") == "undefined"
    theirs = [line for line in browser.complaints() if not line.startswith((address, f"blob:{address[:-1]}"))]
    assert theirs == []
