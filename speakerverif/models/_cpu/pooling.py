"""Statistics over time in closed form, a few utterances at a time, so that a piece stays in the processor's cache."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.jit._trace import is_tracing

from speakerverif.models.pooling import AttendedMeanAndDeviation, MeanAndDeviation

PIECE = 2**18  # numbers worked on at a time


class FastMeanAndDeviation(MeanAndDeviation):
    """Mean and deviation with the gradient in one pass."""

    def moments(self, frames: Tensor, count: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if not _suits(frames):
            return super().moments(frames, count, mask)
        mean, variance = _moments(frames, count, mask)
        return mean, variance


class FastAttendedMeanAndDeviation(AttendedMeanAndDeviation):
    """Softmax and both moments in pieces, and the gradient in closed form."""

    def moments(self, logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not _suits(frames):
            return super().moments(logits, frames)
        mean, variance = _softmax_moments(logits, frames).unbind(1)
        return mean, variance


def _suits(frames: Tensor) -> bool:
    """Return whether work in pieces pays: on a CPU in eager mode (autocast leaves float32 alone)."""
    return frames.device.type == "cpu" and not (is_tracing() or torch.compiler.is_compiling())


def _pieces(first: Tensor, *rest: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield tensors `(B, ...)` a few utterances at a time."""
    rows = max(1, PIECE // first[0].numel())
    for start in range(0, len(first), rows):
        yield tuple(None if t is None else t[start : start + rows] for t in (first, *rest))


class _Moments(torch.autograd.Function):
    """Mean and variance (divided by n) of frames over time; padding is zero, and False in `mask`."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, count: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = frames.sum(1, keepdim=True) / count
        variance = torch.empty_like(mean)
        for x, m, v, mask_x in _pieces(frames, mean, variance, mask):
            torch.sum(_centred(x, m, mask_x).square_(), 1, keepdim=True, out=v)
        variance /= count
        ctx.save_for_backward(frames, mean, count, mask)
        return mean.squeeze(1), variance.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None, None]:
        frames, mean, count, mask = ctx.saved_tensors
        offset, slope = grad_mean.unsqueeze(1) / count, 2 * grad_variance.unsqueeze(1) / count
        grad = torch.empty_like(frames)
        for x, m, a, b, mask_x, g in _pieces(frames, mean, offset, slope, mask, grad):
            torch.addcmul(a, _centred(x, m, mask_x), b, out=g)
        # At padding the gradient is left non-zero: the masking of the frames before this step drops it.
        return grad, None, None


def _centred(frames: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    centred = frames - mean
    return centred if mask is None else centred.masked_fill_(~mask, 0)


class _SoftmaxMoments(torch.autograd.Function):
    """Mean and variance `(B, 2, C)` of frames `(B, T, C)` under w = softmax over time of logits `(B, T, C)`.

    With d = x - mean: dL/dx = w (g_mean + 2 g_var d); dL/dlogits = w (g_mean d + g_var (d^2 - var)).
    Autograd's own chain takes three times as many passes over memory and keeps every intermediate result.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, frames: Tensor) -> Tensor:
        statistics = frames.new_empty(len(frames), 2, frames.shape[2])
        weights = torch.empty_like(frames) if any(ctx.needs_input_grad) else None
        for z, x, m, v, kept in _pieces(logits, frames, *statistics.split(1, 1), weights):
            w = torch.sub(z, z.amax(1, keepdim=True), out=kept).exp_()
            share = w.sum(1, keepdim=True).reciprocal_()
            scratch = w * x
            m.copy_(scratch.sum(1, keepdim=True).mul_(share))
            torch.sub(x, m, out=scratch).square_().mul_(w)
            v.copy_(scratch.sum(1, keepdim=True).mul_(share))
            if kept is not None:
                w.mul_(share)
        ctx.save_for_backward(weights, frames, statistics)
        return statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        weights, frames, statistics = ctx.saved_tensors
        grad_logits, grad_frames = torch.empty_like(weights), torch.empty_like(frames)
        tensors = (weights, frames, *statistics.split(1, 1), *grad.split(1, 1), grad_logits, grad_frames)
        for w, x, m, v, gm, gv, gl, gx in _pieces(*tensors):
            centred = x - m
            slope = torch.addcmul(gm, centred, gv)
            torch.mul(torch.addcmul(slope, centred, gv), w, out=gx)
            torch.mul(slope.mul_(centred).sub_(gv * v), w, out=gl)
        return grad_logits, grad_frames


_moments: Callable[..., tuple[Tensor, Tensor]] = _Moments.apply
_softmax_moments: Callable[..., Tensor] = _SoftmaxMoments.apply
