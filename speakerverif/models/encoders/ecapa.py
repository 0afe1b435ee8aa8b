"""ECAPA-TDNN: Res2Net blocks with squeeze and excitation, and attentive statistics pooling.

Source: Desplanques, Thienpondt and Demuynck, 2020, "ECAPA-TDNN: Emphasized Channel Attention, Propagation and
Aggregation in TDNN Based Speaker Verification", arXiv:2005.07143. Projects' networks of that name differ; these
settings give them (parameters at 80 mels):

| model              | parameters | settings that differ from `Config()`'s                              |
|--------------------|-----------:|---------------------------------------------------------------------|
| WeSpeaker C=512    |  6,190,720 | no mfa_norm, no attention_norm, unbiased_context                    |
| WeSpeaker C=1024   | 14,657,088 | the same and channels 1024                                          |
| SpeechBrain C=512  |  6,194,048 | padding reflect                                                     |
| SpeechBrain C=1024 | 20,767,552 | padding reflect, channels 1024, mfa_channels 3072                   |
| TaoRuijie C=1024   | 15,444,544 | channels 1024, attention_channels 256, no mfa_norm, sum_inputs,     |
|                    |            | unbiased_context, final_norm, variance_floor 1e-4                   |
| WeSpeaker XI, 512  |  5,896,448 | no mfa_norm, pooling xi: an xi-vector (WeSpeaker's table: 5.9 M)    |

WeSpeaker's attention has global context only in its models named GLOB, which are counted here. In WeSpeaker's
and TaoRuijie's Res2Net the last part is passed on unchanged, here (as in SpeechBrain) the first: the same
function up to an order of channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._tdnn import TDNN, Padding
from speakerverif.models.frames import masked_mean
from speakerverif.models.pooling import AttentiveStatisticsPooling, Pooling, PoolingLayer


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's C=512 with SpeechBrain's norms and zero padding."""

    channels: Width = 512
    mfa_channels: Width = 1536  # of the layer that aggregates the three blocks
    attention_channels: Width = 128
    res2_scale: Annotated[int, Range(2, 64)] = 8
    se_channels: Width = 128
    embedding_dim: Width = 192
    padding: Literal["zeros", "reflect"] = "zeros"
    sum_inputs: bool = False  # a block's input is the sum of all outputs before it (the paper), else the last
    mfa_norm: bool = True  # batch norm after the aggregation layer
    pooling: Pooling = "attentive"  # only this one is changed by the settings of the attention
    attention_norm: bool = True  # ReLU and batch norm before the attention's tanh
    global_context: bool = True  # the attention sees the utterance's mean and deviation
    unbiased_context: bool = False  # that deviation's variance divides by n - 1
    variance_floor: VarianceFloor = 1e-10
    final_norm: bool = False  # batch norm of the embedding

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if self.channels % self.res2_scale:
            yield f"res2_scale: found {self.res2_scale}, expected a divisor of channels {self.channels}"


class Res2Net(nn.Module):
    """Channels in `scale` parts: the first is passed on; each other is added to the result before it and convolved.

    (The first convolved part has nothing added.)
    """

    def __init__(self, channels: int, scale: int, dilation: int, padding: Padding) -> None:
        super().__init__()
        width = channels // scale
        self.width = width
        self.parts = nn.ModuleList(TDNN(width, width, 3, dilation, padding) for _ in range(scale - 1))

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        first, *rest = frames.split(self.width, -1)
        outputs = [first]
        for part, chunk in zip(self.parts, rest, strict=True):
            outputs.append(part(chunk if len(outputs) == 1 else chunk + outputs[-1], num_frames))
        return torch.cat(outputs, -1)


class SqueezeExcitation(nn.Module):
    """Scales `(B, 1, C)` in (0, 1) for every channel, from the utterance's mean."""

    def __init__(self, channels: int, se_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, se_channels)
        self.excite = nn.Linear(se_channels, channels)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        squeezed = self.squeeze(masked_mean(frames, num_frames)).relu()
        scale: Tensor = self.excite(squeezed).sigmoid()
        return scale.unsqueeze(1)


class SERes2Block(nn.Module):
    """Point-wise layer, Res2Net, point-wise layer, squeeze and excitation, and the input added."""

    def __init__(self, config: Config, dilation: int) -> None:
        super().__init__()
        self.reduce = TDNN(config.channels, config.channels)
        self.res2 = Res2Net(config.channels, config.res2_scale, dilation, config.padding)
        self.expand = TDNN(config.channels, config.channels)
        self.se = SqueezeExcitation(config.channels, config.se_channels)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        inner: Tensor = self.reduce(frames, num_frames)
        inner = self.res2(inner, num_frames)
        inner = self.expand(inner, num_frames)
        scaled: Tensor = inner * self.se(inner, num_frames)
        return frames + scaled


class ECAPA(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.sum_inputs = config.sum_inputs
        self.input = TDNN(num_mels, config.channels, 5, 1, config.padding)
        self.blocks = nn.ModuleList(SERes2Block(config, dilation) for dilation in (2, 3, 4))
        norm: Literal["affine", "none"] = "affine" if config.mfa_norm else "none"
        self.mfa = TDNN(len(self.blocks) * config.channels, config.mfa_channels, norm=norm)
        self.pooling = self._pooling(config)
        self.pooling_norm = nn.BatchNorm1d(self.pooling.output_dim)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embedding_dim) if config.final_norm else None

    @staticmethod
    def _pooling(config: Config) -> PoolingLayer:
        if config.pooling != "attentive":
            return pooling.build(config.pooling, config.mfa_channels, config.variance_floor)
        return AttentiveStatisticsPooling(
            config.mfa_channels,
            config.attention_channels,
            config.global_context,
            config.attention_norm,
            config.unbiased_context,
            config.variance_floor,
        )

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        frames = self.aggregate(self.input(features, num_frames), num_frames)
        frames = self.mfa(frames, num_frames)
        embedding: Tensor = self.embedding(self.pooling_norm(self.pooling(frames, num_frames)))
        return embedding if self.embedding_norm is None else self.embedding_norm(embedding)

    def aggregate(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return the concatenated results of all blocks, `(B, T, blocks * channels)`."""
        outputs: list[Tensor] = []
        total = frames
        for block in self.blocks:
            outputs.append(block(total if self.sum_inputs else frames, num_frames))
            frames = outputs[-1]
            if self.sum_inputs:
                total = total + frames
        return torch.cat(outputs, -1)


def build(config: Config, num_mels: int) -> ECAPA:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return ECAPA(config, num_mels)
