"""Names that the command line lists and completes, and recipes by name."""

from pathlib import Path

import pytest

from speakerverif.cli import main
from speakerverif.cli.listing import KINDS, RECIPES, SHELLS, recipe_path
from speakerverif.errors import InputError


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("heads", "am_softmax"),
        ("encoders", "ecapa"),
        ("backends", "plda"),
        ("corpora", "voxceleb"),
        ("models", "(none named)"),
        ("recipes", "voxceleb/ecapa_1024"),
    ],
)
def test_names_are_listed(kind: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert expected in names and len(set(names)) == len(names)
    assert not any(name.startswith("_") for name in names)


def test_every_kind_is_tried() -> None:
    assert set(KINDS) == {"heads", "encoders", "backends", "corpora", "models", "recipes"}


def test_a_model_fetched_from_the_hub_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models--org--voices--2" / "snapshots" / "0123456789"
    folder.mkdir(parents=True)
    for name in ("config.toml", "model.safetensors"):
        (folder / name).touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    main(["list", "models"])
    assert "org/voices--2  " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["voxceleb/ecapa_1024", "ecapa_1024", "ecapa_1024.toml"])
def test_a_recipe_is_found_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_path(Path(name)) == RECIPES / "voxceleb" / "ecapa_1024.toml"


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ecapa_1024.toml").touch()
    assert recipe_path(Path("ecapa_1024.toml")) == Path("ecapa_1024.toml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xvector", "which recipe is meant: speechocean762/xvector, voxceleb/xvector"),
        ("ecapa_1042", "did you mean"),
    ],
)
def test_a_name_that_says_too_little_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_path(Path(name))


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "verify" in script and "threshold" in script
