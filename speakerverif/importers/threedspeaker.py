"""3D-Speaker's ECAPA-TDNN and x-vector: `embedding_model.ckpt`, or the single file of a released model.

Its features need no settings: Kaldi's with a Povey window, on samples in [-1, 1], mean subtracted; the number of
bands is read from the first layer.
"""

from pathlib import Path

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.importers._files import find, read_tensors
from speakerverif.importers._foreign import Foreign, size
from speakerverif.importers._layers import speechbrain_ecapa, wespeaker_xvector

KIND = "3dspeaker"
FILES = ("*.ckpt", "*.bin", "*.pt")


def read(source: Path) -> Foreign:
    """Return the model of a checkpoint file, or of a folder that holds one.

    Raises:
        InputError: a file is missing or damaged, or is a model that is not here.
    """
    weights = find(source, "embedding_model.ckpt", "*.ckpt", "*.bin", "*.pt")
    state = read_tensors(weights)
    if "asp.conv.conv.weight" in state:
        encoder, modules = speechbrain_ecapa(state, weights)
        first = "blocks.0.conv.conv.weight"
    elif "frame_1.conv_1d.weight" in state:
        encoder, modules = wespeaker_xvector(state, weights)
        first = "frame_1.conv_1d.weight"
    else:
        raise InputError(
            f"{weights}: neither 3D-Speaker's ECAPA_TDNN nor its Xvector; its tensors begin with "
            f"{', '.join(list(state)[:3])}"
        )
    return Foreign(
        weights_file=weights,
        features=FeatureConfig(window="povey", num_mels=size(state, first, 1, weights)),
        encoder=encoder,
        state=state,
        modules=modules,
    )
