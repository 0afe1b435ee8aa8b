"""The speaker model: a waveform goes in, an embedding comes out."""

from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.models import encoders, features


class SpeakerModel(nn.Module):
    """Features and encoder in one module, so that an encoder can't be combined with the wrong features.

    Args:
        feature_config: the filterbanks.
        encoder_table: a recipe's `[encoder]` table.

    Attributes:
        engine: the program that runs it.
        precision: of its products.
    """

    engine = "torch"
    precision = "float32"

    def __init__(self, feature_config: FeatureConfig, encoder_table: dict[str, Any]):
        super().__init__()
        self.feature_config = feature_config
        self.encoder_table = dict(encoder_table)
        self.features = features.build(feature_config)
        self.encoder = encoders.build(encoder_table, feature_config.num_mels)

    @property
    def sample_rate(self) -> int:
        """Samples per second that the waveform must have."""
        return self.feature_config.sample_rate

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding."""
        return int(self.encoder.embedding_dim)  # type: ignore[arg-type]

    def forward(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Return one embedding for each waveform.

        Args:
            waveform: float32 (batch, samples) in [-1, 1] at `sample_rate`.
            num_samples: int64 (batch,), the true length of each row; None where all rows are full. What lies
                beyond a row's length has no influence on its embedding.

        Returns:
            float32 (batch, embedding_dim), not length-normalised.
        """
        if num_samples is None:
            lengths = torch.full(
                (waveform.shape[0],), waveform.shape[1], dtype=torch.int64, device=waveform.device
            )
            embeddings: Tensor = self.encoder(self.features(waveform, lengths)[0], None)
        else:
            embeddings = self.encoder(*self.features(waveform, num_samples))
        return embeddings
