"""The examples of docs/heads.md, and the heads' plain keyword arguments."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

from speakerverif import heads
from speakerverif.errors import InputError

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "heads.md").read_text("utf-8")
CLASSES = [name for name, home in heads._HOME.items() if not home.startswith("_")]


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M):
        exec(block, names)
    assert capsys.readouterr().out.startswith("accuracy 0.")


@pytest.mark.parametrize("name", CLASSES)
def test_keyword_arguments_are_the_keys_of_recipes(name: str) -> None:
    module = importlib.import_module(f"speakerverif.heads.{heads._HOME[name]}")
    defaults = {f.name: f.default for f in dataclasses.fields(module.Config) if f.name != "base"}
    parameters = inspect.signature(getattr(heads, name)).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords == defaults


def test_wrong_values_are_named() -> None:
    for make, message in (
        (lambda: heads.AMSoftmax(6, 8, margin=2.0), r"head\.margin: found 2\.0, expected 0\.\.1"),
        (
            lambda: heads.Triplet(6, 8, mining="hard"),  # type: ignore[arg-type]
            r"head\.mining: found 'hard', expected batch_hard or semi_hard",
        ),
        (lambda: heads.SphereFace2(6, 8, kind="B"), r"head\.kind: found 'B', expected C or A"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_a_class_computes_what_its_recipe_does() -> None:
    table = {"name": "aam_softmax", "margin": 0.3, "sub_centers": 2, "top_k": 2}
    torch.manual_seed(0)
    built = heads.build(table, 6, 8)
    torch.manual_seed(0)
    called = heads.AAMSoftmax(6, 8, margin=0.3, sub_centers=2, top_k=2)
    embeddings, labels = torch.randn(5, 6), torch.arange(5)
    assert torch.equal(built(embeddings, labels)[0], called(embeddings, labels)[0])
