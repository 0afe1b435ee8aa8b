"""TaoRuijie's ECAPA-TDNN: one `.model` file with features, encoder and class weights.

The file holds the mel matrix of its features, which is compared with ours. Its evaluation averages the scores of
the whole recording and of five crops; here the embedding is that of the whole recording.
"""

from pathlib import Path

from speakerverif.config import FeatureConfig
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import Foreign, check_mel, recognised
from speakerverif.exchange.importers._frames import taoruijie_ecapa

KIND = "taoruijie"
FILES = ("*.model",)
FEATURES = FeatureConfig(kind="torchaudio", high_hz=7600.0)
LAYOUTS = {"attention.4.weight": taoruijie_ecapa}


def read(source: Path) -> Foreign:
    """Return the model of a `.model` file, or of a folder that holds one.

    Raises:
        InputError: no such file, damaged, another model, or other features.
    """
    weights = find(source, "*.model")
    prefix = "speaker_encoder."
    state = {n.removeprefix(prefix): t for n, t in read_tensors(weights).items() if n.startswith(prefix)}
    network = recognised(state, LAYOUTS, weights, "TaoRuijie")
    check_mel(state, "torchfbank.1.mel_scale.fb", FEATURES, weights)
    return Foreign(weights, FEATURES, network, state, ignored=("torchfbank.",))
