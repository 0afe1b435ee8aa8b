"""Models that compute in bfloat16; see `precision.py`."""

import torch
from torch import Tensor, nn

from speakerverif.models.model import SpeakerModel


class BFloat16Model(SpeakerModel):
    """A model whose products are in bfloat16: any `SpeakerModel` that `use_bfloat16` has changed."""

    precision = "bfloat16"

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
