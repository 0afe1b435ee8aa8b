"""ECAPA-TDNN in less memory: in evaluation a Res2Net overwrites its input, and all blocks write into one tensor."""

from typing import Any

import torch
from torch import Tensor

from speakerverif.models._cpu.conditions import keeps_nothing
from speakerverif.models._cpu.frames import ConvBuffer, stacked_scales_and_offsets
from speakerverif.models.encoders.ecapa import ECAPA, Res2Net, SERes2Block


class FastSERes2Block(SERes2Block):
    """With `out`, `(B, T, C)`, the result is written there."""

    def forward(self, frames: Tensor, num_frames: Tensor | None, out: Tensor | None = None) -> Tensor:
        inner = self.reduce(frames, num_frames)
        if len(self.res2.parts) and not self.training and keeps_nothing(inner):
            inner = _overwrite(self.res2, inner, num_frames)
        else:
            inner = self.res2(inner, num_frames)
        inner = self.expand(inner, num_frames)
        return torch.addcmul(frames, inner, self.se(inner, num_frames).to(inner.dtype), out=out)


def _overwrite(res2: Res2Net, frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return frames, overwritten with the result of a Res2Net; all convolutions share one buffer."""
    parts: list[Any] = list(res2.parts)
    buffer = ConvBuffer(len(frames), frames.shape[1], parts[0].affine, num_frames)
    chunks = frames.split(res2.width, -1)
    # All norms at once: many small operations would take as long as the products.
    norms = zip(*stacked_scales_and_offsets([part.norm for part in parts]), strict=True)
    for i, (part, (scale, offset)) in enumerate(zip(parts, norms, strict=True), 1):
        if i == 1:
            buffer.frames.copy_(chunks[1])
        else:
            torch.add(chunks[i], chunks[i - 1], out=buffer.frames)
        torch.addcmul(offset, part.activation(buffer.convolve(part.affine)), scale, out=chunks[i])
    return frames


class FastECAPA(ECAPA):
    """Without gradients the blocks write their results into one tensor, which the next layer aggregates."""

    def aggregate(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        if not keeps_nothing(frames):
            return super().aggregate(frames, num_frames)
        joined = frames.new_empty(*frames.shape[:2], len(self.blocks) * frames.shape[2])
        total = frames
        for block, out in zip(self.blocks, joined.chunk(len(self.blocks), -1), strict=True):
            frames = block(total if self.sum_inputs else frames, num_frames, out)
            if self.sum_inputs:
                total = total + frames
        return joined
