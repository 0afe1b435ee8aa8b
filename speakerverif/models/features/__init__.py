"""Log mel filterbanks of a whole batch at once: waveform in, features out, one kind per file.

The kinds are those that other toolkits' models were trained on.
"""

from speakerverif.config import FeatureConfig
from speakerverif.models.features.filterbank import Filterbank
from speakerverif.models.features.kaldi import KaldiFilterbank
from speakerverif.models.features.speechbrain import SpeechBrainFilterbank
from speakerverif.models.features.torchaudio import TorchaudioFilterbank, VoxcelebTrainerFilterbank

KINDS: dict[str, type[KaldiFilterbank] | type[SpeechBrainFilterbank] | type[TorchaudioFilterbank]] = {
    "kaldi": KaldiFilterbank,
    "speechbrain": SpeechBrainFilterbank,
    "torchaudio": TorchaudioFilterbank,
    "voxceleb_trainer": VoxcelebTrainerFilterbank,
}


def build(config: FeatureConfig) -> Filterbank:
    """Return the features that a configuration names.

    Raises:
        InputError: lengths, bands or frequencies that make no filterbank.
    """
    return KINDS[config.kind](config)
