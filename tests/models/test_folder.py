"""Model folders: what goes in comes out, and what is damaged is named."""

import dataclasses
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speakerverif._util.toml import format_toml
from speakerverif.errors import InputError
from speakerverif.models import folder
from speakerverif.models.encoders import ecapa
from speakerverif.models.folder import CONFIG, SPEAKERS, WEIGHTS, read_model_folder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.weights import fingerprint


def copy_of(model: Path, to: Path) -> Path:
    return Path(shutil.copytree(model, to / "copy"))


def test_loading_gives_the_same_model(tiny_model: Path) -> None:
    first, second = read_model_folder(tiny_model), read_model_folder(tiny_model)
    assert isinstance(first.model, SpeakerModel)
    assert first.fingerprint == second.fingerprint == fingerprint(first.model)
    waveform = torch.randn(2, 8000)
    assert torch.equal(first.model(waveform), second.model(waveform))
    assert not first.model.training and first.trained["finished"] is True


def test_fingerprint_tells_weights_and_features_apart(tiny_model: Path) -> None:
    model = read_model_folder(tiny_model).model
    assert isinstance(model, SpeakerModel)
    before = fingerprint(model)
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1e-6)
    assert fingerprint(model) != before


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, SPEAKERS])
def test_a_missing_file_is_named(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(tiny_model, tmp_path)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_model_folder(folder)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_damaged_weights_are_named(tiny_model: Path, tmp_path: Path, keep: int) -> None:
    folder = copy_of(tiny_model, tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model.safetensors: damaged"):
        read_model_folder(folder)


def test_weights_of_another_network_are_listed(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    config = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(config.replace("mfa_channels = 24", "mfa_channels = 32"))
    with pytest.raises(InputError, match=r"does not fit config.toml: .*has shape .* expected"):
        read_model_folder(folder)
    (folder / CONFIG).write_text(config.replace("mfa_channels", "mfa_chanels"))
    with pytest.raises(InputError, match=r"unknown key 'mfa_chanels'; did you mean 'mfa_channels'"):
        read_model_folder(folder)


def test_weights_stored_as_float16_are_the_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    stored = load_file(folder / WEIGHTS)
    halved = {n: t.half() if t.is_floating_point() and t.ndim > 1 else t for n, t in stored.items()}
    save_file(halved, folder / WEIGHTS)
    loaded = read_model_folder(folder)
    assert isinstance(loaded.model, SpeakerModel)
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == stored[name].dtype
        assert torch.equal(tensor, halved[name].to(tensor.dtype))
    assert loaded.fingerprint != read_model_folder(tiny_model).fingerprint
    save_file({n: t.float() if t.is_floating_point() else t for n, t in halved.items()}, folder / WEIGHTS)
    assert read_model_folder(folder).fingerprint == loaded.fingerprint


def test_without_a_model_the_packages_own_is_taken_and_said(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "speakerverif")
    monkeypatch.setattr(folder, "DEFAULT", tiny_model)
    found = read_model_folder()
    (message,) = caplog.messages
    assert found.name in message
    assert found.fingerprint in message
    caplog.clear()
    read_model_folder(tiny_model)
    assert not caplog.messages


def test_without_any_model_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "DEFAULT", tmp_path)
    with pytest.raises(InputError, match="--model"):
        read_model_folder()
    with pytest.raises(InputError, match="no such model folder"):
        read_model_folder(tmp_path / "none")


def test_every_value_in_force_is_recorded_and_the_fingerprint_is_of_the_table_as_written(
    tiny_model: Path, tmp_path: Path
) -> None:
    tables = tomllib.loads((tiny_model / CONFIG).read_text())
    written, defaults = tables["encoder"], tables["defaults"]["encoder"]
    assert not set(written) & set(defaults)
    assert {"name", *defaults, *written} == {"name", *(f.name for f in dataclasses.fields(ecapa.Config))}
    assert tables["defaults"]["head"]["margin"] == 0.2 and tables["defaults"]["backend"] == {
        "subtract_mean": False
    }
    # A folder written before defaults were recorded is the same model.
    former = copy_of(tiny_model, tmp_path)
    del tables["defaults"]
    (former / CONFIG).write_text(format_toml(tables))
    assert read_model_folder(former).fingerprint == read_model_folder(tiny_model).fingerprint


def test_a_configuration_too_large_for_memory_is_refused_before_it_is_built(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_model, tmp_path)
    config = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(config.replace("\nchannels = 16", "\nchannels = 16384"))  # 25 GB
    with pytest.raises(InputError, match=r"does not fit config.toml: .*has shape .* expected"):
        read_model_folder(folder)
    (folder / CONFIG).write_text(config.replace("\nchannels = 16", "\nchannels = 1000000000"))
    with pytest.raises(InputError, match=r"channels: found 1000000000, expected 1\.\.16,384"):
        read_model_folder(folder)
