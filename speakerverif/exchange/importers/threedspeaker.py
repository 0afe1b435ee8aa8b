"""3D-Speaker's models: `embedding_model.ckpt`, or the single file of a released model.

Its features need no settings: Kaldi's with a Povey window, on samples in [-1, 1], mean subtracted; the number of
bands is read from the tensors.
"""

from pathlib import Path

from speakerverif.config import FeatureConfig
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import Foreign, recognised
from speakerverif.exchange.importers._frames import speechbrain_ecapa, wespeaker_xvector
from speakerverif.exchange.importers._maps import campplus, eres2net, resnet

KIND = "3dspeaker"
FILES = ("*.ckpt", "*.bin", "*.pt")
LAYOUTS = {
    "asp.conv.conv.weight": speechbrain_ecapa,
    "frame_1.conv_1d.weight": wespeaker_xvector,
    "xvector.tdnn.linear.weight": campplus,
    "layer1.0.convs.0.weight": eres2net,
    "layer1.0.conv1.weight": resnet,
}


def read(source: Path) -> Foreign:
    """Return the model of a checkpoint file, or of a folder that holds one.

    Raises:
        InputError: a file is missing or damaged, or is a model that is not here.
    """
    weights = find(source, "embedding_model.ckpt", "*.ckpt", "*.bin", "*.pt")
    state = read_tensors(weights)
    network = recognised(state, LAYOUTS, weights, "3D-Speaker")
    return Foreign(weights, FeatureConfig(window="povey", num_mels=network.num_mels), network, state)
