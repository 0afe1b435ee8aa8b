"""Parts by name: which dotted names are imported, and how those that can't be are refused."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakerverif._util import registry
from speakerverif.config import load_recipe
from speakerverif.errors import InputError

HEAD = "from dataclasses import dataclass\n@dataclass\nclass Config:\n    x: int = 1\ndef build(*_): ...\n"


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that Python finds and nobody trusts yet."""
    (tmp_path / "outside_parts").mkdir()
    (tmp_path / "outside_parts" / "head.py").write_text(HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_trusted", set())
    monkeypatch.delenv(registry.TRUSTED_MODULES, raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("outside_parts")]:
        del sys.modules[name]


def test_a_module_is_imported_only_if_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for listed in ("", "outside", "other,outside_parts.head2", " , "):
        monkeypatch.setenv(registry.TRUSTED_MODULES, listed)
        with pytest.raises(
            InputError, match=r"^here: outside_parts\.head is a module from outside .* runs its code"
        ):
            registry.find("head", "outside_parts.head", "here")
    assert "outside_parts.head" not in sys.modules
    for listed in ("outside_parts", "other, outside_parts.head"):
        monkeypatch.setenv(registry.TRUSTED_MODULES, listed)
        assert registry.find("head", "outside_parts.head", "here").Config().x == 1
    monkeypatch.delenv(registry.TRUSTED_MODULES)
    assert registry.find("head", "outside_parts.head", "here")  # imported by now


def test_a_recipe_is_trusted_for_the_modules_that_it_names(outside: Path) -> None:
    recipe = outside / "r.toml"
    recipe.write_text(
        'name = "my.recipe"\n[data]\ncorpus = "a.corpus"\nalso = ["b.corpus"]\n'
        '[encoder]\nname = "ensemble"\nmembers = {one = {name = "c.encoder"}}\n'
        '[head]\nname = "center"\nbase = {name = "d.head"}\n[finetune.head]\nname = "e.head"\n'
    )
    load_recipe(recipe, ["backend.name=f.backend"])
    trusted = {"a.corpus", "b.corpus", "c.encoder", "d.head", "e.head", "f.backend"}
    assert {name for name in registry._trusted if "." in name} == trusted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("outside_parts.none", "", r"no module outside_parts\.none: No module named 'outside_parts\.none'; install it"),
        ("nowhere_at_all.head", "", r"no module nowhere_at_all\.head: .*PYTHONPATH"),
        ("outside_parts.needy", "import nothing_of_the_kind", "needy failed: No module named 'nothing_of_the_kind'"),
        ("outside_parts.broken", "x = (", r"broken failed: SyntaxError: .*broken\.py, line 1"),
        ("outside_parts.raises", "\n1 / 0", r"raises failed: .*raises\.py:2: ZeroDivisionError"),
        ("outside_parts.empty", "", r"empty\.py lacks the function build\(config, .* and the dataclass Config"),
        ("outside_parts.plain", "class Config: ...\ndef build(): ...", r"plain\.py lacks the dataclass Config$"),
        ("outside_parts.half", HEAD.replace("build", "make"), r"half\.py lacks the function build\("),
        (".outside_parts.head", "", "not the dotted name of a module"),
        ("outside_parts..head", "", "not the dotted name of a module"),
        ("outside_parts/head.py", "", "not the dotted name of a module"),
    ],
)  # fmt: skip
def test_what_cant_be_used_is_refused(outside: Path, name: str, text: str, message: str) -> None:
    if text or name.endswith(".empty"):
        (outside / "outside_parts" / f"{name.rpartition('.')[2]}.py").write_text(text)
    registry.trust([name])
    with pytest.raises(InputError, match=f"^here: .*{message}"):
        registry.find("head", name, "here")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown name 'am_softmx'; did you mean 'am_softmax'"):
        registry.find("head", "am_softmx", "here")
