"""Our encoders, SpeechBrain's of the same architecture, and the arithmetic of each."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speakerverif.models.encoders import ecapa, resnet, xvector
from tools.benches._case import Work, gflop, left_out


@dataclass(frozen=True)
class Models:
    """Ours, and SpeechBrain's where there is one; `width` is of the matrix products that most of the work is."""

    ours: nn.Module
    speechbrain: nn.Module | None
    width: int | None = None

    def works(self, work: Callable[[nn.Module], Work]) -> dict[str, Work]:
        """Return the same work for each system."""
        peer = {} if self.speechbrain is None else {"speechbrain": work(self.speechbrain)}
        return {"ours": work(self.ours), **peer}

    def gflop(self, features: Tensor, work: Callable[[nn.Module, Tensor], Work]) -> float:
        """Return the arithmetic of the published graph, including what ours saves."""
        if self.speechbrain is not None:
            return gflop(work(self.speechbrain, features))
        # On the meta device: torch's counter doesn't see our products on a CPU.
        return gflop(work(copy.deepcopy(self.ours).to("meta"), features.to("meta")))


def _ecapa(channels: int, mfa_channels: int) -> Models:
    config = ecapa.Config(channels=channels, mfa_channels=mfa_channels, padding="reflect")
    ours = ecapa.build(config, 80)
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except ImportError:
        left_out("speechbrain")
        return Models(ours, None, channels)
    return Models(ours, ECAPA_TDNN(80, channels=[channels] * 4 + [mfa_channels]), channels)


def _xvector() -> Models:
    ours = xvector.build(xvector.Config(padding="reflect", activation="leaky_relu"), 80)
    try:
        from speechbrain.lobes.models.Xvector import Xvector
    except ImportError:
        left_out("speechbrain")
        return Models(ours, None, 512)
    peer = Xvector(in_channels=80)
    # Its pooling adds noise to the mean, which an export can't carry; the export has less to compute.
    peer.blocks[15]._get_gauss_noise = lambda shape, device: torch.zeros(shape, device=device)
    return Models(ours, peer, 512)


MODELS: dict[str, Callable[[], Models]] = {
    "ecapa C=1024": lambda: _ecapa(1024, 3072),
    "ecapa C=512": lambda: _ecapa(512, 1536),
    "ecapa C=256": lambda: _ecapa(256, 768),
    "xvector": _xvector,
    "resnet34": lambda: Models(resnet.build(resnet.Config(), 80), None),
}
