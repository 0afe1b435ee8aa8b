"""The plain network prepared for export: steps that runtimes lack are computed in another way."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.models._cpu.swap import restore
from speakerverif.models.encoders.repvgg import RepVGGBlock
from speakerverif.models.encoders.xvector import MinimumLength
from speakerverif.models.features.filterbank import Frames, PowerSpectrum
from speakerverif.models.model import SpeakerModel


class GatheredFrames(Frames):
    """Frames taken by their samples' indices."""

    def forward(self, waveform: Tensor) -> Tensor:
        starts = torch.arange(0, waveform.shape[1] - self.length + 1, self.shift)
        return waveform[:, starts[:, None] + torch.arange(self.length)]


class PowerSpectrumByProducts(PowerSpectrum):
    """The transform as a product with sines and cosines: runtimes have slow Fourier transforms, or none."""

    def forward(self, frames: Tensor) -> Tensor:
        steps = torch.arange(self.fft_length, dtype=torch.float64)
        turns = steps[:, None] * steps[: self.fft_length // 2 + 1] % self.fft_length
        angle = turns * (2 * math.pi / self.fft_length)
        frames = F.pad(frames, (0, self.fft_length - frames.shape[-1]))
        real, imaginary = frames @ angle.cos().to(frames.dtype), frames @ angle.sin().to(frames.dtype)
        return real.square() + imaginary.square()


class NoMinimumLength(MinimumLength):
    """No check: a graph can't look at values."""

    def forward(self, features: Tensor, num_frames: Tensor | None) -> None:
        pass


IN_GRAPHS: dict[type[nn.Module], type[nn.Module]] = {
    Frames: GatheredFrames,
    PowerSpectrum: PowerSpectrumByProducts,
    MinimumLength: NoMinimumLength,
}


@dataclass(frozen=True)
class Network:
    """A network to export to ONNX.

    Attributes:
        module: the network.
        example: its arguments.
        axes: its arguments and, last, its result, by name -> their free axes, by name.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    axes: dict[str, dict[int, str]]


def exportable(model: SpeakerModel) -> SpeakerModel:
    """Return a copy to export, of plain layers, on the CPU, in eval mode and with no gradients.

    The branches of RepVGG's blocks are fused. Its batch norms all have a scale and an offset, without which ONNX's
    exporter asks for shapes.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    restore(model)
    for module in list(model.modules()):
        if isinstance(module, RepVGGBlock):
            module.fuse()
        if type(module) in IN_GRAPHS:
            module.__class__ = IN_GRAPHS[type(module)]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is None:
            module.weight = nn.Parameter(torch.ones(module.num_features), requires_grad=False)
            module.bias = nn.Parameter(torch.zeros(module.num_features), requires_grad=False)
    return model
