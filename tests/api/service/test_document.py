"""The requests of docs/service.md, sent to a service; its tables against the routes."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from tests.api.service.conftest import audio
from tests.conftest import RATE, voice

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "service.md").read_text("utf-8")
FILES = {"@a.wav": audio(voice(0, 1, 1.2)), "@b.wav": audio(voice(0, 2, 1.2))}


def sent(client: TestClient, line: str) -> Any:
    """Return the answer to a request that a line of curl sends."""
    program, *words = shlex.split(line)
    assert program == "curl"
    content, forms = None, {}
    while len(words) > 1:
        option, value, *words = words
        if option == "--data-binary":
            content = FILES[value]
        else:
            assert option == "-F"
            name, _, path = value.partition("=")
            forms[name] = FILES[path]
    path = words[0].removeprefix("localhost:8000")
    return client.request("POST" if content or forms else "GET", path, content=content, files=forms or None)


def test_the_examples_are_answered(client: TestClient) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = block.splitlines()
    answers = [sent(client, line) for line in lines]
    assert len(lines) == 5 and [answer.status_code for answer in answers] == [200] * 5
    enrolled, verified, by_name, identified, people = (answer.json() for answer in answers)
    assert enrolled["name"] == "ann" and identified["enrolled"] == 3
    for record in (verified, by_name):
        assert {"score", "kind", "llr", "same_speaker", "threshold", "error_rates"} <= record.keys()
    assert "ann" in [person["name"] for person in people["speakers"]]


def test_the_error_shown_is_the_service_s(asking: TestClient) -> None:
    answer = asking.post("/v1/embed", content=audio(np.zeros(RATE, np.float32), "FLAC"))
    assert f'{{"error": "{answer.json()["error"]}"}}' in TEXT


def test_every_route_is_documented(asking: TestClient) -> None:
    paths = asking.get("/v1/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    documented = {row.split("?")[0] for row in re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)}
    assert documented == routes | {"GET /v1/openapi.json"}
