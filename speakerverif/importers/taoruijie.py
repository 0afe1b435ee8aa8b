"""TaoRuijie's ECAPA-TDNN: one `.model` file with features, encoder and class weights.

The file holds the mel matrix of its features, which is compared with ours. Its evaluation averages the scores of
the whole recording and of five crops; here the embedding is that of the whole recording.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif import features
from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.importers._files import find, read_tensors
from speakerverif.importers._foreign import Foreign, count, size

KIND = "taoruijie"
FILES = ("*.model",)
FEATURES = FeatureConfig(kind="torchaudio", high_hz=7600.0)
MEL = "torchfbank.1.mel_scale.fb"


def read(source: Path) -> Foreign:
    """Return the model of a `.model` file, or of a folder that holds one.

    Raises:
        InputError: no such file, damaged, another model, or other features.
    """
    weights = find(source, "*.model")
    prefix = "speaker_encoder."
    state = {n.removeprefix(prefix): t for n, t in read_tensors(weights).items() if n.startswith(prefix)}
    if "attention.4.weight" not in state:
        raise InputError(f"{weights}: no speaker_encoder with an attention; expected TaoRuijie's ECAPA-TDNN")
    ours = features.build(FEATURES).mel
    if MEL in state and (state[MEL].shape != ours.shape or (state[MEL] - ours).abs().max() > 1e-5):
        raise InputError(f"{weights}: {MEL}: other mel bands than 80 from 20 to 7600 Hz")
    encoder, modules = _ecapa(state, weights)
    return Foreign(
        weights_file=weights,
        features=FEATURES,
        encoder=encoder,
        state=state,
        modules=modules,
        ignored=("torchfbank.",),
        passes_last=True,
    )


def _ecapa(state: dict[str, Tensor], where: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the `[encoder]` table and the names of modules."""
    parts = count(state, "layer1.convs.{}.weight")
    encoder = {
        "name": "ecapa",
        "channels": size(state, "conv1.weight", 0, where),
        "mfa_channels": size(state, "layer4.weight", 0, where),
        "attention_channels": size(state, "attention.0.weight", 0, where),
        "res2_scale": parts + 1,
        "se_channels": size(state, "layer1.se.se.1.weight", 0, where),
        "embedding_dim": size(state, "fc6.weight", 0, where),
        "sum_inputs": True,
        "mfa_norm": False,
        "unbiased_context": True,
        "variance_floor": 1e-4,
        "final_norm": True,
    }
    modules = {
        "conv1": "input.affine",
        "bn1": "input.norm",
        "layer4": "mfa.affine",
        "attention.0": "pooling.hidden",
        "attention.2": "pooling.norm",
        "attention.4": "pooling.logits",
        "bn5": "pooling_norm",
        "fc6": "embedding",
        "bn6": "embedding_norm",
    }
    for i in range(3):
        theirs, ours = f"layer{i + 1}", f"blocks.{i}"
        for number, layer in ((1, "reduce"), (3, "expand")):
            modules[f"{theirs}.conv{number}"] = f"{ours}.{layer}.affine"
            modules[f"{theirs}.bn{number}"] = f"{ours}.{layer}.norm"
        for k in range(parts):
            modules[f"{theirs}.convs.{k}"] = f"{ours}.res2.parts.{k}.affine"
            modules[f"{theirs}.bns.{k}"] = f"{ours}.res2.parts.{k}.norm"
        modules[f"{theirs}.se.se.1"] = f"{ours}.se.squeeze"
        modules[f"{theirs}.se.se.3"] = f"{ours}.se.excite"
    return encoder, modules
