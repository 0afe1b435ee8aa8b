"""w2v-BERT 2.0: mel filterbanks to the frames of all layers, by the network of transformers.

Source: Barrault et al. 2023, "Seamless", arXiv:2312.05187, section 3.2.1. Its input is Kaldi's filterbank of 80 bands
with a Povey window, each band of a recording with mean 0 and variance 1, two frames side by side; a last frame without
a neighbour is left out, as in transformers' feature extractor.
"""

import torch
from torch import Tensor, nn

from speakerverif._util import extras
from speakerverif.errors import InputError
from speakerverif.models.frames import frame_mask, zero_padding

NORMALIZED_EPS = 1e-7  # added to a band's variance


class W2vBert(nn.Module):
    """The front end.

    Args:
        num_mels: bands of the filterbank.
        width: of the frames.
        layers: number of Conformer blocks.
        heads: of the attention; a divisor of `width`.
        feed_forward: width between the two linear layers of a block's ends.
        dropout: after each layer, in training.

    Raises:
        InputError: transformers isn't installed.
    """

    def __init__(
        self, num_mels: int, width: int, layers: int, heads: int, feed_forward: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        extras.require("w2v_bert", "a w2v-BERT 2.0 front end")
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        config = Wav2Vec2BertConfig(
            feature_projection_input_dim=2 * num_mels,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=feed_forward,
            feat_proj_dropout=dropout,
            hidden_dropout=dropout,
            activation_dropout=dropout,
            attention_dropout=dropout,
            conformer_conv_dropout=dropout,
            layerdrop=0.0,
            apply_spec_augment=False,
            mask_time_prob=0.0,
        )
        self.model = Wav2Vec2BertModel(config)

    def forward(self, features: Tensor, num_frames: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Return the frames before the first block and after each, and their numbers.

        Args:
            features: (B, T, num_mels) of kind "kaldi" with the Povey window.
            num_frames: int64 (B,), or None where every row is full.

        Returns:
            layers: `layers + 1` times (B, T // 2, width).
            num_frames: int64 (B,), or None as given.

        Raises:
            InputError: an utterance of fewer than two frames.
        """
        shortest = features.shape[1] if num_frames is None else int(num_frames.min())
        if shortest < 2:
            raise InputError(
                f"an utterance of {shortest} frames is too short: the front end needs 2; leave it out"
            )
        normalized = _normalized(features, num_frames)
        pairs = normalized[:, : normalized.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2)
        if num_frames is None:
            return list(self.model(pairs, output_hidden_states=True).hidden_states), None
        num_frames = num_frames // 2
        mask = frame_mask(num_frames, pairs.shape[1]).long()
        return list(
            self.model(pairs, attention_mask=mask, output_hidden_states=True).hidden_states
        ), num_frames


def _normalized(features: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return features with every band of a recording at mean 0 and (divided by T - 1) variance 1, 0 past its end."""
    if num_frames is None:
        variance, mean = torch.var_mean(features, 1, keepdim=True)
        return (features - mean) / (variance + NORMALIZED_EPS).sqrt()
    count = num_frames[:, None, None]
    centred = zero_padding(features, num_frames)
    centred = zero_padding(centred - centred.sum(1, keepdim=True) / count, num_frames)
    return centred / (centred.square().sum(1, keepdim=True) / (count - 1) + NORMALIZED_EPS).sqrt()
