"""CAM++: a two-dimensional front end, densely connected TDNN layers, and context-aware masking of each.

Source: Wang, Zheng, Chen, Cheng and Chen, 2023, "CAM++: A Fast and Efficient Network for Speaker Verification
Using Context-Aware Masking", arXiv:2303.00332, in the form of 3D-Speaker's and WeSpeaker's code: `Config()` is
theirs, with 7,176,224 parameters at 80 mels, and so are the initial values.

Departure: a pooled variance has a floor where theirs adds a constant or nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import ConvNorm, as_frames, as_frames_by_channel, as_maps, strided
from speakerverif.models.encoders._residual import BasicBlock
from speakerverif.models.encoders._tdnn import TimeConv
from speakerverif.models.frames import FrameNorm, widened, zero_padding
from speakerverif.models.pooling import Pooling

BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers of each dense block and their dilation
SEGMENT = 100  # frames that share a mask: about two seconds, since the first layer's stride is 2


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's."""

    head_channels: Width = 32  # of the two-dimensional front end
    channels: Width = 128  # that go into the first dense block
    growth: Width = 32  # channels that each dense layer adds
    bottleneck_channels: Width = 128  # inside each dense layer
    pooling: Pooling = "statistics"
    embedding_dim: Width = 512
    variance_floor: VarianceFloor = 1e-7


class Head(nn.Module):
    """Convolutions that reduce the frequencies to an eighth and keep all frames; returns frames `(B, T, C F)`."""

    def __init__(self, channels: int, num_mels: int) -> None:
        super().__init__()
        self.input = ConvNorm(1, channels)
        self.blocks = nn.ModuleList(BasicBlock(channels, channels, (stride, 1)) for stride in (2, 1, 2, 1))
        self.output = ConvNorm(channels, channels, stride=(2, 1))
        self.output_dim = channels * -(-num_mels // 8)

    def forward(self, features: Tensor, num_frames: Tensor | None) -> Tensor:
        maps = self.input(as_maps(zero_padding(features, num_frames)), num_frames).relu()
        for block in self.blocks:
            maps, _ = block(maps, num_frames)
        maps = self.output(maps, num_frames).relu()
        return as_frames_by_channel(maps)


class DenseLayer(nn.Module):
    """`growth` new channels: a convolution over time, masked by utterance and segment context."""

    def __init__(self, in_channels: int, inner: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(in_channels)
        self.linear1 = nn.Linear(in_channels, inner, bias=False)
        self.norm2 = FrameNorm(inner)
        self.local = TimeConv(inner, growth, 3, dilation, "zeros", bias=False)
        self.squeeze = nn.Linear(inner, inner // 2)
        self.excite = nn.Linear(inner // 2, growth)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        frames = self.linear1(self.norm1(frames, num_frames).relu())
        frames = self.norm2(frames, num_frames).relu()
        frames = zero_padding(frames, num_frames)
        # The mask is the same for all frames of a segment, so it is computed once for each.
        mask = self.excite(self.squeeze(segment_context(frames, num_frames)).relu()).sigmoid()
        segment = torch.arange(frames.shape[1], device=frames.device) // SEGMENT
        new: Tensor = self.local(frames) * mask.index_select(1, segment)
        return new


def segment_context(frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return the utterance's mean plus the mean of each of its segments, float32 `(B, segments, C)`.

    Args:
        frames: `(B, T, C)`, zero past `num_frames`.
        num_frames: `(B,)`, or None for full length.
    """
    length = frames.shape[1]
    # At least one more than needed, so that there are always several: an exported graph doesn't cover a single one.
    segments = length // SEGMENT + 2
    count = torch.full((1,), length, device=frames.device) if num_frames is None else num_frames
    starts = SEGMENT * torch.arange(segments, device=frames.device)
    counts = (count.unsqueeze(1) - starts).clamp(0, SEGMENT).unsqueeze(-1)
    padded = nn.functional.pad(frames, (0, 0, 0, segments * SEGMENT - length))
    sums: Tensor = widened(padded).unflatten(1, (-1, SEGMENT)).sum(2)
    # A segment that is all padding has no mean; its 0 is never used.
    return sums.sum(1, keepdim=True) / count.view(-1, 1, 1) + sums / counts.clamp(min=1)


class DenseBlock(nn.Module):
    """Dense layers, each fed with the block's input and all layers before it, and half as many channels out."""

    def __init__(self, in_channels: int, config: Config, num_layers: int, dilation: int) -> None:
        super().__init__()
        size, growth = in_channels, config.growth
        self.layers = nn.ModuleList(
            DenseLayer(size + i * growth, config.bottleneck_channels, growth, dilation)
            for i in range(num_layers)
        )
        size += num_layers * growth
        self.output_dim = size // 2
        self.norm = FrameNorm(size)
        self.linear = nn.Linear(size, self.output_dim, bias=False)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        for layer in self.layers:
            frames = torch.cat((frames, layer(frames, num_frames)), 2)
        frames = self.linear(self.norm(frames, num_frames).relu())
        return frames


class CAMPlusPlus(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.head = Head(config.head_channels, num_mels)
        self.input = ConvNorm(self.head.output_dim, config.channels, (1, 5), (1, 2))
        self.blocks = nn.ModuleList()
        size = config.channels
        for num_layers, dilation in BLOCKS:
            block = DenseBlock(size, config, num_layers, dilation)
            self.blocks.append(block)
            size = block.output_dim
        self.norm = FrameNorm(size)
        self.pooling = pooling.build(config.pooling, size, config.variance_floor)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(config.embedding_dim, affine=False)
        for module in [self.input.conv, *self.modules()]:
            if module is self.input.conv or isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        frames = self.head(features, num_frames)
        num_frames = strided(num_frames, 2)
        frames = as_frames(self.input(as_maps(frames, frames.shape[2]), num_frames).relu())
        for block in self.blocks:
            frames = block(frames, num_frames)
        frames = self.norm(frames, num_frames).relu()
        embedding: Tensor = self.embedding_norm(self.embedding(self.pooling(frames, num_frames)))
        return embedding


def build(config: Config, num_mels: int) -> CAMPlusPlus:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return CAMPlusPlus(config, num_mels)
