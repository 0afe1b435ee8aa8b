"""Recipes: typed deltas over defaults."""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speakerverif._util import registry
from speakerverif._util.ranges import Range
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
def test_wrong_tables_name_the_place(table: dict[str, Any], message: str) -> None:
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
    tuned: dict[str, Any] = {"name": "a", "finetune": {"train": {"epochs": 3}, "head": {"margin": 0.5}}}
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


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size=0", "train.batch_size: found 0, expected 1..1,000,000"),
        ("train.epochs=-1", "train.epochs: found -1.0, expected a number above 0"),
        ("train.epochs=nan", "train.epochs: found nan, expected a number above 0"),
        ("train.learning_rate=inf", "train.learning_rate: found inf"),
        ("augment.probability=5", "augment.probability: found 5.0, expected 0..1"),
        (
            "augment.noise_snr_db=[15.0, 0.0]",
            "noise_snr_db: found [15.0, 0.0], expected the lower number first",
        ),
        ("augment.babble_speakers=[0, 3]", "augment.babble_speakers: found 0, expected 1..100"),
        ("augment.speeds=[]", "augment.speeds: found [], expected one or more"),
        ("augment.speeds=[1.0, -0.9]", "augment.speeds: found -0.9, expected 0.25..4"),
        ("train.crop_s=0", "train.crop_s: found 0.0, expected a number above 0"),
        ("train.workers=-3", "train.workers: found -3"),
        ("seed=-1", "seed: found -1"),
        ("features.num_mels=1000000000", "features.num_mels: found 1000000000, expected 1..1,024"),
        ("features.high_hz=9000", "features.high_hz: found 9000, expected at most 8000, half of sample_rate"),
        (
            "features.low_hz=8000",
            "features.low_hz: found 8000, expected less than the upper limit of 8000 Hz",
        ),
        ("features.frame_shift_ms=0.01", "features.frame_shift_ms: found 0.01, expected a sample or more"),
        ("score.p_target=[0.0]", "score.p_target: found 0.0"),
        (
            "train.margin_schedule={kind='linear', start_epoch=3, end_epoch=2}",
            "train.margin_schedule.start_epoch: found 3, expected at most end_epoch 2",
        ),
        ("train={batch_size=6, speakers_per_batch=4}", "train.batch_size: found 6, which is not a multiple"),
        ("encoder.x=" + "[" * 40 + "]" * 40, "nested more than 12 deep"),
        ("encoder.x=" + "[" * 5000 + "]" * 5000, "nested more than 12 deep"),
        (".".join("abcdefghijklmn") + "=1", "nested more than 12 deep"),
        ("name='../..'", "name: found '../..', expected a plain name"),
        ("name='a/b'", "name: found 'a/b', expected a plain name"),
        ("name='..'", "name: found '..', expected a plain name"),
    ],
)
def test_wrong_numbers_are_refused_with_what_is_allowed(
    tmp_path: Path, assignment: str, message: str
) -> None:
    (tmp_path / "r.toml").write_text("")
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "r.toml", [assignment])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        (
            "encoder",
            {"name": "ecapa", "res2_scale": 3},
            "res2_scale: found 3, expected a divisor of channels 512",
        ),
        ("encoder", {"name": "ecapa", "channels": 10**9}, "channels: found 1000000000, expected 1..16,384"),
        ("encoder", {"name": "xvector", "channels": -5}, "xvector.channels: found -5, expected 1..16,384"),
        (
            "encoder",
            {"name": "resnet_se", "blocks": [3, 4, 0, 3]},
            "resnet_se.blocks: found 0, expected 1..200",
        ),
        ("encoder", {"name": "resnet", "variance_floor": math.nan}, "variance_floor: found nan"),
        ("head", {"name": "am_softmax", "scale": math.inf}, "am_softmax.scale: found inf"),
        (
            "head",
            {"name": "aam_softmax", "sub_centers": 10**9},
            "sub_centers: found 1000000000, expected 1..1,000",
        ),
        ("backend", {"name": "lda", "dim": 0}, "lda.dim: found 0, expected 1..16,384"),
    ],
)
def test_wrong_numbers_of_encoders_heads_and_back_ends(
    kind: registry.Kind, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        registry.resolve(kind, table)
    assert message in str(caught.value)


def number_fields(cls: type, where: str) -> Iterator[tuple[str, object]]:
    """Yield the place and the type of every number of a configuration, those of its own tables included."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        plain = typing.get_type_hints(cls)[name]
        if isinstance(plain, type) and dataclasses.is_dataclass(plain):
            yield from number_fields(plain, f"{where}.{name}")
        elif {int, float} & {plain, *typing.get_args(plain)}:
            yield f"{where}.{name}", hint


def test_every_number_has_a_range_that_its_default_is_in() -> None:
    kinds: tuple[registry.Kind, ...] = ("encoder", "head", "backend")
    configs = [registry.find(kind, name, "").Config for kind in kinds for name in registry.names(kind)]
    fields = [field for cls in (Recipe, *configs) for field in number_fields(cls, cls.__module__)]
    assert len(fields) > 80
    without = [place for place, hint in fields if not any(isinstance(r, Range) for r in rules(hint))]
    assert not without
    for config in (Recipe, *configs):
        assert from_dict(config, to_dict(config()), "defaults") == config()


def rules(hint: object) -> tuple[object, ...]:
    """Return the annotations of a type."""
    return getattr(hint, "__metadata__", ())


def test_what_another_name_puts_back_to_defaults_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "speakerverif")
    tables = {"head": {"name": "am_softmax", "margin": 0.3, "scale": 40.0}, "encoder": {"name": "ecapa"}}
    override(tables, ["encoder.name=resnet", "head.name=softmax", "train.epochs=3"])
    assert caplog.messages == [
        "--set head.name=softmax: head softmax has its defaults; no longer in force: margin = 0.3, scale = 40.0"
    ]
    caplog.clear()
    override({"finetune": tables}, ["finetune.head={name='normface', scale=20}"])
    assert caplog.messages[0].endswith(
        "finetune.head normface has its defaults; no longer in force: margin = 0.3"
    )


def test_deep_and_wrong_files_are_one_line(tmp_path: Path) -> None:
    for text in (
        "a = " + "[" * 100_000,
        "a = " + "[" * 50 + "]" * 50,
        "\n".join(f"[{'a.' * n}b]" for n in (3, 40)),
    ):
        (tmp_path / "deep.toml").write_text(text)
        with pytest.raises(InputError, match=r"deep.toml: (not a TOML file|tables or lists are nested)"):
            load_recipe(tmp_path / "deep.toml")
