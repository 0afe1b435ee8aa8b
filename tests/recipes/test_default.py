"""The tools that make the default model: members joined into an ensemble, and the folder that ships."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speakerverif._util.toml import from_dict, override, to_dict
from speakerverif.config import Recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed
from speakerverif.models.encoders.ensemble import Ensemble
from speakerverif.models.folder import CALIBRATION, CONFIG, HEAD, WEIGHTS, read_model_folder
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring.scorer import COHORT, Scoring
from speakerverif.training.loop import train
from tools import join_models, pack_model


@pytest.fixture(scope="module")
def on_joining(tiny_recipe: Recipe) -> Recipe:
    changed = override(
        to_dict(tiny_recipe),
        [
            "name=together",
            "train.epochs=1",
            "train.crops_per_speaker=40",
            "score.norm=asnorm",
            "score.top_n=3",
        ],
    )
    return from_dict(Recipe, changed, "joined")


@pytest.fixture(scope="module")
def joined(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    tiny_recipe: Recipe,
    on_joining: Recipe,
    tiny_manifest: Manifest,
) -> Path:
    """Two members of different seeds, joined and whitened on the training list."""
    folder = tmp_path_factory.mktemp("joined")
    other = from_dict(
        Recipe, override(to_dict(tiny_recipe), ["name=other", "seed=1", "train.epochs=1"]), "other"
    )
    train(other, tiny_manifest, folder / "other")
    members = [read_model_folder(tiny_model), read_model_folder(folder / "other")]
    join_models.join(on_joining, members, tiny_manifest, None, folder / "model")
    return folder / "model"


def test_a_joined_model_averages_its_members_cosines_and_the_whitened_one(
    joined: Path, tiny_model: Path, tiny_manifest: Manifest
) -> None:
    folder = read_model_folder(joined)
    assert folder.name == "together" and len(folder.trained["joined"]) == 2
    assert not (joined / HEAD).exists()
    rows = embed(folder, tiny_manifest).embeddings.astype(np.float64)
    width = rows.shape[1] // 2
    for part in (rows[:, :width], rows[:, width:]):
        assert np.linalg.norm(part, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    members = [read_model_folder(path) for path in (tiny_model, joined.parent / "other")]
    alone = [embed(member, tiny_manifest).embeddings for member in members]
    units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in alone]
    expected = np.mean([vectors @ vectors.T for vectors in units], axis=0)
    assert rows[:, :width] @ rows[:, :width].T == pytest.approx(expected, abs=1e-5)


def test_whitening_leaves_one_speakers_crops_alike_in_every_direction(
    joined: Path, tiny_manifest: Manifest
) -> None:
    folder = read_model_folder(joined)
    speakers = np.array([u.speaker for u in tiny_manifest])
    rows = embed(folder, tiny_manifest).embeddings
    assert isinstance(folder.model, SpeakerModel) and isinstance(folder.model.encoder, Ensemble)
    layer = folder.model.encoder.whitening
    assert layer is not None
    side_by_side = rows[:, : layer.in_features]

    def spread(vectors: np.ndarray) -> float:
        """How unequal the variances within speakers are: the largest over the median."""
        centred = np.concatenate(
            [vectors[speakers == s] - vectors[speakers == s].mean(0) for s in set(speakers)]
        )
        variances = np.linalg.svd(centred, compute_uv=False)[: len(centred) - len(set(speakers))] ** 2
        return float(variances[0] / np.median(variances))

    whitened = side_by_side @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert spread(whitened) < spread(side_by_side)


def test_joining_refuses_what_does_not_fit(
    on_joining: Recipe, tiny_model: Path, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    join, member = join_models.join, read_model_folder(tiny_model)
    with pytest.raises(InputError, match="models of the same name: tiny, tiny"):
        join(on_joining, [member, member], tiny_manifest, None, tmp_path / "m")
    wider = from_dict(Recipe, override(to_dict(on_joining), ["features.num_mels=30"]), "wider")
    with pytest.raises(InputError, match="tiny: other features than the recipe's"):
        join(wider, [member], tiny_manifest, None, tmp_path / "m")
    assert not (tmp_path / "m").exists()


Packing = tuple[Callable[..., dict[str, Any]], Path]  # `pack`, and the folder that it writes


@pytest.fixture(scope="module")
def packing(
    joined: Path, tiny_corpus: Path, tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Packing:
    """How the joined model is packed: call it with what differs; it returns what was found."""
    folder = tmp_path_factory.mktemp("pack")
    tiny_manifest.write(folder / "train.tsv")
    names = [u.id for u in tiny_manifest]
    rows = [f"{int(a[:4] == b[:4])} {a} {b}\n" for a, b in combinations(names, 2)]
    (folder / "trials.txt").write_text("".join(rows))

    def pack(source: Path = joined, out: Path = folder / "small", **options: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "train": folder / "train.tsv",
            "assignments": [],
            "far": 0.05,
            "p_target": 0.05,
            **options,
        }
        return pack_model.pack(source, out, folder / "trials.txt", tiny_corpus, **given)

    return pack, folder / "small"


def test_the_packed_model_is_small_and_scores_as_its_recipe_says(packing: Packing, joined: Path) -> None:
    pack, out = packing
    found = pack()
    stored, before = load_file(out / WEIGHTS), load_file(joined / WEIGHTS)
    assert {t.dtype for t in stored.values() if t.ndim > 1} == {torch.float16}
    for name, tensor in before.items():
        torch.testing.assert_close(stored[name].float(), tensor.float(), rtol=1e-3, atol=1e-6)
    folder = read_model_folder(out)
    assert (folder.fingerprint, folder.name) == (found["fingerprint"], "together")
    assert found["least_cosine_to_float32"] > 0.9999
    assert found["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert (out / COHORT).is_file() and (out / CALIBRATION).is_file() and not (out / HEAD).exists()
    assert folder.calibration is not None
    assert found["scoring"] == Scoring.load(out, folder.fingerprint).name == folder.calibration.scoring
    heard = found["calibrated_on"]
    assert heard["list"].endswith("/trials.txt") and (heard["trials"], heard["speakers"]) == (276, 6)
    assert pack()["fingerprint"] == found["fingerprint"], "a model folder that is there is replaced"


def test_packing_refuses_what_would_lose_something(packing: Packing, joined: Path, tmp_path: Path) -> None:
    pack, _ = packing
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("of years")
    with pytest.raises(InputError, match="is there, and no model folder"):
        pack(out=tmp_path / "mine")
    with pytest.raises(InputError, match=r"--train M\.tsv"):
        pack(out=tmp_path / "new", train=None)
    text = (joined / CONFIG).read_text()
    going_on = tmp_path / "going-on"
    going_on.mkdir()
    for path in joined.iterdir():
        if path.is_file():
            (going_on / path.name).write_bytes(path.read_bytes())
    (going_on / CONFIG).write_text(text.replace("finished = true", "finished = false"))
    with pytest.raises(InputError, match="its training has not finished"):
        pack(going_on, tmp_path / "new")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "new").exists()
