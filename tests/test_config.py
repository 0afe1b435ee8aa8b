"""Recipes: typed deltas over defaults."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from speakerverif._util.toml import format_toml, from_dict, merge, override, to_dict
from speakerverif.config import Recipe, load_recipe
from speakerverif.errors import InputError


def test_recipe_survives_toml() -> None:
    recipe = from_dict(
        Recipe,
        {
            "name": 'quote " and \\ and \n',
            "augment": {"speeds": [1, 0.9]},
            "encoder": {"name": "ecapa", "channels": 8},
        },
        "here",
    )
    assert recipe.augment.speeds == (1.0, 0.9)
    assert from_dict(Recipe, tomllib.loads(format_toml(to_dict(recipe))), "there") == recipe


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"bach_size": 3}}, r"x.train: unknown key 'bach_size'; did you mean 'batch_size'?"),
        ({"train": {"epochs": "ten"}}, "x.train.epochs: expected float, found 'ten'"),
        ({"train": {"batch_size": True}}, "x.train.batch_size: expected int, found True"),
        ({"train": {"optimizer": "adam"}}, "'adam' is not one of 'sgd', 'adamw'"),
        ({"augment": {"gain_db": [1.0]}}, "x.augment.gain_db: expected 2 values, found 1"),
        ({"train": 3}, "x.train: expected a table, found 3"),
    ],
)
def test_wrong_tables_name_the_place(table: dict, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("[", r"\[")):
        from_dict(Recipe, table, "x")


def test_another_name_replaces_the_table() -> None:
    base = {"head": {"name": "am_softmax", "margin": 0.3}, "train": {"epochs": 3, "batch_size": 8}}
    assert merge(base, {"head": {"name": "softmax"}})["head"] == {"name": "softmax"}
    assert merge(base, {"head": {"scale": 20}})["head"] == {"name": "am_softmax", "margin": 0.3, "scale": 20}
    assert merge(base, {"train": {"epochs": 5}})["train"] == {"epochs": 5, "batch_size": 8}


def test_set_takes_toml_values_and_bare_words() -> None:
    tables = override({}, ["train.epochs=2", "head.name=softmax", "augment.speeds=[1.0, 0.9]"])
    assert tables == {"train": {"epochs": 2}, "head": {"name": "softmax"}, "augment": {"speeds": [1.0, 0.9]}}
    tuned = {"name": "a", "finetune": {"train": {"epochs": 3}, "head": {"margin": 0.5}}}
    assert override(tuned, ["finetune={}"]) == {"name": "a", "finetune": {}}
    assert override(tuned, ["finetune.head={}"])["finetune"] == {"train": {"epochs": 3}, "head": {}}
    assert tuned["finetune"]["head"] == {"margin": 0.5}
    with pytest.raises(InputError, match="expected key=value"):
        override({}, ["train.epochs"])


def test_base_is_a_recipe_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\nseed = 3\n[train]\nepochs = 7\n')
    (tmp_path / "b.toml").write_text('base = "a.toml"\nname = "b"\n')
    recipe = load_recipe(tmp_path / "b.toml", ["train.batch_size=4"])
    assert (recipe.name, recipe.seed, recipe.train.epochs, recipe.train.batch_size) == ("b", 3, 7.0, 4)
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    with pytest.raises(InputError, match="leads back"):
        load_recipe(tmp_path / "b.toml")


def test_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = \n")
    with pytest.raises(InputError, match=r"broken.toml: not a TOML file.*line 1"):
        load_recipe(tmp_path / "broken.toml")


def test_every_recipe_in_the_tree_is_valid() -> None:
    root = Path(__file__).resolve().parents[1]
    paths = [*root.glob("recipes/**/*.toml"), *root.glob("speakerverif/demos/*.toml")]
    assert paths
    for path in paths:
        assert dataclasses.is_dataclass(load_recipe(path))
