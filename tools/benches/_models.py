"""Our encoders beside SpeechBrain's of the same architecture."""

from collections.abc import Callable

from torch import nn

from benches._case import left_out
from speakerverif.encoders import ecapa, xvector

Models = dict[str, nn.Module]


def _ecapa(channels: int, mfa_channels: int) -> Models:
    config = ecapa.Config(channels=channels, mfa_channels=mfa_channels, padding="reflect")
    models: Models = {"ours": ecapa.build(config, 80)}
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except ImportError:
        left_out("speechbrain")
    else:
        models["speechbrain"] = ECAPA_TDNN(80, channels=[channels] * 4 + [mfa_channels])
    return models


def _xvector() -> Models:
    config = xvector.Config(padding="reflect", activation="leaky_relu")
    models: Models = {"ours": xvector.build(config, 80)}
    try:
        from speechbrain.lobes.models.Xvector import Xvector
    except ImportError:
        left_out("speechbrain")
    else:
        models["speechbrain"] = Xvector(in_channels=80)
    return models


MODELS: dict[str, Callable[[], Models]] = {
    "ecapa C=1024": lambda: _ecapa(1024, 3072),
    "ecapa C=512": lambda: _ecapa(512, 1536),
    "ecapa C=256": lambda: _ecapa(256, 768),
    "xvector": _xvector,
}
