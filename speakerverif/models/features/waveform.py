"""The samples themselves, for encoders that begin with a network over the waveform."""

import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.models.frames import zero_padding


class Waveform(nn.Module):
    """Samples as frames of width 1, times the configured scale."""

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.scale = config.waveform_scale

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples of every utterance.

        Args:
            waveform: (batch, samples), in [-1, 1]; what lies beyond `num_samples` is ignored, NaN included.
            num_samples: int64 (batch,), at most `samples`.

        Returns:
            samples: (batch, samples, 1), 0 past `num_samples`.
            num_samples: as given.
        """
        samples = waveform.to(torch.promote_types(waveform.dtype, torch.float32)).unsqueeze(-1)
        return zero_padding(samples, num_samples) * self.scale, num_samples
