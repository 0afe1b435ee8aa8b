"""The WebSocket: partial answers as speech grows, the offline answer at the end, and wrong messages."""

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from speakerverif.api.service.app import create_app
from speakerverif.api.service.limits import Limits, Refused
from speakerverif.api.service.recognition import Recognition
from speakerverif.api.service.streaming import GrowingRecording
from tests.api.service.conftest import audio
from tests.conftest import RATE, voice

SAMPLES = np.round(voice(0, 7, 3.6) * 32767).astype("<i2")
CHUNK = RATE // 10
URL = "ws://localhost/v1/stream"  # the test client takes another host for WebSockets


def streamed(
    client: TestClient, first: dict[str, Any], samples: np.ndarray = SAMPLES
) -> list[dict[str, Any]]:
    """Return the messages of the service about samples."""
    messages: list[dict[str, Any]] = []
    with client.websocket_connect(URL) as socket:
        socket.send_json(first)
        for begin in range(0, len(samples), CHUNK):
            socket.send_bytes(samples[begin : begin + CHUNK].tobytes())
        socket.send_json({"end": True})
        while not messages or messages[-1]["type"] not in ("final", "error"):
            messages.append(socket.receive_json())
    return messages


@pytest.mark.parametrize("name", ["Ann", None])
def test_scores_grow_and_end_as_the_whole_recording_s(name: str | None, asking: TestClient) -> None:
    first = {"sample_rate": RATE} | ({"name": name} if name else {})
    ready, *partial, final = streamed(asking, first)
    assert ready == {"type": "ready", "every_s": 1.0}
    speech_s = [message["speech_s"] for message in partial]
    assert {message["type"] for message in partial} == {"partial"} and len(partial) >= 2
    assert all(later - earlier >= 1 for earlier, later in zip([0, *speech_s], speech_s, strict=False))
    path = "/v1/verify" if name else "/v1/identify"
    offline = asking.post(path, params={"name": name} if name else {}, content=audio(SAMPLES)).json()
    assert final["type"] == "final" and final["answer"] == offline
    # A partial answer is that of the samples until then.
    heard = GrowingRecording(RATE, 60)
    for begin in range(0, len(SAMPLES), CHUNK):
        heard.add(SAMPLES[begin : begin + CHUNK])
        if heard.is_due():
            break
    offline = asking.post(path, params={"name": name} if name else {}, content=audio(heard.samples)).json()
    assert partial[0]["answer"] == offline


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({}, "sample_rate"),
        ([16000], "first message"),
        ({"sample_rate": 1e300}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": RATE, "name": "nobody"}, "nobody named"),
        ({"sample_rate": RATE, "name": "a\0"}, "control"),
        ({"sample_rate": RATE, "name": 3}, "expected text"),
        ({"sample_rate": RATE, "threshold": "1"}, "finite"),
        ({"sample_rate": RATE, "threshold": float("nan")}, "finite"),
        ({"sample_rate": RATE, "path": "/etc/passwd"}, "unknown key 'path'"),
    ],
)
def test_a_wrong_beginning_is_refused(first: Any, reason: str, asking: TestClient) -> None:
    with asking.websocket_connect(URL) as socket:
        socket.send_json(first)
        assert reason in socket.receive_json()["error"]
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


@pytest.mark.parametrize(
    ("message", "reason"),
    [(b"123", "16-bit"), ("stop", '{"end": true}'), (bytes(2 * RATE * 21), "longer than 20 s")],
)
def test_wrong_samples_are_refused(message: bytes | str, reason: str, asking: TestClient) -> None:
    with asking.websocket_connect(URL) as socket:
        socket.send_json({"sample_rate": RATE})
        assert socket.receive_json()["type"] == "ready"
        socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        assert reason in socket.receive_json()["error"]


def test_silence_has_no_answer(asking: TestClient) -> None:
    assert "silent" in streamed(asking, {"sample_rate": RATE}, np.zeros(RATE, "<i2"))[-1]["error"]


def test_a_key_a_place_and_samples_are_needed(recognition: Recognition) -> None:
    key = "0123456789abcdef"
    limits = Limits(streams=1, idle_s=0.05)
    recognition.limits = limits
    with TestClient(create_app(recognition, limits, key), "http://localhost") as client:
        assert "API key" in streamed(client, {"sample_rate": RATE}, SAMPLES[:0])[-1]["error"]
        with client.websocket_connect(URL) as socket:
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(URL):
                pass  # one is open already
            socket.send_json({"sample_rate": RATE, "key": key})
            assert socket.receive_json()["type"] == "ready"
            assert "nothing came" in socket.receive_json()["error"]
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(URL, headers={"Origin": "https://evil.example"}),
        ):
            pass


def test_partial_answers_come_less_often_in_a_long_recording() -> None:
    heard, due = GrowingRecording(8000, 61), []
    sound = np.round(voice(0, 3, 0.5) * 20000).astype(np.int16)[::2]
    for _ in range(120):
        heard.add(sound)
        if heard.is_due():
            due.append(heard.speech_s)
    steps = np.diff([0, *due])
    assert steps[0] == pytest.approx(1, abs=0.3) and 20 < len(due) < 35
    assert all(step >= max(1, 0.1 * before) - 1e-6 for before, step in zip(due, steps[1:], strict=False))
    with pytest.raises(Refused, match="longer than 61 s"):
        heard.add(np.zeros(60 * 8000, np.int16))
