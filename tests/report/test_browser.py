"""The report in a real browser, where one is installed: nothing fails, nothing is fetched, nothing overflows."""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speakerverif.data.metadata import Column
from speakerverif.evaluation.breakdown import breakdown
from speakerverif.report.page import write_report
from tests.report.test_report import heard, with_second

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60
PROBE = """(async () => {
  await document.fonts.ready;
  const length = audio => new Promise(done => {
    if (audio.readyState) done(audio.duration);
    audio.addEventListener("loadedmetadata", () => done(audio.duration));
    audio.addEventListener("error", () => done(0));
  });
  return {
    images: await Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0))),
    sounds: await Promise.all([...document.querySelectorAll("audio")].map(length)),
    needed: document.documentElement.scrollWidth,
    given: document.documentElement.clientWidth,
    scrolled: [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth + 1)
      .map(one => one.ariaLabel),
    broken: [...document.querySelectorAll("nav a")].filter(one => !document.querySelector(one.getAttribute("href")))
      .map(one => one.textContent),
    cut: [...document.body.querySelectorAll(":not(.scroll *):not(svg *)")]
      .filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80)),
  };
})()"""
SORT = """(() => {
  const table = document.querySelector("table.sort"), head = table.tHead.rows[0].cells[1];
  const column = () => [...table.tBodies[0].rows].map(row => Number(row.cells[1].textContent.replace(",", "")));
  const before = column();
  head.querySelector("button").click();
  const up = column(), said = head.ariaSort;
  head.querySelector("button").click();
  const down = column();
  head.querySelector("button").click();
  return { before, up, said, down, after: column() };
})()"""
PLAY = """(async () => {
  const [one, two] = document.querySelectorAll("audio");
  one.muted = two.muted = true;
  await one.play();
  await two.play();
  await new Promise(done => setTimeout(done, 300));
  return { first: one.paused, second: two.paused, heads: document.querySelectorAll(".sound i").length };
})()"""


class Browser:
    """Drives Chromium through its DevTools pipe: JSON messages, each ended by a null byte."""

    def __init__(self, program: str, profile: Path) -> None:
        (to_read, self._write), (self._read, to_write) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]

        def connect() -> None:
            os.dup2(theirs[0], 3)  # where Chromium listens
            os.dup2(theirs[1], 4)  # and speaks

        options = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"]
        options += [
            "--disable-background-networking",
            "--no-first-run",
            "--autoplay-policy=no-user-gesture-required",
        ]
        options += ["--no-sandbox"] * (os.geteuid() == 0)
        self._process = subprocess.Popen(
            [program, *options, f"--user-data-dir={profile}"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *theirs):
            os.close(end)
        os.set_blocking(self._read, False)
        self._rest, self._count, self.events = b"", 0, list[dict[str, Any]]()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Return what a command returns; events that come before it are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        os.write(
            self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        )
        while True:
            found = self._next()
            if found.get("id") == self._count:
                assert "error" not in found, found
                record: dict[str, Any] = found["result"]
                return record

    def wait_for(self, method: str) -> None:
        """Return when an event has come."""
        while not any(event["method"] == method for event in self.events):
            self._next()

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            try:
                self._rest += os.read(self._read, 1 << 16)
            except BlockingIOError:
                assert time.monotonic() < until and self._process.poll() is None, "the browser doesn't answer"
                time.sleep(0.01)
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        if "method" in found:
            self.events.append(found)
        record: dict[str, Any] = found
        return record

    def open(self, page: Path | str, width: int, scheme: str = "light") -> str:
        """Return the session of a page opened in a window of that width, once it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        scheme_of = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", session, features=scheme_of)
        self.call("Page.navigate", session, url=page if isinstance(page, str) else page.absolute().as_uri())
        self.wait_for("Page.loadEventFired")
        return str(session)

    def ask(self, session: str, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        found = self.call(
            "Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]

    def complaints(self) -> list[str]:
        """Return errors, warnings and requests for anything but the page and what stands in it."""
        said = []
        for event in self.events:
            method, params = event["method"], event["params"]
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                said.append(json.dumps(params)[:400])
            if method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("data:", "file:")) or (
                    url.startswith("file:") and params["type"] != "Document"
                ):
                    said.append(url[:400])
        return said

    def close(self) -> None:
        """End the browser and wait for it."""
        self.call("Browser.close")
        self._process.wait(PATIENCE_S)
        os.close(self._read)
        os.close(self._write)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, none is installed: {', '.join(NAMES)}")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """A report with everything that one can hold, and hostile names in it."""
    result, table = heard(tiny_corpus)
    record = result.system.record
    half = Column("half", {name: "low" if name < "spk3" else "high" for name in table.ids})
    name = "an_unreasonably_long_name_of_a_system_that_nobody_could_break_</script><script>window.hacked=1</script>"
    record = dataclasses.replace(
        record,
        breakdown=breakdown(result.system.scores, [half], result.units, record.figures),
        trial_list=dataclasses.replace(record.trial_list, name=f"/a/list/{name * 3}.txt"),
    )
    system = dataclasses.replace(result.system, name=name, record=record)
    result = with_second(dataclasses.replace(result, system=system))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("speakerverif.report.page.TRIALS_PLAYED", 3)
        patch.setattr("speakerverif.report.figures.det_png", lambda systems: b"")
        folder, made = tmp_path_factory.mktemp("report"), [("command", name)]
        return write_report([result], folder, table=table, audio_root=tiny_corpus, made=made)


@pytest.mark.parametrize("width", [375, 1280])
def test_opens_without_errors_requests_or_overflow(browser: Browser, page: Path, width: int) -> None:
    session = browser.open(page, width)
    found = browser.ask(session, PROBE)
    assert browser.complaints() == []
    assert len(found["images"]) == len(found["sounds"]) == 2 * 2 * 3
    assert all(pixels >= 100 for pixels in found["images"])
    assert all(0.9 < seconds < 2.3 for seconds in found["sounds"])
    assert found["cut"] == found["broken"] == []
    assert width < 1280 or found["scrolled"] == []  # no column is cut where there is room
    assert found["needed"] == found["given"] == width
    assert browser.ask(session, "typeof window.hacked") == "undefined"


def test_tables_sort_and_go_back(browser: Browser, page: Path) -> None:
    found = browser.ask(browser.open(page, 1280), SORT)
    assert found["up"] == sorted(found["before"]) and found["down"] == found["up"][::-1]
    assert found["said"] == "ascending" and found["after"] == found["before"]


def test_one_player_stops_the_other(browser: Browser, page: Path) -> None:
    session = browser.open(page, 1280)
    assert browser.ask(session, PLAY) == {"first": True, "second": False, "heads": 2}
    assert browser.complaints() == []


def test_follows_the_dark(browser: Browser, page: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    papers = [browser.ask(browser.open(page, 1280, scheme), paper) for scheme in ("light", "dark")]
    assert papers == ["rgb(251, 250, 247)", "rgb(19, 21, 26)"]
