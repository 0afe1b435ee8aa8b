"""The exchange of plain layers for fast ones and back, by type.

A layer stays the same object: only its class changes, so weights, their names, hooks and references to it are kept.
"""

from torch import nn

from speakerverif.models._cpu.ecapa import FastECAPA, FastSERes2Block
from speakerverif.models._cpu.features import BLOCK_FRAMES, FastFill, FastReflectEnds
from speakerverif.models._cpu.frames import FastFrameNorm, FastLinear, FastTDNN, FastTimeConv
from speakerverif.models._cpu.kernels import Packable, pack
from speakerverif.models._cpu.maps import FastConvNorm, FastMapConv
from speakerverif.models._cpu.pooling import FastAttendedMeanAndDeviation, FastMeanAndDeviation
from speakerverif.models.encoders._maps import ConvNorm, MapConv
from speakerverif.models.encoders._tdnn import TDNN, TimeConv
from speakerverif.models.encoders.ecapa import ECAPA, SERes2Block
from speakerverif.models.features.filterbank import Fill, Filterbank
from speakerverif.models.features.torchaudio import ReflectEnds
from speakerverif.models.frames import FrameNorm
from speakerverif.models.pooling import AttendedMeanAndDeviation, MeanAndDeviation

FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FastLinear,
    FrameNorm: FastFrameNorm,
    TimeConv: FastTimeConv,
    TDNN: FastTDNN,
    SERes2Block: FastSERes2Block,
    ECAPA: FastECAPA,
    MapConv: FastMapConv,
    ConvNorm: FastConvNorm,
    MeanAndDeviation: FastMeanAndDeviation,
    AttendedMeanAndDeviation: FastAttendedMeanAndDeviation,
    Fill: FastFill,
    ReflectEnds: FastReflectEnds,
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def accelerate(model: nn.Module, kernels: bool = False, pack_products: bool | None = None) -> None:
    """Give a model on a CPU the fast layers; layers of other types stay as they are.

    On another device, under autocast and while it is traced or compiled, such a model computes as a plain one.

    Args:
        model: any module, whole or part.
        kernels: also make its kernels in advance, for a model whose weights stay; see `kernels.pack`.
        pack_products: see `kernels.pack`.
    """
    for module in model.modules():
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
        if isinstance(module, FastTimeConv):
            module.prepare()
        elif isinstance(module, Filterbank):
            module.block_frames = BLOCK_FRAMES
    if kernels:
        pack(model, pack_products)


def restore(model: nn.Module) -> None:
    """Give a model its plain layers back, without kernels."""
    for module in model.modules():
        if isinstance(module, Packable):
            module.__dict__.pop("_kernel", None)
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
        if isinstance(module, Filterbank):
            module.block_frames = None
