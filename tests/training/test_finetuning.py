"""Fine-tuning: the model to begin with, its classes, parts that learn, low-rank changes, batches in parts."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from speakerverif import heads
from speakerverif._util.toml import format_toml, from_dict, to_dict
from speakerverif.config import AugmentConfig, DataConfig, LoraConfig, Recipe, TrainConfig, load_recipe
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.models.encoders import redimnet
from speakerverif.models.folder import WEIGHTS, read_config, read_model_folder
from speakerverif.training import parts, plan
from speakerverif.training.batches import Batch
from speakerverif.training.loop import new_training, train, train_step
from speakerverif.training.stages import run
from speakerverif.training.start import speakers_with_former, start_of, unperturbed, with_network
from speakerverif.training.state import TrainingState

NAMES = ["s0", "s1", "s2"]
MANIFEST = Manifest.from_utterances(Utterance(str(i), "x.wav", "s") for i in range(12))
XVECTOR = {"name": "xvector", "channels": 8, "pooling_channels": 12, "embedding_dim": 8}


def recipe(**settings: object) -> Recipe:
    """A network without dropout whose batch norm is in eval mode where it is frozen."""
    tables = {
        "features": {"num_mels": 8},
        "encoder": XVECTOR,
        "train": {"batch_size": 12, "epochs": 2.0, "learning_rate": 0.1, "warmup_epochs": 0.0, **settings},
    }
    return from_dict(Recipe, tables, "test")


def batch(size: int = 12) -> Batch:
    rng = np.random.default_rng(0)
    waveform = torch.from_numpy(rng.standard_normal((size, 8000)).astype(np.float32))
    return Batch(waveform, torch.arange(size) % 3, torch.arange(size), {})


def weights(training: TrainingState) -> dict[str, torch.Tensor]:
    both = {"encoder": training.model.encoder, "head": training.head}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in both.items()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def changed(training: TrainingState, settings: Recipe, epoch: float = 0.5) -> set[str]:
    """Return the tensors that a step changes."""
    before = weights(training)
    train_step(training, settings, batch(), epoch, MANIFEST)
    return {name for name, tensor in weights(training).items() if not torch.equal(tensor, before[name])}


def started(settings: Recipe, names: list[str] = NAMES, start: Path | None = None) -> TrainingState:
    torch.manual_seed(0)
    return new_training(settings, names, "cpu", start)


def test_frozen_parts_keep_weights_and_statistics() -> None:
    moved = changed(started(recipe()), recipe())
    layer = next(name for name in moved if "running_mean" in name).rpartition(".")[0]
    settings = recipe(freeze=[layer])
    left = changed(started(settings), settings)
    assert {name for name in moved if name.startswith(layer)} and not any(n.startswith(layer) for n in left)
    assert moved - left == {name for name in moved if name.startswith(layer)}
    settings = recipe(freeze=["encoder"])
    assert changed(started(settings), settings) == {"head.weight"}


def test_the_head_learns_alone_at_first() -> None:
    settings = recipe(head_epochs=1.0)
    training = started(settings)
    assert changed(training, settings, 0.9) == {"head.weight"}
    assert "head.weight" in (moved := changed(training, settings, 1.0)) and len(moved) > 5
    assert any("running_mean" in name for name in moved)


def test_rates_of_parts() -> None:
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": 0.0}
    steps = []
    for rates in ({}, {"encoder": 0.25, "encoder.embedding": 4}):
        settings = recipe(**plain, rates=rates)
        training = started(settings)
        before = weights(training)
        changed(training, settings)
        steps.append({name: tensor - before[name] for name, tensor in weights(training).items()})
    for name, factor in (("head.weight", 1), ("encoder.embedding.weight", 4)):
        torch.testing.assert_close(steps[1][name], factor * steps[0][name], rtol=1e-3, atol=1e-6)
    name = next(name for name in steps[0] if name.endswith("weight") and "embedding" not in name)
    torch.testing.assert_close(steps[1][name], 0.25 * steps[0][name], rtol=1e-3, atol=1e-6)


class Plain(nn.Module):
    """A network without batch norm."""

    embedding_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        embedding: torch.Tensor = self.last(self.query(features).tanh().mean(1))
        return embedding


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_a_batch_in_parts_gives_the_step_of_the_whole(accumulate: int, double: None) -> None:
    results = []
    for count in (1, accumulate):
        settings = recipe(accumulate=count, max_grad_norm=0.5)
        training = started(recipe())
        torch.manual_seed(1)
        training.model.encoder = Plain()
        training.head = heads.build({"name": "am_softmax"}, 5, 3)
        groups = parts.optimizer_groups(training.model.encoder, training.head, settings.train)
        training.optimizer = torch.optim.SGD(groups, 0.1)
        training.model.double()
        training.head.double()
        doubled = dataclasses.replace(batch(), waveform=batch().waveform.double())
        figures = train_step(training, settings, doubled, 0.5, MANIFEST)
        results.append((figures, weights(training)))
    (whole, first), (summed, second) = results
    assert summed.loss == pytest.approx(whole.loss, abs=1e-10)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-10)


def test_low_rank_changes_start_at_nothing_and_are_merged() -> None:
    encoder, config = Plain(), LoraConfig(rank=2, alpha=4.0)
    inputs, query = torch.randn(3, 7, 8), encoder.query.weight.detach().clone()
    before = encoder(inputs)
    parts.add_low_rank_changes(encoder, config)
    parts.freeze(encoder, nn.Linear(2, 2), TrainConfig(freeze=("encoder",)))
    torch.testing.assert_close(encoder(inputs), before)
    learning = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert learning == [f"query.parametrizations.weight.0.{name}" for name in ("down", "up")]
    encoder(inputs).square().sum().backward()
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], 0.1).step()
    tensors = parts.merged(encoder)
    assert set(tensors) == {f"{layer}.{kind}" for layer in ("query", "last") for kind in ("weight", "bias")}
    change = tensors["query.weight"] - query
    assert torch.linalg.matrix_rank(change) == 2 and change.abs().max() > 0
    plain = Plain()
    plain.load_state_dict(tensors)
    torch.testing.assert_close(plain(inputs), encoder(inputs))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"freeze": ["encoder.framez"]}, "no part 'encoder.framez' that learns"),
        ({"rates": {"tail": 1}}, "no part 'tail' that learns"),
        ({"rates": {"head": -1}}, "rates.head: found -1"),
        ({"freeze": ["encoder", "head"]}, "nothing would learn"),
        ({"lora": {"rank": 2}}, "for encoders with attention"),
        ({"accumulate": 5}, "not a multiple of accumulate 5"),
        ({"head_epochs": 2.0}, "expected less than epochs 2"),
    ],
)
def test_wrong_parts_are_refused_before_training(train: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan.check(recipe(**train), 3)


@pytest.mark.parametrize("head", ["ge2e", "center"])
def test_heads_that_need_the_whole_batch_refuse_parts(head: str) -> None:
    with pytest.raises(InputError, match="needs the whole batch at once"):
        plan.check(dataclasses.replace(recipe(accumulate=2), head={"name": head}), 3)
    plan.check(dataclasses.replace(recipe(), head={"name": head}), 3)


def test_old_classes_are_kept_beside_new_ones(
    tiny_model: Path, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "speakerverif")
    former = read_model_folder(tiny_model).speakers
    assert unperturbed(former) == [f"spk{i}" for i in range(6)]
    speakers = speakers_with_former(["new", "spk3"], tiny_model)
    assert speakers == [*(f"spk{i}" for i in range(6)), "new"]
    names = [*speakers, *(f"{name}@speed0.9" for name in speakers)]
    kept = dataclasses.replace(tiny_recipe.train, old_classes="keep")
    training = started(dataclasses.replace(tiny_recipe, train=kept), names, tiny_model)
    before = started(tiny_recipe, former, tiny_model).head.weight
    rows = [names.index(name) for name in former]
    assert isinstance(before, torch.Tensor) and isinstance(training.head.weight, torch.Tensor)
    assert torch.equal(training.head.weight[rows], before)
    assert "12 of its 12 classes are kept, 2 are new" in caplog.text
    other = dataclasses.replace(tiny_recipe, head={"name": "sphereface2"}, train=kept)
    with pytest.raises(InputError, match=r"set train\.old_classes"):
        started(other, names, tiny_model)


def test_a_recipe_without_a_network_takes_the_models(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(format_toml({"train": {"epochs": 1.0}}))
    start = [f"train.start_from='{tiny_model}'"]
    taken = with_network(load_recipe(path, start))
    former, _ = read_config(tiny_model)
    assert (taken.encoder, taken.features) == (former.encoder, former.features)
    assert start_of(taken) == tiny_model and with_network(taken) is taken
    assert load_recipe(path).encoder == Recipe().encoder  # without a start: the default
    with pytest.raises(InputError, match="both come with the model"):
        load_recipe(path, [*start, "features.num_mels=40"])
    with pytest.raises(InputError, match="no such model folder"):
        with_network(load_recipe(path, ["train.start_from='nowhere'"]))
    starter = with_network(load_recipe(path, ["train.start_from='starter'"]))
    assert starter.encoder["name"] == "ensemble"
    assert to_dict(starter)["train"]["start_from"] == "starter"


def test_your_own_recordings_through_all_stages_from_a_model(
    tiny_corpus: Path, tiny_model: Path, tiny_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "speakerverif")
    settings = dataclasses.replace(
        tiny_recipe,
        encoder={},
        data=DataConfig(corpus="own", validation_trials="validation"),
        augment=AugmentConfig(),
        train=dataclasses.replace(
            tiny_recipe.train, start_from=str(tiny_model), old_classes="keep", head_epochs=0.5, epochs=1.0
        ),
    )
    stages = ("prepare", "train", "embed", "score")
    records = run(settings, tmp_path, data_dir=tiny_corpus, stages=stages)
    assert records["validation"].trials == 24
    assert records["validation"].model is not None
    assert "validation: 24 trials" in caplog.text and "6 of its 12 classes are kept, 0 are new" in caplog.text
    tuned = read_model_folder(tmp_path / "model")
    assert tuned.recipe.encoder == tiny_recipe.encoder and len(tuned.speakers) == 6


def test_low_rank_changes_of_attention_are_trained_resumed_and_saved_in_the_weights(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = redimnet.Stage(1, 1, 1, 12), redimnet.Stage(2, 1, 1, 12)
    narrow = redimnet.SIZES["B0"]._replace(channels=8, group=8, stages=stages)
    monkeypatch.setitem(redimnet.SIZES, "B0", narrow)
    tables: dict[str, dict[str, Any]] = {
        "features": {"num_mels": 24},
        "encoder": {"name": "redimnet", "size": "B0", "embedding_dim": 8},
        "train": {"epochs": 0.5, "batch_size": 6, "crop_s": 0.3, "workers": 0},
    }
    plain = train(from_dict(Recipe, tables, "plain"), tiny_manifest, tmp_path / "plain")
    tables["train"] |= {
        "lora": {"rank": 2},
        "freeze": ["encoder"],
        "start_from": str(plain),
        "average": "ema",
    }
    settings = from_dict(Recipe, tables, "lora")
    whole = train(settings, tiny_manifest, tmp_path / "whole")
    train(settings, tiny_manifest, tmp_path / "tuned", stop_after_steps=1)
    tuned = train(settings, tiny_manifest, tmp_path / "tuned")
    before, after = (load_file(folder / WEIGHTS) for folder in (plain, tuned))
    assert (tuned / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved
    assert all(name.rsplit(".", 2)[1] in ("query", "key", "value") for name in moved)
    for name in moved:
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4) <= 2
    assert read_model_folder(tuned).trained["finished"]
