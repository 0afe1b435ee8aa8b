"""The precision in which a model computes embeddings: float32, or bfloat16 where the processor is made for it.

In bfloat16 the weights of linear and convolutional layers are kept in that format, and their products are computed
in it. Features, batch norms' statistics and pooling stay float32, and so does the result.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from speakerverif.models.model import SpeakerModel

Precision = Literal["auto", "float32", "bfloat16"]

# By how many points of EER on a dev list bfloat16 differs from float32, by the encoder's name, where it was measured
# (docs/performance.md, "Precision"). An encoder that is not here was not measured.
COST_IN_EER: dict[str, float] = {}
MOST_COST = 0.02


class BFloat16Model(SpeakerModel):
    """A model whose products are in bfloat16: any `SpeakerModel` that `use_bfloat16` has changed."""

    def forward(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        # The weights are in that format already, so nothing is gained by a cache of what autocast would convert.
        with torch.autocast(waveform.device.type, torch.bfloat16, cache_enabled=False):
            return super().forward(waveform, num_samples).float()


def use_bfloat16(model: SpeakerModel) -> None:
    """Change a model so that it computes in bfloat16. Its weights lose digits; its name in files does not change."""
    model.__class__ = BFloat16Model
    for layer in model.encoder.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer.to(torch.bfloat16)


def chosen(precision: Precision, encoder: str, device: str | torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision to compute in: `auto` is bfloat16 where that gains and its cost was measured to be small.

    Args:
        precision: the one asked for.
        encoder: the encoder's name.
        device: where the model is.
    """
    if precision != "auto":
        return precision
    cheap = abs(COST_IN_EER.get(encoder, float("inf"))) < MOST_COST
    return "bfloat16" if cheap and gains(device) else "float32"


def gains(device: str | torch.device) -> bool:
    """Return whether a device multiplies bfloat16 faster than float32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
