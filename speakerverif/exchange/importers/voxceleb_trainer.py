"""voxceleb_trainer's ResNetSE34V2: one `.model` file with features, encoder and class weights.

The file holds the mel matrix of its features, which is compared with ours. Its evaluation averages the distances
between ten crops of 400 frames of each recording, which `--crops 10` comes near; here the embedding is that of the
whole recording. Its loader has read samples in [-1, 1] since it uses soundfile, and 16-bit integers before.

Its ResNetSE34L is another network: a first convolution of 7 x 7, the mean over frequencies before the pooling, one
weight per frame, no pre-emphasis.
"""

from pathlib import Path

from speakerverif.config import FeatureConfig
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import Foreign, Question, check_mel, recognised
from speakerverif.exchange.importers._maps import voxceleb_trainer_resnet

KIND = "voxceleb_trainer"
FILES = ("*.model",)
LAYOUTS = {"layer1.0.se.fc.0.weight": voxceleb_trainer_resnet}
INPUT = Question(
    ("features.kind", "features.waveform_scale"),
    "its file doesn't tell whether it was trained with --log_input (then --set features.kind=voxceleb_trainer; without "
    "it, which is that toolkit's default, the model can't be imported), nor on which samples (in [-1, 1], as it reads "
    "them through soundfile: --set features.waveform_scale=1; 16-bit integers, as before: 32768)",
)


def read(source: Path) -> Foreign:
    """Return the model of a `.model` file, or of a folder that holds one.

    Raises:
        InputError: no such file, damaged, another model, or other features.
    """
    weights = find(source, "*.model")
    # The loss's tensors are `__L__.`; the first files had the encoder's alone, without a prefix.
    everything = read_tensors(weights)
    state = {n.removeprefix("__S__."): t for n, t in everything.items() if not n.startswith("__L__.")}
    network = recognised(state, LAYOUTS, weights, "voxceleb_trainer")
    features = FeatureConfig(kind="voxceleb_trainer", num_mels=network.num_mels, low_hz=0.0)
    check_mel(state, "torchfb.1.mel_scale.fb", features, weights)
    return Foreign(weights, features, network, state, ignored=("torchfb.",), questions=(INPUT,), crop_s=4.015)
