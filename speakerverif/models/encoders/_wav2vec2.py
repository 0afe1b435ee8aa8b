"""wav2vec 2.0, HuBERT and WavLM: a waveform to the frames of all layers, by torchaudio's networks.

Sources: Baevski et al. 2020, "wav2vec 2.0", arXiv:2006.11477; Hsu et al. 2021, "HuBERT", arXiv:2106.07447 (the same
network); Chen et al. 2022, "WavLM", arXiv:2110.13900 (a gated bias of relative positions in the attention). The layers
are torchaudio's, with its names of parameters. It takes padding for speech where it normalises over time and lets
positions see it; here an utterance in a ragged batch has the frames that it has alone.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from speakerverif._util import extras
from speakerverif.errors import InputError
from speakerverif.models.frames import frame_mask, zero_padding

# Kernel size and stride of each convolution over the samples: 25 ms every 20 ms at 16 kHz.
CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
SHORTEST = 400  # samples of the first frame
BUCKETS, LARGEST_DISTANCE = 320, 800  # of WavLM's relative positions
NORMALIZED_EPS = 1e-7  # added to a waveform's variance


class Wav2Vec2(nn.Module):
    """The front end.

    Args:
        wavlm: whether the attention has WavLM's bias of relative positions.
        width: of the frames.
        layers: number of transformer blocks.
        heads: of the attention; a divisor of `width`.
        feed_forward: width between a block's two linear layers.
        norm: "group": the first convolution is normalised over time, blocks after their sums (the Base sizes);
            "layer": every convolution over its channels, blocks before their layers (the Large sizes).
        conv_channels: of the convolutions over the samples.
        conv_bias: whether these have offsets.
        position_kernel: frames that the convolution sees which stands for absolute positions.
        position_groups: of its channels.
        dropout: after each layer, in training.
        normalize_waveform: whether each waveform is brought to mean 0 and variance 1.

    Raises:
        InputError: torchaudio isn't installed.
        ValueError: sizes that make no network.
    """

    def __init__(
        self,
        wavlm: bool,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        norm: Literal["group", "layer"],
        conv_channels: int = 512,
        conv_bias: bool = False,
        position_kernel: int = 128,
        position_groups: int = 16,
        dropout: float = 0.0,
        normalize_waveform: bool = False,
    ) -> None:
        super().__init__()
        extras.require("ssl", "a WavLM, wav2vec 2.0 or HuBERT front end")
        from torchaudio.models import wav2vec2_model, wavlm_model

        if width % heads or width % position_groups:
            raise ValueError(f"width {width} is not a multiple of {heads} heads and {position_groups} groups")
        build, more = wav2vec2_model, {}
        if wavlm:
            build = wavlm_model
            more = {"encoder_num_buckets": BUCKETS, "encoder_max_distance": LARGEST_DISTANCE}
        network = build(
            extractor_mode=f"{norm}_norm",
            extractor_conv_layer_config=[(conv_channels, kernel, stride) for kernel, stride in CONVOLUTIONS],
            extractor_conv_bias=conv_bias,
            encoder_embed_dim=width,
            encoder_projection_dropout=dropout,
            encoder_pos_conv_kernel=position_kernel,
            encoder_pos_conv_groups=position_groups,
            encoder_num_layers=layers,
            encoder_num_heads=heads,
            encoder_attention_dropout=dropout,
            encoder_ff_interm_features=feed_forward,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=dropout,
            encoder_layer_norm_first=norm == "layer",
            encoder_layer_drop=0.0,
            aux_num_out=None,
            **more,
        )
        self.wavlm, self.norm, self.normalize_waveform = wavlm, norm, normalize_waveform
        self.feature_extractor = network.feature_extractor
        self.encoder = network.encoder

    def forward(self, samples: Tensor, num_samples: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Return the frames before the first block and after each, and their numbers.

        Args:
            samples: (B, S, 1) at 16 kHz.
            num_samples: int64 (B,), or None where every row is full.

        Returns:
            layers: `layers + 1` times (B, T, width).
            num_frames: int64 (B,), or None as `num_samples`.

        Raises:
            InputError: an utterance of fewer than 400 samples.
        """
        shortest = samples.shape[1] if num_samples is None else int(num_samples.min())
        if shortest < SHORTEST:
            raise InputError(
                f"an utterance of {shortest} samples is too short: the front end needs {SHORTEST}; leave it out"
            )
        waveform = zero_padding(samples, num_samples)
        if self.normalize_waveform:
            waveform = zero_padding(_normalized(waveform, num_samples), num_samples)
        frames, num_frames = self._convolved(waveform.transpose(1, 2), num_samples)
        frames = zero_padding(self.encoder.feature_projection(frames), num_frames)
        transformer = self.encoder.transformer
        frames = transformer._preprocess(frames)
        layers, position_bias = [frames], None
        padding, attended = None, None
        if num_frames is not None:
            mask = frame_mask(num_frames, frames.shape[1])
            if self.wavlm:
                padding = torch.zeros_like(mask, dtype=frames.dtype).masked_fill(~mask, float("-inf"))
            else:
                attended = mask[:, None, None].expand(-1, 1, frames.shape[1], -1)
        for block in transformer.layers:
            frames, position_bias = block(frames, attended, position_bias, padding)
            layers.append(frames)
        if self.norm == "layer":
            layers[-1] = transformer.layer_norm(frames)
        return layers, num_frames

    def _convolved(self, waveform: Tensor, num_samples: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the frames (B, T, channels) of waveforms (B, 1, S), and their numbers."""
        values, count = waveform, num_samples
        for layer in self.feature_extractor.conv_layers:
            values = layer.conv(values)
            if count is not None:
                count = (count - layer.kernel_size) // layer.stride + 1
            if isinstance(layer.layer_norm, nn.GroupNorm) and count is not None:
                values = _normalized_channels(layer.layer_norm, values, count)
            elif layer.layer_norm is not None:
                values = layer.layer_norm(values)
            values = nn.functional.gelu(values)
        return values.transpose(1, 2), count


def _normalized(samples: Tensor, num_samples: Tensor | None) -> Tensor:
    """Return waveforms (B, S, 1), zero past their ends, with mean 0 and variance 1 over their own samples."""
    if num_samples is None:
        variance, mean = torch.var_mean(samples, 1, correction=0, keepdim=True)
    else:
        count = num_samples[:, None, None]
        mean = samples.sum(1, keepdim=True) / count
        variance = zero_padding(samples - mean, num_samples).square().sum(1, keepdim=True) / count
    return (samples - mean) / (variance + NORMALIZED_EPS).sqrt()


def _normalized_channels(norm: nn.GroupNorm, values: Tensor, count: Tensor) -> Tensor:
    """Return values (B, C, T) with each channel normalised over the `count` (B,) real steps of its row."""
    mask = frame_mask(count, values.shape[2])[:, None]
    steps = count[:, None, None]
    mean = values.masked_fill(~mask, 0).sum(2, keepdim=True) / steps
    centred = (values - mean).masked_fill(~mask, 0)
    variance = centred.square().sum(2, keepdim=True) / steps
    return centred * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]
