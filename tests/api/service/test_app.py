"""The HTTP API: each route, wrong and hostile requests, the API key, the limits, and many clients at once."""

import base64
import dataclasses
import json
import re
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from speakerverif.api.model import Model
from speakerverif.api.service.app import create_app
from speakerverif.api.service.limits import Limits
from speakerverif.api.service.recognition import Recognition
from speakerverif.inference.enrollment import Store
from speakerverif.models.folder import ModelFolder
from tests.api.service.conftest import POINT, audio
from tests.conftest import RATE, voice

ANN, BOB, STRANGER = (audio(voice(speaker, 1, 1.2)) for speaker in (0, 2, 5))


def refused(answer: Any, status: int, reason: str = "") -> None:
    """Check that an answer is one line of JSON with a status and a reason, and nothing of the server."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"] and reason in answer.json()["error"]
    assert "\n" not in answer.text and len(answer.text) < 1000
    assert not re.search(r"Traceback|/tmp|/home|site-packages|store\.db|\.toml", answer.text), answer.text


def test_two_recordings_are_compared_as_the_library_compares_them(
    client: TestClient, recognition: Recognition, folder: ModelFolder
) -> None:
    expected = Model(folder).verify(ANN, BOB, calibration=recognition.store.folder / "calibration.toml")
    as_form = client.post("/v1/verify", files={"enroll": ANN, "test": BOB})
    encoded = {name: base64.b64encode(sound).decode() for name, sound in (("enroll", ANN), ("test", BOB))}
    as_json = client.post("/v1/verify", json=encoded)
    assert as_form.status_code == 200 and as_form.json() == as_json.json()
    record = as_form.json()
    own = json.loads(json.dumps(dataclasses.asdict(expected)))
    # Names of files, without the folders.
    own |= {"calibration": "calibration.toml", "calibrated_on": "trials.txt"}
    assert record == own | {
        "engine": "torch",
        "error_rates": json.loads(json.dumps(dataclasses.asdict(POINT))),
    }
    assert record["same_speaker"] == (record["llr"] >= 0.5) and record["llr_threshold"] == 0.5


def test_an_enrolled_person_is_verified_and_identified(asking: TestClient, folder: ModelFolder) -> None:
    verified = asking.post("/v1/verify", params={"name": "Ann"}, content=ANN).json()
    found = asking.post("/v1/identify", params={"top": 1}, content=ANN).json()
    assert found["candidates"] == [["Ann", pytest.approx(verified["score"], abs=1e-6)]]
    assert found["enrolled"] == 2 and found["kind"] == "cosine" and found["error_rates"]["p_fa"] == 0.01
    given = asking.post("/v1/identify", params={"threshold": 1.5}, content=ANN).json()
    assert (given["name"], given["decided"], given["threshold"]) == (None, True, 1.5)
    assert given["error_rates"] is None  # measured at another threshold


def test_an_embedding_is_the_library_s(asking: TestClient, folder: ModelFolder) -> None:
    sound = audio(voice(0, 1, 1.2), "FLAC")
    record = asking.post("/v1/embed", content=sound).json()
    np.testing.assert_allclose(record["embedding"], Model(folder).embed(sound), rtol=1e-4, atol=1e-5)
    assert record["duration_s"] == pytest.approx(1.2) and record["fingerprint"] == folder.fingerprint


def test_people_are_enrolled_listed_and_removed(client: TestClient, recognition: Recognition) -> None:
    name = "Zoë / ../../etc"
    sounds = [("recording", ("a.wav", audio(voice(4, n, 1.2)))) for n in (0, 1)]
    first = client.post("/v1/enroll", params={"name": name}, files=sounds).json()
    assert (first["name"], first["added"], first["recordings"], first["repeated"]) == (name, 2, 2, 0)
    assert client.post("/v1/enroll", params={"name": name}, files=sounds[:1]).json()["repeated"] == 1
    people = client.get("/v1/people").json()
    assert [person["name"] for person in people["speakers"]] == ["Ann", "Bob", name]
    # On disk, for other processes.
    assert Store(recognition.store.folder).names() == ["Ann", "Bob", name]
    assert client.delete("/v1/people", params={"name": name}).json() == {"name": name, "removed": 2}
    refused(client.delete("/v1/people", params={"name": name}), 404, "is enrolled")


def test_a_recording_of_somebody_else_is_refused_unless_forced(client: TestClient) -> None:
    sound = audio(voice(4, 0, 1.2))
    assert client.post("/v1/enroll", params={"name": "Cat"}, content=sound).status_code == 200
    refused(client.post("/v1/enroll", params={"name": "Dan"}, content=sound), 422, "give force=true")
    forced = client.post("/v1/enroll", params={"name": "Dan", "force": True}, content=sound).json()
    assert len(forced["objections"]) == 1


def test_health_schema_and_metrics(client: TestClient) -> None:
    health = client.get("/v1/health").json()
    assert health["decides"] and not health["api_key"] and health["sample_rate"] == RATE
    paths = client.get("/v1/openapi.json").json()["paths"]
    assert paths.keys() == {
        f"/v1/{name}" for name in ("embed", "verify", "identify", "enroll", "people", "health", "metrics")
    }
    answer = paths["/v1/verify"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["$ref"].endswith("/VerificationAnswer")
    for path in ("/v1/nothing", "/v1/nothing/else"):
        refused(client.get(path), 404)
    metrics = client.get("/v1/metrics").text
    assert 'speakerverif_requests_total{route="/v1/health",status="200"} 1' in metrics
    assert 'speakerverif_requests_total{route="other",status="404"} 2' in metrics
    assert 'speakerverif_request_seconds_bucket{le="+Inf"} 4' in metrics
    for line in metrics.splitlines():
        assert re.fullmatch(r"# TYPE \w+ (counter|gauge|histogram)|\w+(\{.*\})? [0-9.e+-]+", line), line


def flac_of_zeros(seconds: int) -> bytes:
    """Return a FLAC file of silence: some kilobytes that decode to `seconds`."""
    return audio(np.zeros(seconds * RATE, np.float32), "FLAC")


BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "no recording"),
    "text": (b"not audio, but words", 422, "text"),
    "10 MB of zeros": (bytes(10_000_000), 413, "larger than 1 MB"),
    "zeros": (bytes(900_000), 422, "zeros"),
    "noise": (np.random.default_rng(0).bytes(50_000), 422, ""),
    "cut off": (ANN[: len(ANN) // 2], 422, "recording 0"),
    "only a header": (ANN[:44], 422, ""),
    "a rate of 4 GHz": (ANN[:24] + struct.pack("<I", 2**32 - 1) + ANN[28:], 422, "recording 0"),
    "a playlist": (
        b"#EXTM3U\n\0#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        422,
        "not an audio format",
    ),
    "a list of files": (b"ffconcat version 1.0\n\0file /etc/passwd\n", 422, "not an audio format"),
    "long": (flac_of_zeros(21), 413, "longer than 20 s"),
    "silent": (flac_of_zeros(1), 422, "silent"),
    "too short": (audio(voice(0, 0, 0.05)), 422, "too_short"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_recordings_are_refused(name: str, asking: TestClient) -> None:
    body, status, reason = BODIES[name]
    refused(asking.post("/v1/embed", content=body), status, reason)


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "a name with NUL": ("POST", "/v1/enroll", {"params": {"name": "a\0b"}, "content": ANN}, 422, "control"),
    "an empty name": ("POST", "/v1/enroll", {"params": {"name": " "}, "content": ANN}, 422, "empty"),
    "a long name": (
        "POST",
        "/v1/enroll",
        {"params": {"name": "a" * 3000}, "content": ANN},
        422,
        "at most 200",
    ),
    "no name": ("POST", "/v1/enroll", {"content": ANN}, 422, "name"),
    "a path": ("POST", "/v1/verify", {"params": {"name": "../../x"}, "content": ANN}, 404, "nobody named"),
    "another method": ("GET", "/v1/embed", {}, 405, ""),
    "NaN": ("POST", "/v1/identify", {"params": {"threshold": "nan"}, "content": ANN}, 422, "threshold"),
    "words": ("POST", "/v1/identify", {"params": {"threshold": "high"}, "content": ANN}, 422, "threshold"),
    "huge": ("POST", "/v1/identify", {"params": {"top": 10**30}, "content": ANN}, 422, "top"),
    "two thresholds": (
        "POST",
        "/v1/identify",
        {"params": {"threshold": 1, "llr_threshold": 1}, "content": ANN},
        422,
        "give one",
    ),
    "one recording of two": ("POST", "/v1/verify", {"files": {"enroll": ANN}}, 400, "no test"),
    "an unknown part": ("POST", "/v1/embed", {"files": {"file": ANN}}, 400, "unknown part 'file'"),
    "two for one": (
        "POST",
        "/v1/embed",
        {"files": [("recording", ("a", ANN)), ("recording", ("b", BOB))]},
        400,
        "2 recordings",
    ),
    "many parts": (
        "POST",
        "/v1/enroll?name=a",
        {"files": [("recording", ("a", b"x"))] * 21},
        400,
        "at most 20",
    ),
    "many in JSON": ("POST", "/v1/enroll?name=a", {"json": {"recording": ["AA=="] * 21}}, 413, "at most 20"),
    "a field for a file": (
        "POST",
        "/v1/embed",
        {"data": {"recording": "a"}, "files": {"x": b""}},
        400,
        "files",
    ),
    "no boundary": (
        "POST",
        "/v1/embed",
        {"content": ANN, "headers": {"content-type": "multipart/form-data"}},
        400,
        "malformed form",
    ),
    "half a form": (
        "POST",
        "/v1/embed",
        {"content": b"--b\r\nContent-Dis", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        400,
        "",
    ),
    "a JSON list": ("POST", "/v1/embed", {"json": [1]}, 400, "JSON object"),
    "a number": ("POST", "/v1/embed", {"json": {"recording": 3}}, 400, "base64"),
    "no base64": ("POST", "/v1/embed", {"json": {"recording": "%%%"}}, 400, "base64"),
    "deep JSON": (
        "POST",
        "/v1/embed",
        {"content": b'{"recording":' + b"[" * 100_000, "headers": {"content-type": "application/json"}},
        400,
        "JSON",
    ),
    "another origin": ("GET", "/v1/people", {"headers": {"origin": "https://evil.example"}}, 403, "origin"),
    "no origin": ("POST", "/v1/embed", {"content": ANN, "headers": {"origin": "null"}}, 403, "origin"),
    "another host": ("GET", "/v1/people", {"headers": {"host": "evil.example"}}, 403, "Host"),
    "a malformed host": ("GET", "/v1/people", {"headers": {"host": "[::1"}}, 400, "malformed"),
    "nobody to remove": (
        "DELETE",
        "/v1/people",
        {"params": {"name": "'; DROP TABLE speakers"}},
        404,
        "nobody",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_wrong_and_hostile_requests_are_refused(name: str, asking: TestClient) -> None:
    method, path, given, status, reason = REQUESTS[name]
    refused(asking.request(method, path, **given), status, reason)


def test_an_api_key_is_asked_for(recognition: Recognition) -> None:
    key = "k" * 16
    client = TestClient(create_app(recognition, recognition.limits, key), "http://voices.example")
    assert client.get("/v1/health").json()["api_key"] and client.get("/").status_code == 200
    wrong: list[dict[str, str]] = [
        {},
        {"X-API-Key": key + "k"},
        {"Authorization": f"Basic {key}"},
        {"X-API-Key": ""},
    ]
    for headers in wrong:
        answer = client.get("/v1/people", headers=headers)
        refused(answer, 401, "API key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        assert client.get("/v1/people", headers=headers).status_code == 200
    refused(client.get("/v1/people", headers={"X-API-Key": key, "Origin": "https://evil.example"}), 403)


def test_no_other_origin_may_read(asking: TestClient) -> None:
    for method in ("GET", "OPTIONS"):
        headers = asking.request(method, "/v1/health", headers={"origin": "http://localhost"}).headers
        assert not [name for name in headers if name.startswith("access-control")]
    assert "default-src 'none'" in asking.get("/").headers["content-security-policy"]


def test_what_can_not_wait_is_told_when_to_come_again(
    recognition: Recognition, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = threading.Semaphore(0), threading.Event()

    def held(_: object) -> dict[str, Any]:
        begun.release()
        assert released.wait(30)
        return {}

    monkeypatch.setattr(recognition, "embed", held)
    limits = Limits(concurrent=1, waiting=0)
    with (
        TestClient(create_app(recognition, limits), "http://localhost") as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, "/v1/embed", content=ANN)
        assert begun.acquire(timeout=30)
        answer = client.post("/v1/embed", content=ANN)
        released.set()
        refused(answer, 503, "try again")
        assert int(answer.headers["retry-after"]) >= 1
        assert first.result().status_code == 200
        assert client.post("/v1/embed", content=ANN).status_code == 200


def test_a_computation_that_takes_too_long_is_given_up(
    recognition: Recognition, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(recognition, "embed", lambda _: {"waited": released.wait(30)})
    limits = Limits(concurrent=1, waiting=0, request_s=0.1)
    with TestClient(create_app(recognition, limits), "http://localhost") as client:
        refused(client.post("/v1/embed", content=ANN), 504, "0.1 s")
        # It still holds its thread.
        refused(client.post("/v1/embed", content=ANN), 503)
        released.set()


def broken(message: str) -> Callable[..., Any]:
    """Return a function that fails."""

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    return fail


def test_a_fault_of_the_service_tells_nothing(
    client: TestClient, recognition: Recognition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recognition, "embed", broken(f"secret of {tmp_path}"))
    refused(client.post("/v1/embed", content=ANN), 500, "internal error")
    (recognition.store.folder / "store.db").write_bytes(b"no database" * 100)
    for answer in (client.get("/v1/people"), client.post("/v1/identify", content=ANN)):
        refused(answer, 500, "the store failed")


def test_no_enrolment_is_lost_among_many_clients(client: TestClient, recognition: Recognition) -> None:
    sounds = [audio(voice(n % 6, 10 + n, 0.8)) for n in range(20)]
    alone = [client.post("/v1/embed", content=sound).json()["embedding"] for sound in sounds]

    def enroll(n: int) -> int:
        return client.post("/v1/enroll", params={"name": f"person {n}"}, content=sounds[n]).status_code

    def embed(n: int) -> list[float]:
        embedding: list[float] = client.post("/v1/embed", content=sounds[n]).json()["embedding"]
        return embedding

    with ThreadPoolExecutor(8) as pool:
        statuses, together = pool.map(enroll, range(20)), pool.map(embed, range(20))
        assert set(statuses) == {200}
        np.testing.assert_allclose(list(together), alone, rtol=1e-4, atol=1e-5)
    names = Store(recognition.store.folder).names()
    assert sorted(names) == sorted(["Ann", "Bob", *(f"person {n}" for n in range(20))])
    for n in (0, 19):
        np.testing.assert_allclose(
            recognition.store.utterances(f"person {n}")[0], alone[n], rtol=1e-5, atol=1e-5
        )
