"""3D-Speaker's models: `embedding_model.ckpt`, or the single file of a released model.

Its features need no settings: Kaldi's with a Povey window, on samples in [-1, 1], mean subtracted; the number of
bands is read from the tensors.
"""

from dataclasses import replace
from pathlib import Path

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import Foreign, Question, recognised
from speakerverif.exchange.importers._frames import speechbrain_ecapa, wespeaker_xvector
from speakerverif.exchange.importers._maps import campplus, eres2net, res2net, resnet

KIND = "3dspeaker"
FILES = ("*.ckpt", "*.bin", "*.pt")
USUAL_BANDS = 80
LAYOUTS = {
    "asp.conv.conv.weight": speechbrain_ecapa,
    "frame_1.conv_1d.weight": wespeaker_xvector,
    "xvector.tdnn.linear.weight": campplus,
    "layer3_downsample.weight": eres2net,
    "layer3_ds.weight": eres2net,
    "layer1.0.convs.0.weight": res2net,
    "layer1.0.conv1.weight": resnet,
}
BANDS = Question(
    ("features.num_mels",),
    "its tensors fit TSTP pooling over {0} bands, or TAP or TSDP pooling over {1}, and no file tells which: TSTP "
    "(--set features.num_mels={0}), TAP (--set features.num_mels={1} --set encoder.pooling=average) or TSDP (--set "
    "features.num_mels={1} --set encoder.pooling=deviation)",
)


def read(source: Path) -> Foreign:
    """Return the model of a checkpoint file, or of a folder that holds one.

    Raises:
        InputError: a file is missing or damaged, or is an unsupported model.
    """
    if source.is_dir() and (source / "hyperparams.yaml").is_file():
        raise InputError(
            f"{source}: holds hyperparams.yaml, so it is SpeechBrain's: import speechbrain {source}"
        )
    weights = find(source, "embedding_model.ckpt", "*.ckpt", "*.bin", "*.pt")
    state = read_tensors(weights)
    network = recognised(state, LAYOUTS, weights, "3D-Speaker")
    bands = network.num_mels
    questions: tuple[Question, ...] = ()
    if bands != USUAL_BANDS and network.encoder["name"] in ("resnet", "eres2netv2", "res2net"):
        questions = (replace(BANDS, text=BANDS.text.format(bands, 2 * bands)),)
    return Foreign(
        weights, FeatureConfig(window="povey", num_mels=bands), network, state, questions=questions
    )
