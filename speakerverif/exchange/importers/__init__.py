"""Other toolkits' checkpoints to model folders: one file per kind, found by its `KIND`.

Each kind reads its toolkit's files into a `Foreign`: features, network, and each tensor under its name here. Tensors
that are missing, unknown or of another shape are errors; none is left out in silence. Nothing in a checkpoint is
executed: pickles and YAML are read as data.
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from speakerverif._util.messages import nearest
from speakerverif._util.toml import from_dict, override, to_dict
from speakerverif.config import FeatureConfig, Recipe, TrainConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._foreign import Foreign, fitted
from speakerverif.models import hub
from speakerverif.models.folder import CONFIG, save_model


def kinds() -> dict[str, ModuleType]:
    """Return the kinds of checkpoints that can be imported: name and module."""
    module_names = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in module_names]
    return {module.KIND: module for module in modules}


def import_model(kind: str, source: str | Path, out: str | Path, assignments: Sequence[str] = ()) -> Foreign:
    """Write the model folder of another toolkit's checkpoint, and return the imported model.

    Args:
        kind: one of `kinds()`.
        source: a file or folder as the toolkit writes it; or `org/name` on the Hugging Face hub, where no such
            folder exists.
        out: the model folder; must not hold a model yet.
        assignments: `features.KEY=VALUE` or `encoder.KEY=VALUE`, in place of what the files say or leave open.

    Raises:
        InputError: unknown kind, no such source, a file that is not of that kind, tensors that don't fit, or a setting
            that decides the embeddings and that neither the files nor the assignments give.
    """
    importers, out = kinds(), Path(out)
    if kind not in importers:
        raise InputError(f"unknown kind {kind!r}; {nearest(kind, list(importers))}")
    if (out / CONFIG).exists():
        raise InputError(f"{out}: already holds a model; name another folder with --out")
    path = Path(source) if Path(source).exists() else hub.fetch(str(source), importers[kind].FILES)
    foreign = _answered(importers[kind].read(path), list(assignments))
    weights = fitted(foreign)
    recipe = Recipe(
        name=foreign.name or path.resolve().stem,
        features=foreign.features,
        encoder=foreign.network.encoder,
        head={},  # the other toolkit's class weights are dropped
        train=TrainConfig(crop_s=foreign.crop_s),
    )
    digest = hashlib.sha256(foreign.weights_file.read_bytes()).hexdigest()
    facts = {"imported_from": kind, "source": str(source), "source_sha256": digest, **foreign.facts}
    if assignments:
        facts["set"] = list(assignments)
    with torch.inference_mode():
        save_model(out, weights, {}, recipe, foreign.speakers, facts)
    return foreign


def _answered(foreign: Foreign, assignments: list[str]) -> Foreign:
    """Return the model with the user's settings; raise `InputError` where a question is left open."""
    given = {text.partition("=")[0].strip() for text in assignments}
    for key in given:
        if key.partition(".")[0] not in ("features", "encoder"):
            raise InputError(f"--set {key}: expected features.KEY=VALUE or encoder.KEY=VALUE")
    for question in foreign.questions:
        if not given.issuperset(question.keys):
            raise InputError(f"{foreign.weights_file}: {question.text}")
    tables = {"features": to_dict(foreign.features), "encoder": foreign.network.encoder}
    tables = override(tables, assignments)
    return replace(
        foreign,
        features=from_dict(FeatureConfig, tables["features"], "[features]"),
        network=replace(foreign.network, encoder=tables["encoder"]),
    )


def _normalisation(features: FeatureConfig) -> str:
    """Return how a filterbank normalises recordings."""
    if features.kind == "nemo" or features.kind.startswith("voxceleb_trainer"):
        return "every band of each recording with mean 0 and deviation 1"
    mean = "mean of each recording subtracted" if features.mean_norm else "no mean subtracted"
    return f"{mean}, samples with deviation 1" if features.kind.startswith("redimnet") else mean


def assumptions(foreign: Foreign) -> str:
    """Return the assumed settings of an imported model as one line: features, normalisation, pooling, layer."""
    features, encoder = foreign.features, foreign.network.encoder
    if features.kind == "waveform":
        settings = ", ".join(f"{key} {value}" for key, value in encoder.items() if key != "name")
        return f"samples in [-1, 1] times {features.waveform_scale:g}; {features.sample_rate} Hz; {settings}"
    high_hz = features.high_hz if features.high_hz > 0 else features.sample_rate / 2 + features.high_hz
    parts = [
        f"{features.kind} filterbank of {features.num_mels} bands from {features.low_hz:g} to {high_hz:g} Hz",
        f"{features.sample_rate} Hz",
        f"{features.window} window of {features.frame_length_ms:g} ms every {features.frame_shift_ms:g} ms",
        f"samples times {features.waveform_scale:g}",
        _normalisation(features),
        ", ".join(f"{key} {value}" for key, value in encoder.items() if key != "name"),
    ]
    return "; ".join(parts)
