"""Pooling over time: any number of frames becomes one vector per utterance.

Every pooling takes frames `(B, T, C)` and `num_frames` `(B,)`, or None where all rows are full length. Statistics are
float32 under autocast too (float64 where frames are). Variances are floored before their root, so one frame and
constant frames have finite values and gradients.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from speakerverif.models.frames import FrameNorm, frame_mask, masked_mean, widened, zero_padding

Pooling = Literal["average", "deviation", "statistics", "attentive", "multi_query", "xi"]


class PoolingLayer(nn.Module):
    """A layer from frames `(B, T, C)` to one vector per utterance, `(B, output_dim)`."""

    output_dim: int


def build(name: Pooling, channels: int, variance_floor: float) -> PoolingLayer:
    """Return the pooling of that name, in WeSpeaker's settings, for frames `(B, T, channels)`."""
    if name == "average":
        return TemporalAveragePooling(channels)
    if name == "deviation":
        return DeviationPooling(channels, variance_floor)
    if name == "statistics":
        return StatisticsPooling(channels, variance_floor)
    if name == "xi":
        return XiPooling(channels)
    if name == "attentive":
        return AttentiveStatisticsPooling(
            channels, global_context=False, norm=False, variance_floor=variance_floor
        )
    return MultiQueryPooling(channels, variance_floor=variance_floor)


class MeanAndDeviation(nn.Module):
    """Mean and standard deviation over each utterance's real frames, each float32 `(B, C)`.

    Args:
        variance_floor: least variance whose root is taken.
        unbiased: divide by n - 1 (by 1 where there is a single frame) rather than by n.
    """

    def __init__(self, variance_floor: float, unbiased: bool) -> None:
        super().__init__()
        self.variance_floor = variance_floor
        self.unbiased = unbiased

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, length, _ = frames.shape
        frames = widened(zero_padding(frames, num_frames))
        if num_frames is None:
            count, mask = frames.new_full((batch,), length), None
        else:
            count, mask = num_frames.to(frames.dtype), frame_mask(num_frames, length).unsqueeze(-1)
        mean, variance = self.moments(frames, count.view(-1, 1, 1), mask)
        if self.unbiased:
            variance = variance * (count / (count - 1).clamp(min=1)).unsqueeze(1)
        return mean, variance.clamp(min=self.variance_floor).sqrt()

    def moments(self, frames: Tensor, count: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance (divided by n), each `(B, C)`.

        The frames are centred before squaring: E[x^2] - mean^2 loses all digits where they are nearly constant.

        Args:
            frames: float32 `(B, T, C)`, zero at padding.
            count: how many frames are real, `(B, 1, 1)`.
            mask: which frames are real, bool `(B, T, 1)`; None: all.
        """
        mean = frames.sum(1, keepdim=True) / count
        centred = frames - mean
        if mask is not None:
            centred = centred.masked_fill(~mask, 0)
        # Squeezing would ask for the size first, by a branch in an exported graph.
        return mean[:, 0], (centred.square().sum(1, keepdim=True) / count)[:, 0]


class AttendedMeanAndDeviation(nn.Module):
    """Mean and standard deviation over time, each float32 `(B, C)`, under weights that are a softmax over time.

    Args:
        variance_floor: least variance whose root is taken.
    """

    def __init__(self, variance_floor: float) -> None:
        super().__init__()
        self.variance_floor = variance_floor

    def forward(
        self, logits: Tensor, frames: Tensor, num_frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of frames `(B, T, C)`; logits `(B, T, C)` say how much each frame counts."""
        logits = widened(logits)
        if num_frames is not None:
            mask = frame_mask(num_frames, frames.shape[1]).unsqueeze(-1)
            logits = logits.masked_fill(~mask, -torch.inf)
        mean, variance = self.moments(logits, widened(frames))
        return mean, variance.clamp(min=self.variance_floor).sqrt()

    def moments(self, logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean and variance, each `(B, C)`."""
        weights = logits.softmax(1)
        mean = (weights * frames).sum(1, keepdim=True)
        return mean[:, 0], (weights * (frames - mean).square()).sum(1)


class TemporalAveragePooling(PoolingLayer):
    """The mean over time, `(B, C)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_dim = channels

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return masked_mean(frames, num_frames)


class DeviationPooling(PoolingLayer):
    """The standard deviation over time, `(B, C)`, of a variance that divides by n - 1: WeSpeaker's TSDP."""

    def __init__(self, channels: int, variance_floor: float = 1e-7) -> None:
        super().__init__()
        self.output_dim = channels
        self.statistics = MeanAndDeviation(variance_floor, unbiased=True)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        deviation: Tensor = self.statistics(frames, num_frames)[1]
        return deviation


class StatisticsPooling(PoolingLayer):
    """Mean and standard deviation over time, `(B, 2 C)`.

    Source: Snyder et al., 2018, "X-vectors". Departure: the variance divides by n - 1, as SpeechBrain's and
    WeSpeaker's do (Kaldi divides by n).
    """

    def __init__(self, channels: int, variance_floor: float = 1e-8) -> None:
        super().__init__()
        self.output_dim = 2 * channels
        self.statistics = MeanAndDeviation(variance_floor, unbiased=True)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return torch.cat(self.statistics(frames, num_frames), 1)


class AttentiveStatisticsPooling(PoolingLayer):
    """Mean and standard deviation over time with attention weights per channel, `(B, 2 C)`.

    Args:
        channels: C.
        attention_channels: width of the attention's hidden layer.
        global_context: let the attention see the utterance's mean and deviation with each frame.
        norm: ReLU and batch norm before the tanh of the hidden layer (SpeechBrain, TaoRuijie); without, the
            tanh alone (WeSpeaker and the paper).
        tanh: without, the hidden layer ends with its norm (voxceleb_trainer, SpeechBrain's ResNet).
        unbiased_context: the context's variance divides by n - 1 (WeSpeaker, TaoRuijie), not n (SpeechBrain).
        variance_floor: least variance of context and result.

    Source: Okabe, Koshinaka and Shinoda, 2018, arXiv:1803.10963; channel and context dependent: Desplanques,
    Thienpondt and Demuynck, 2020, arXiv:2005.07143, equations 1 to 3.
    """

    def __init__(
        self,
        channels: int,
        attention_channels: int = 128,
        global_context: bool = True,
        norm: bool = True,
        unbiased_context: bool = False,
        variance_floor: float = 1e-10,
        tanh: bool = True,
    ) -> None:
        super().__init__()
        self.output_dim = 2 * channels
        self.channels = channels
        self.tanh = tanh
        self.context = MeanAndDeviation(variance_floor, unbiased_context) if global_context else None
        self.hidden = nn.Linear(channels * (3 if global_context else 1), attention_channels)
        self.norm = FrameNorm(attention_channels) if norm else None
        self.logits = nn.Linear(attention_channels, channels)
        self.statistics = AttendedMeanAndDeviation(variance_floor)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        hidden = self._hidden(frames, num_frames)
        if self.norm is not None:
            hidden = self.norm(hidden.relu(), num_frames)
        if self.tanh:
            hidden = hidden.tanh()
        return torch.cat(self.statistics(self.logits(hidden), frames, num_frames), 1)

    def _hidden(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return the hidden layer's product with each frame and the context, `(B, T, attention_channels)`."""
        if self.context is None:
            product: Tensor = self.hidden(frames)
            return product
        # The context is the same for every frame, so its share of the product is computed once per utterance.
        weight, context_weight = self.hidden.weight.tensor_split([self.channels], 1)
        context = torch.cat(self.context(frames, num_frames), 1)
        bias = nn.functional.linear(context, context_weight, self.hidden.bias)
        return nn.functional.linear(frames, weight) + bias.unsqueeze(1)


class MultiQueryPooling(PoolingLayer):
    """Attentive statistics of each head, a share of the channels, for several queries, `(B, 2 C queries)`.

    For every query and head the result has the head's means and then its deviations.

    Args:
        channels: C, a multiple of `heads`.
        queries: how many weightings of the frames each head has.
        heads: how many equal parts the channels are split into.
        attention_channels: width of the hidden layer for one query of one head.
        per_channel: a weight for every channel; else one for all channels of a head.
        variance_floor: least variance.

    Source: Zhao, Ma, Liu and Xu, 2022, "Multi-query multi-head attention pooling and inter-topK penalty for
    speaker verification", arXiv:2110.05042. With one query and one weight per head it is multi-head attention
    (India, Safari and Hernando, 2019, arXiv:1906.09890). As in WeSpeaker, tanh is between the two layers.
    """

    def __init__(
        self,
        channels: int,
        queries: int = 2,
        heads: int = 8,
        attention_channels: int = 64,
        per_channel: bool = True,
        variance_floor: float = 1e-10,
    ) -> None:
        super().__init__()
        self.output_dim = 2 * channels * queries
        self.heads, self.queries = heads, queries
        hidden = heads * queries * attention_channels
        weights = queries * (channels if per_channel else heads)
        self.hidden = nn.Conv1d(channels, hidden, 1, groups=heads)
        self.logits = nn.Conv1d(hidden, weights, 1, groups=heads * queries)
        self.statistics = AttendedMeanAndDeviation(variance_floor)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        logits = self.logits(self.hidden(frames.transpose(1, 2)).tanh()).transpose(1, 2)
        pooled = []
        for query in logits.unflatten(2, (self.heads, self.queries, -1)).unbind(3):
            # (B, T, heads, weights of a head): one weight counts for all channels of its head.
            query = query.expand(-1, -1, -1, frames.shape[2] // self.heads).flatten(2)
            pooled += self.statistics(query, frames, num_frames)
        # (B, queries, 2, C) to (B, queries, heads, 2, C / heads).
        statistics: Tensor = torch.stack(pooled, 1)
        statistics = statistics.unflatten(1, (self.queries, 2)).unflatten(3, (self.heads, -1))
        return statistics.transpose(2, 3).flatten(1)


class XiPooling(PoolingLayer):
    """Posterior mean of an utterance's centre under a Gaussian prior, `(B, C)`: the pooling of xi-vectors.

    Every frame is an observation of the centre. A network estimates its precision for each channel, and the prior is
    one observation more. Frames that are precise weigh more than others; a short utterance stays near the prior.

    Args:
        channels: C.
        hidden_channels: width of the hidden layer that estimates the precisions.

    Source: Lee, Wang and Koshinaka, 2021, "Xi-vector embedding for speaker recognition", IEEE Signal Processing
    Letters 28, equations 4 to 7. As in WeSpeaker, the precision is the square of a softplus.
    """

    # A softplus below this counts as this, so that its logarithm and the gradient stay finite.
    LEAST_PRECISION_ROOT = 1e-18

    def __init__(self, channels: int, hidden_channels: int = 256) -> None:
        super().__init__()
        self.output_dim = channels
        self.hidden = nn.Linear(channels, hidden_channels)
        self.norm = FrameNorm(hidden_channels)
        self.precision = nn.Linear(hidden_channels, channels)
        self.prior_mean = nn.Parameter(torch.zeros(channels))
        self.prior_log_precision = nn.Parameter(torch.zeros(channels))

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        frames = zero_padding(frames, num_frames)
        estimate = widened(self.precision(self.norm(self.hidden(frames).relu(), num_frames)))
        log_precision = 2 * nn.functional.softplus(estimate).clamp(min=self.LEAST_PRECISION_ROOT).log()
        if num_frames is not None:
            mask = frame_mask(num_frames, frames.shape[1]).unsqueeze(-1)
            log_precision = log_precision.masked_fill(~mask, -torch.inf)
        prior = self.prior_log_precision.expand(len(frames), 1, -1).to(log_precision.dtype)
        weights = torch.cat((prior, log_precision), 1).softmax(1)
        return weights[:, 0] * self.prior_mean + (weights[:, 1:] * widened(frames)).sum(1)
