"""voxceleb_trainer's ResNetSE34V2 and ResNetSE34L: one `.model` file with features, encoder and class weights.

The file holds the mel matrix of its features, which is compared with ours. Its evaluation averages the distances
between ten crops of 400 frames of each recording, which `--crops 10` comes near; here the embedding is that of the
whole recording. Its loader has read samples in [-1, 1] since it uses soundfile, and 16-bit integers before.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from speakerverif.config import FeatureConfig, FeatureKind
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import (
    Foreign,
    Network,
    Question,
    check_mel,
    count,
    recognised,
    size,
    within,
)
from speakerverif.exchange.importers._maps import voxceleb_trainer_resnet

KIND = "voxceleb_trainer"
FILES = ("*.model",)
INPUT = Question(
    ("features.kind", "features.waveform_scale"),
    "its file doesn't tell whether it was trained with --log_input (then --set features.kind={0}; without it, which is "
    "that toolkit's default, --set features.kind={0}_linear), nor on which samples (in [-1, 1], as it reads them "
    "through soundfile: --set features.waveform_scale=1; 16-bit integers, as before: 32768)",
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
    lite = network.encoder["name"] == "resnet_se34l"
    kind: FeatureKind = "voxceleb_trainer_lite" if lite else "voxceleb_trainer"
    mel = "torchfb.mel_scale.fb" if lite else "torchfb.1.mel_scale.fb"
    # The lite network takes any number of bands, of which its mel matrix alone tells.
    bands = size(state, mel, 1, weights) if lite else network.num_mels
    features = FeatureConfig(kind=kind, num_mels=bands, low_hz=0.0)
    check_mel(state, mel, features, weights)
    question = replace(INPUT, text=INPUT.text.format(kind))
    return Foreign(
        weights, features, network, state, ignored=("torchfb.",), questions=(question,), crop_s=4.015
    )


def resnet_se34l(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the ResNetSE34L."""
    block = {
        "conv1": "conv1",
        "bn1": "norm1",
        "conv2": "conv2.conv",
        "bn2": "conv2.norm",
        "se.fc.0": "excitation.squeeze",
        "se.fc.2": "excitation.excite",
        "downsample.0": "shortcut.conv",
        "downsample.1": "shortcut.norm",
    }
    modules = {
        "conv1": "input.conv",
        "bn1": "input.norm",
        "sap_linear": "pooling.hidden",
        "attention": "pooling.logits.weight",
        "fc": "embedding",
    }
    counts = [count(state, f"layer{i}.{{}}.conv1.weight") for i in (1, 2, 3, 4)]
    for i, blocks in enumerate(counts):
        for k in range(blocks):
            modules |= within(f"layer{i + 1}.{k}", f"stages.{i}.{k}", block)
    encoder = {
        "name": "resnet_se34l",
        "channels": size(state, "conv1.weight", 0, where),
        "blocks": counts,
        "deviation": size(state, "fc.weight", 1, where) == 2 * size(state, "sap_linear.weight", 0, where),
        "embedding_dim": size(state, "fc.weight", 0, where),
    }
    return Network(encoder, modules, 0)


LAYOUTS = {"sap_linear.weight": resnet_se34l, "layer1.0.se.fc.0.weight": voxceleb_trainer_resnet}
