"""A head in a recipe: every recipe of the comparison trains, a new file is a new head, wrong values stop at once."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from speakerverif import heads
from speakerverif._util import registry
from speakerverif.config import Recipe, load_recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.training.log import read_log
from speakerverif.training.loop import train

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "recipes" / "heads").glob("*.toml") if p.stem not in ("small", "pairs"))


def with_head(recipe: Recipe, table: dict[str, Any], **changes: Any) -> Recipe:
    config = dataclasses.replace(recipe.train, **changes)
    return dataclasses.replace(recipe, head=table, train=config)


def test_the_comparison_has_a_recipe_for_every_head() -> None:
    assert {load_recipe(path).head["name"] for path in RECIPES} == set(registry.names("head"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_comparison_trains(
    path: Path, tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = load_recipe(path)
    balanced = 3 if recipe.train.speakers_per_batch else 0
    small = with_head(tiny_recipe, recipe.head, epochs=0.5, speakers_per_batch=balanced)
    small = dataclasses.replace(small, augment=recipe.augment)
    train(small, tiny_manifest, tmp_path)
    assert len(read_log(tmp_path)) == 2


def test_a_new_file_is_a_new_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    """The head of docs/extending.md, put in `heads/` as a file, trains by its name."""
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    (example,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "num_speakers: int) ->" in code
    )
    (tmp_path / "my_head.py").write_text(example)
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path)])
    assert "my_head" in registry.names("head")
    recipe = with_head(tiny_recipe, {"name": "my_head", "margin": 0.3}, epochs=0.5)
    train(recipe, tiny_manifest, tmp_path / "model")
    assert read_log(tmp_path / "model")[-1]["loss"] > 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "am_softmax", "margin": 1.5}, r"am_softmax\.margin: found 1\.5, expected"),
        ({"name": "aam_softmax", "scale": 0.0}, r"aam_softmax\.scale: found 0\.0, expected"),
        ({"name": "a_softmax", "margin": 5}, r"a_softmax\.margin: found 5, expected"),
        ({"name": "am_softmax", "magrin": 0.2}, r"unknown key 'magrin'; did you mean 'margin'"),
        ({"name": "am_sotfmax"}, r"unknown name 'am_sotfmax'; did you mean 'am_softmax'"),
    ],
)
def test_a_wrong_value_stops_before_the_first_step(
    table: dict[str, Any], said: str, tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    with pytest.raises(InputError, match=said):
        train(with_head(tiny_recipe, table), tiny_manifest, tmp_path / "model")
    assert not (tmp_path / "model").exists()
