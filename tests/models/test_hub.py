"""Models go to a hub and come back, then from the local cache without a network; the hub is a stub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from speakerverif.exchange.importers import import_model
from speakerverif.exchange.push import push
from speakerverif.models import hub as client
from speakerverif.models.folder import read_model_folder
from tests import foreign_models as foreign
from tests.hub_stub import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stub in place of the hub, and an empty cache. What the environment says was read at import."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    yield server
    server.close()


def test_push_load_and_load_offline(hub: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["push", str(tiny_model), "org/tiny", "--license", "cc-by-4.0"]) == 0
    files = hub.repos["org/tiny"]
    assert set(files) == {"config.toml", "model.safetensors", "head.safetensors", "speakers.txt", "README.md"}
    assert files["model.safetensors"] == (tiny_model / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: speakerverif\n")
    assert "license: cc-by-4.0" in card and 'load_model("org/tiny")' in card

    identity = read_model_folder(tiny_model).fingerprint
    assert read_model_folder("org/tiny").fingerprint == identity
    assert read_model_folder("org/tiny").path.is_dir()
    asked = len(hub.requests)
    assert read_model_folder("org/tiny").fingerprint == identity  # from the cache, where nobody is asked
    assert len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.close()
    assert read_model_folder("org/tiny").fingerprint == identity


def test_what_the_hub_does_not_have(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/empty"] = {"README.md": b"nothing"}
    with pytest.raises(InputError, match="org/absent: no such folder here, and not to be had"):
        read_model_folder("org/absent")
    with pytest.raises(InputError, match=r"org/empty: .* has no config\.toml and no model\.safetensors"):
        read_model_folder("org/empty")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="not to be had"):
        read_model_folder("org/absent")


def test_a_push_refused_is_said(
    hub: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "answer", lambda *request: (403, b"{}", {}))
    with pytest.raises(InputError, match=r"org/tiny: not pushed: .*HF_TOKEN"):
        push(tiny_model, "org/tiny")
    with pytest.raises(InputError, match="expected a model folder"):
        push(tmp_path / "absent", "org/tiny")


def test_names() -> None:
    for wrong in ("model", "a/b/c", "/tmp/x", "../a", "a/b c"):
        assert client.NAME.fullmatch(wrong) is None
    with pytest.raises(InputError, match="expected org/name"):
        client.upload("org/name@v1", {}, "")
    with pytest.raises(InputError, match="no such file or folder"):
        client.fetch("not a name", ())


def test_another_toolkits_model_is_imported_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder = foreign.speechbrain_folder(tmp_path / "source", foreign.SPEECHBRAIN_ECAPA, 80)
    hub.repos["speechbrain/spkrec"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["import", "speechbrain", "speechbrain/spkrec", "--out", str(tmp_path / "model")]) == 0
    assert read_model_folder(tmp_path / "model").speakers == ["id10001", "id10002"]
    assert not any("mean_var_norm_emb" in request for request in hub.requests)


def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    hub: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert main(["push", str(tiny_model), "runs/tiny"]) == 0
    asked = len(hub.requests)
    with pytest.raises(
        InputError, match=r"no such file or folder, though .* runs here; .* say runs/tiny@main"
    ):
        read_model_folder("runs/tiny")
    with pytest.raises(InputError, match=r"runs/tiny: no such file or folder, though"):
        import_model("speechbrain", "runs/tiny", tmp_path / "out")
    assert len(hub.requests) == asked
    assert read_model_folder("runs/tiny@main").fingerprint == read_model_folder(tiny_model).fingerprint
