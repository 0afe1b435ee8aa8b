"""Export of a network without its features, as WeSpeaker's runtime and sherpa-onnx take it.

Names and axes are those of WeSpeaker's `export_onnx.py`: `feats` (B, T, bands) in, `embs` (B, width) out; the metadata
are those of sherpa-onnx's `speaker-embedding-extractor-model.cc`. Both programs compute Kaldi features of 80 bands.
WeSpeaker's runtime takes a Hamming window, bands up to half the sampling rate and 16-bit samples; sherpa-onnx a Povey
window, bands up to 7600 Hz, frames that reach over the ends, and samples of either scale.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange._graphs import Network
from speakerverif.models.folder import ModelFolder
from speakerverif.models.model import SpeakerModel

logger = logging.getLogger(__name__)

NUM_MELS = 80
# Settings by which features of a model differ from those of each program, and the program's own.
PROGRAMS: dict[str, dict[str, Any]] = {
    "WeSpeaker's runtime": {"window": "hamming", "high_hz": 8000.0, "waveform_scale": 32768.0},
    "sherpa-onnx": {"window": "povey", "high_hz": 7600.0},
}
NORMALIZE_SAMPLES = {1.0: 1, 32768.0: 0}  # by `waveform_scale`


class FromFeatures(nn.Module):
    """A model's encoder on features `(B, T, bands)`, all frames real.

    Where the model subtracts the mean over time, so does the graph: doing that twice changes nothing, and not every
    program does it.
    """

    def __init__(self, model: SpeakerModel) -> None:
        super().__init__()
        self.encoder, self.mean_norm = model.encoder, model.feature_config.mean_norm

    def forward(self, features: Tensor) -> Tensor:
        if self.mean_norm:
            features = features - features.mean(1, keepdim=True)
        # The number of frames is computed in the graph: a tracer would keep a number of Python's as a constant.
        num_frames = torch.ones_like(features[:, :, 0]).sum(1).long()
        embeddings: Tensor = self.encoder(features, num_frames)
        return embeddings


def graph_of(model: SpeakerModel) -> Network:
    """Return the network from features to embeddings."""
    example = (torch.zeros(2, 200, model.feature_config.num_mels),)
    return Network(FromFeatures(model).eval(), example, {"feats": {0: "B", 1: "T"}, "embs": {0: "B"}})


def metadata(folder: ModelFolder) -> dict[str, str]:
    """Return the metadata that sherpa-onnx reads.

    Raises:
        InputError: the model takes features that neither program computes.
    """
    features = folder.recipe.features
    wrong = [
        f"{key} {found:g}" if isinstance(found, float) else f"{key} {found}"
        for key, found, expected in (
            ("kind", features.kind, ["kaldi"]),
            ("num_mels", features.num_mels, [NUM_MELS]),
            ("frame_length_ms", features.frame_length_ms, [25.0]),
            ("frame_shift_ms", features.frame_shift_ms, [10.0]),
            ("low_hz", features.low_hz, [20.0]),
            ("waveform_scale", features.waveform_scale, list(NORMALIZE_SAMPLES)),
        )
        if found not in expected
    ]
    if wrong:
        raise InputError(
            f"{folder.path}: sherpa-onnx and WeSpeaker's runtime compute other features than this model takes: "
            f"{', '.join(wrong)}; export without --features-in"
        )
    for program, theirs in PROGRAMS.items():
        if differences := _differences(features, theirs):
            logger.warning(
                f"{program} computes features with {differences}: embeddings there differ a little"
            )
    facts = {
        "framework": "wespeaker",
        "language": "unknown",
        "url": "",
        "comment": f"{folder.name} {folder.fingerprint}",
        "sample_rate": features.sample_rate,
        "output_dim": folder.model.embedding_dim,
        "normalize_samples": NORMALIZE_SAMPLES[features.waveform_scale],
        "feature_normalize_type": "global-mean" if features.mean_norm else "",
    }
    return {key: str(value) for key, value in facts.items()}


def _differences(features: FeatureConfig, theirs: dict[str, Any]) -> str:
    """Return text on what a program computes and a model doesn't take; empty where there is nothing."""
    high_hz = features.high_hz if features.high_hz > 0 else features.sample_rate / 2 + features.high_hz
    ours = {"window": features.window, "high_hz": high_hz, "waveform_scale": features.waveform_scale}
    return ", ".join(
        f"{key} {value} (here {ours[key]})" for key, value in theirs.items() if ours[key] != value
    )
