"""A service with a model of toy size, a calibration, and a store of two people."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from speakerverif.api.model import Model
from speakerverif.api.service.app import create_app
from speakerverif.api.service.limits import Limits
from speakerverif.api.service.recognition import Recognition
from speakerverif.inference.enrollment import Store
from speakerverif.models.folder import ModelFolder, read_model_folder
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.decision import DecisionPoint
from tests.conftest import RATE, voice

POINT = DecisionPoint(0.5, 0.04, 0.01, 100, 1000, 0)


def audio(samples: np.ndarray, kind: str = "WAV") -> bytes:
    """Return samples as the bytes of a 16-bit file."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="session")
def folder(tiny_model: Path) -> ModelFolder:
    """The loaded model."""
    return read_model_folder(tiny_model)


def recognition_in(place: Path, folder: ModelFolder) -> Recognition:
    """Return a model and a new store of Ann (speaker 0) and Bob (speaker 2), with a calibration."""
    store = Store(place / "people", folder.fingerprint, create=True)
    model = Model(folder)
    for name, speaker in (("Ann", 0), ("Bob", 2)):
        store.enroll(name, model.embed(voice(speaker, 0, 1.2), RATE))
    trials = place / "private" / "trials.txt"
    calibration = Calibration(
        ("cosine",), (), (10.0,), -5.0, 0.05, str(trials), "", folder.fingerprint, "cosine", POINT
    )
    calibration.save(place / "people" / "calibration.toml")
    return Recognition(folder, store, Limits(body_mb=1.0, audio_s=20.0, concurrent=2, idle_s=5.0))


@pytest.fixture
def recognition(folder: ModelFolder, tmp_path: Path) -> Recognition:
    """A model and a store that a test may change."""
    return recognition_in(tmp_path, folder)


@pytest.fixture
def client(recognition: Recognition) -> Iterator[TestClient]:
    """A client of a service without an API key."""
    app = create_app(recognition, recognition.limits)
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def asking(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a service that many tests ask and none changes."""
    recognition = recognition_in(tmp_path_factory.mktemp("service"), folder)
    with TestClient(create_app(recognition, recognition.limits), "http://localhost") as client:
        yield client
