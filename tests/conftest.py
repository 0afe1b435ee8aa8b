"""Fixtures that every test file may use."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Two threads everywhere, so that figures and timings don't depend on the machine's size."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared corpora and lists beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared corpora beside the checkout (../shared)")
    return folder
