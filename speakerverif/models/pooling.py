"""Pooling over time: frames of any number become one vector an utterance.

Every pooling takes frames `(B, T, C)` and `num_frames` `(B,)`, or None where all rows are full length, and
computes in float32 whatever the autocast state (in float64 where the frames are). Variances are floored before
their root, so one frame and constant frames have finite values and gradients.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.models._cpu.graphs import is_exporting, runs_plainly_on_cpu
from speakerverif.models._cpu.packing import PackableLinear

Pooling = Literal["average", "statistics", "attentive", "multi_query"]


def build(
    name: Pooling, channels: int, variance_floor: float
) -> "TemporalAveragePooling | StatisticsPooling | AttentiveStatisticsPooling | MultiQueryPooling":
    """Return the pooling of that name, in WeSpeaker's settings, for frames `(B, T, channels)`."""
    if name == "average":
        return TemporalAveragePooling(channels)
    if name == "statistics":
        return StatisticsPooling(channels, variance_floor)
    if name == "attentive":
        return AttentiveStatisticsPooling(
            channels, global_context=False, norm=False, variance_floor=variance_floor
        )
    return MultiQueryPooling(channels, variance_floor=variance_floor)


def _widened(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frame_mask(num_frames: Tensor, length: int) -> Tensor:
    """Return which frames are real: bool `(B, length)`, True where the index is below `num_frames`."""
    return torch.arange(length, device=num_frames.device) < num_frames.unsqueeze(1)


def masked_mean(frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return the mean over each utterance's real frames, float32 `(B, C)`."""
    dtype = torch.promote_types(frames.dtype, torch.float32)
    if num_frames is None:
        return frames.mean(1, dtype=dtype)
    mask = frame_mask(num_frames, frames.shape[1]).unsqueeze(-1)
    return frames.masked_fill(~mask, 0).sum(1, dtype=dtype) / num_frames.unsqueeze(1)


def mean_and_std(
    frames: Tensor, num_frames: Tensor | None, variance_floor: float, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over each utterance's real frames, each float32 `(B, C)`.

    Args:
        frames: `(B, T, C)`.
        num_frames: `(B,)` int64, or None for full length.
        variance_floor: least variance that the root is taken of.
        unbiased: divide by n - 1 (by 1 where there is a single frame) rather than by n.
    """
    batch, length, _ = frames.shape
    dtype = torch.promote_types(frames.dtype, torch.float32)
    if num_frames is None:
        count, mask = frames.new_full((batch,), length, dtype=dtype), None
    else:
        count, mask = num_frames.to(dtype), frame_mask(num_frames, length).unsqueeze(-1)
        frames = frames.masked_fill(~mask, 0)
    moments = _plain_moments if is_exporting() else _Moments.apply
    mean, variance = moments(frames.to(dtype), count.view(-1, 1, 1), mask)
    if unbiased:
        variance = variance * (count / (count - 1).clamp(min=1)).unsqueeze(1)
    return mean, variance.clamp(min=variance_floor).sqrt()


class TemporalAveragePooling(nn.Module):
    """The mean over time, `(B, C)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_dim = channels

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return masked_mean(frames, num_frames)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time, `(B, 2 C)`.

    Source: Snyder et al., 2018, "X-vectors". Departure: the variance divides by n - 1, as SpeechBrain's and
    WeSpeaker's do (Kaldi divides by n).
    """

    def __init__(self, channels: int, variance_floor: float = 1e-8) -> None:
        super().__init__()
        self.output_dim = 2 * channels
        self.variance_floor = variance_floor

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return torch.cat(mean_and_std(frames, num_frames, self.variance_floor, unbiased=True), 1)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation under a softmax over time for each channel, `(B, 2 C)`.

    Args:
        channels: C.
        attention_channels: width of the attention's hidden layer.
        global_context: let the attention see the utterance's own mean and deviation beside each frame.
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
        self.variance_floor = variance_floor
        self.unbiased_context = unbiased_context
        self.global_context = global_context
        self.hidden = nn.Linear(channels * (3 if global_context else 1), attention_channels)
        self.norm = FrameNorm(attention_channels, inplace=True) if norm else None
        self.logits = PackableLinear(attention_channels, channels)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        # The context is the same for every frame, so its share of the product is computed once an utterance.
        weight, context_weight = (
            self.hidden.weight[:, : self.channels],
            self.hidden.weight[:, self.channels :],
        )
        if self.global_context:
            context = torch.cat(
                mean_and_std(frames, num_frames, self.variance_floor, self.unbiased_context), 1
            )
            bias = nn.functional.linear(context, context_weight, self.hidden.bias)
            hidden = nn.functional.linear(frames, weight) + bias.unsqueeze(1)
        else:
            hidden = nn.functional.linear(frames, weight, self.hidden.bias)
        if self.norm is not None:
            hidden = self.norm(hidden.relu(), num_frames)
        if self.tanh:
            hidden = hidden.tanh()
        # As rows, since autograd forbids overwriting the view that a linear layer makes of three axes.
        logits = _widened(self.logits(hidden.flatten(0, 1)))
        if num_frames is not None:
            mask = frame_mask(num_frames, frames.shape[1]).view(-1, 1)
            logits = logits.masked_fill(~mask, -torch.inf)
        if is_exporting():
            mean, variance = _plain_softmax_statistics(logits.view(frames.shape), frames)
        else:
            _, statistics = _SoftmaxStatistics.apply(logits, _widened(frames))
            mean, variance = statistics.unbind(1)
        return torch.cat((mean, variance.clamp(min=self.variance_floor).sqrt()), 1)


class MultiQueryPooling(nn.Module):
    """Attentive statistics of each head, a share of the channels, for several queries, `(B, 2 C queries)`.

    The result has for every query and head the head's means and then its deviations.

    Args:
        channels: C, a multiple of `heads`.
        queries: how many weightings of the frames each head has.
        heads: in how many parts of like size the channels are taken.
        attention_channels: width of the hidden layer for one query of one head.
        per_channel: a weight for every channel; else one for all channels of a head.
        variance_floor: least variance.

    Source: Zhao, Ma, Liu and Xu, 2022, "Multi-query multi-head attention pooling and inter-topK penalty for
    speaker verification", arXiv:2110.05042. With one query and a weight a head it is multi-head attention
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
        self.variance_floor = variance_floor
        hidden = heads * queries * attention_channels
        weights = queries * (channels if per_channel else heads)
        self.hidden = nn.Conv1d(channels, hidden, 1, groups=heads)
        self.logits = nn.Conv1d(hidden, weights, 1, groups=heads * queries)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        logits = _widened(self.logits(self.hidden(frames.transpose(1, 2)).tanh()).transpose(1, 2))
        logits = logits.unflatten(2, (self.heads, self.queries, -1))
        mask = None if num_frames is None else frame_mask(num_frames, frames.shape[1]).view(-1, 1)
        frames = _widened(frames)
        pooled = []
        for weights in logits.unbind(3):  # (B, T, heads, weights of a head)
            weights = weights.expand(-1, -1, -1, frames.shape[2] // self.heads).flatten(0, 1).flatten(1)
            # New memory, since it is overwritten.
            weights = weights.clone() if mask is None else weights.masked_fill(~mask, -torch.inf)
            if is_exporting():
                pair = _plain_softmax_statistics(weights.view(frames.shape), frames)
                mean, variance = (part.unflatten(1, (self.heads, -1)) for part in pair)
            else:
                _, statistics = _SoftmaxStatistics.apply(weights, frames)
                mean, variance = statistics.unflatten(2, (self.heads, -1)).unbind(1)
            pooled += [mean, variance.clamp(min=self.variance_floor).sqrt()]
        # (B, queries, 2, heads, C / heads), and each head's two side by side
        return torch.stack(pooled, 1).unflatten(1, (-1, 2)).transpose(2, 3).flatten(1)


class FrameNorm(nn.BatchNorm1d):
    """Batch norm of frames `(B, T, C)` over the last axis; padding is left out of training's statistics.

    Args:
        inplace: nothing else needs the frames, so that evaluation without gradients may overwrite them.
    """

    def __init__(self, channels: int, affine: bool = True, inplace: bool = False) -> None:
        super().__init__(channels, affine=affine)
        self.inplace = inplace

    def scale_and_offset(self) -> tuple[Tensor, Tensor]:
        """Return what evaluation multiplies by and then adds, each `(C,)`, to fold into a layer before."""
        assert self.running_mean is not None and self.running_var is not None
        return _scale_and_offset(self.running_mean, self.running_var, self.weight, self.bias, self.eps)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if not self.training and runs_plainly_on_cpu(frames):
            # A third of the time that batch norm takes for rows.
            scale, offset = self.scale_and_offset()
            reuse = self.inplace and not torch.is_grad_enabled()
            return torch.addcmul(offset, frames, scale, out=frames if reuse else None)
        if num_frames is None or not self.training:
            # Rows of channels: several times faster on a CPU than (B, C, T), where a channel is strided.
            return super().forward(frames.reshape(-1, frames.shape[-1])).view(frames.shape)
        mask = frame_mask(num_frames, frames.shape[1])
        real = super().forward(frames[mask])
        return real.new_zeros(frames.shape).masked_scatter(mask.unsqueeze(-1), real)


def stacked_scales_and_offsets(norms: Sequence[FrameNorm]) -> tuple[Tensor, Tensor]:
    """Return the scales and the offsets of affine norms of one width, each `(norms, C)`."""
    means, variances, weights, biases = (
        torch.stack([getattr(norm, name) for norm in norms])
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return _scale_and_offset(means, variances, weights, biases, norms[0].eps)


def _scale_and_offset(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    scale = (variance + eps).rsqrt()
    if weight is None or bias is None:
        return scale, -mean * scale
    scale = weight * scale
    return scale, bias - mean * scale


def _pieces(first: Tensor, *rest: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield tensors a few utterances at a time: on a CPU so many that a piece stays in its cache."""
    on_cpu = first.device.type == "cpu"
    rows = max(1, 2**18 // first[0].numel()) if on_cpu else len(first)
    for start in range(0, len(first), rows):
        yield tuple(None if t is None else t[start : start + rows] for t in (first, *rest))


class _Moments(torch.autograd.Function):
    """Mean and variance (divided by n) of frames over time; padding is zero, and False in `mask`.

    The frames are centred before squaring: E[x^2] - mean^2 loses all digits where they are nearly constant.
    """

    @staticmethod
    def forward(ctx, frames: Tensor, count: Tensor, mask: Tensor | None):  # type: ignore[override]
        mean = frames.sum(1, keepdim=True) / count
        variance = torch.empty_like(mean)
        for x, m, v, mask_x in _pieces(frames, mean, variance, mask):
            torch.sum(_centred(x, m, mask_x).square_(), 1, keepdim=True, out=v)
        variance /= count
        ctx.save_for_backward(frames, mean, count, mask)
        return mean.squeeze(1), variance.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean: Tensor, grad_variance: Tensor):  # type: ignore[override]
        frames, mean, count, mask = ctx.saved_tensors
        offset, slope = grad_mean.unsqueeze(1) / count, 2 * grad_variance.unsqueeze(1) / count
        grad = torch.empty_like(frames)
        for x, m, a, b, mask_x, g in _pieces(frames, mean, offset, slope, mask, grad):
            torch.addcmul(a, _centred(x, m, mask_x), b, out=g)
        # At padding the gradient is left non-zero: masking the frames, which came before, has none there.
        return grad, None, None


def _centred(frames: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    centred = frames - mean
    return centred if mask is None else centred.masked_fill_(~mask, 0)


def _plain_moments(frames: Tensor, count: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what `_Moments` does, in operations that an exported graph can hold.

    (Squeezing would ask for the size first, by a branch in the graph.)
    """
    mean = frames.sum(1, keepdim=True) / count
    centred = frames - mean if mask is None else (frames - mean).masked_fill(~mask, 0)
    return mean[:, 0], (centred.square().sum(1, keepdim=True) / count)[:, 0]


def _plain_softmax_statistics(logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_SoftmaxStatistics` does, in operations that an exported graph can hold."""
    weights = logits.softmax(1)
    mean = (weights * frames).sum(1, keepdim=True)
    return mean[:, 0], (weights * (frames - mean).square()).sum(1)


class _SoftmaxStatistics(torch.autograd.Function):
    """Mean and variance `(B, 2, C)` of frames under w = softmax over time of logits, `(B T, C)`.

    The weights are left in the place of the logits (up to their sum where no gradient is wanted), and returned first
    because autograd wants to know.

    With d = x - mean: dL/dx = w (g_mean + 2 g_var d); dL/dlogits = w (g_mean d + g_var (d^2 - var)).
    Autograd's own chain takes three times as many passes over memory and keeps every step of it.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        weights = logits.view(frames.shape)
        statistics = frames.new_empty(len(frames), 2, frames.shape[2])
        for w, x, m, v in _pieces(weights, frames, *statistics.split(1, 1)):
            w.sub_(w.amax(1, keepdim=True)).exp_()
            share = w.sum(1, keepdim=True).reciprocal_()
            scratch = w * x
            m.copy_(scratch.sum(1, keepdim=True).mul_(share))
            torch.sub(x, m, out=scratch).square_().mul_(w)
            v.copy_(scratch.sum(1, keepdim=True).mul_(share))
            if any(ctx.needs_input_grad):
                w.mul_(share)
        ctx.mark_dirty(logits)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, frames, statistics)
        return logits, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, _: None, grad: Tensor | None):  # type: ignore[override]
        if grad is None:
            return None, None
        logits, frames, statistics = ctx.saved_tensors
        weights = logits.view(frames.shape)
        grad_logits, grad_frames = torch.empty_like(weights), torch.empty_like(frames)
        given = (weights, frames, *statistics.split(1, 1), *grad.split(1, 1), grad_logits, grad_frames)
        for w, x, m, v, gm, gv, gl, gx in _pieces(*given):
            centred = x - m
            slope = torch.addcmul(gm, centred, gv)
            torch.mul(torch.addcmul(slope, centred, gv), w, out=gx)
            torch.mul(slope.mul_(centred).sub_(gv * v), w, out=gl)
        return grad_logits.flatten(0, 1), grad_frames
