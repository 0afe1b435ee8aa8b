"""Log mel filterbanks of a whole batch at once: waveform in, features out, one kind per file.

The kinds are those that other toolkits' models were trained on, and the samples themselves ("waveform").
"""

from collections.abc import Callable

from torch import nn

from speakerverif.config import FeatureConfig
from speakerverif.models.features.filterbank import Filterbank
from speakerverif.models.features.kaldi import KaldiFilterbank
from speakerverif.models.features.nemo import NemoFilterbank
from speakerverif.models.features.redimnet import ReDimNet2Filterbank, ReDimNetFilterbank
from speakerverif.models.features.speechbrain import SpeechBrainFilterbank
from speakerverif.models.features.torchaudio import (
    TorchaudioFilterbank,
    VoxcelebTrainerFilterbank,
    VoxcelebTrainerLinearFilterbank,
    VoxcelebTrainerLiteFilterbank,
    VoxcelebTrainerLiteLinearFilterbank,
)
from speakerverif.models.features.waveform import Waveform

# The filterbanks by kind.
KINDS: dict[str, Callable[[FeatureConfig], Filterbank]] = {
    "kaldi": KaldiFilterbank,
    "speechbrain": SpeechBrainFilterbank,
    "torchaudio": TorchaudioFilterbank,
    "voxceleb_trainer": VoxcelebTrainerFilterbank,
    "voxceleb_trainer_linear": VoxcelebTrainerLinearFilterbank,
    "voxceleb_trainer_lite": VoxcelebTrainerLiteFilterbank,
    "voxceleb_trainer_lite_linear": VoxcelebTrainerLiteLinearFilterbank,
    "redimnet": ReDimNetFilterbank,
    "redimnet2": ReDimNet2Filterbank,
    "nemo": NemoFilterbank,
}


def build(config: FeatureConfig) -> nn.Module:
    """Return the features that a configuration names.

    Raises:
        InputError: lengths, bands or frequencies that make no filterbank.
    """
    return Waveform(config) if config.kind == "waveform" else KINDS[config.kind](config)
