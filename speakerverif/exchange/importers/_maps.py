"""Networks over maps under other toolkits' tensor names, with their sizes read from the shapes.

ResNets, Res2Nets, ERes2Nets and CAM++ of WeSpeaker and 3D-Speaker; SimAM-ResNets and Gemini DF-ResNets of WeSpeaker;
the ResNets with excitation of SpeechBrain and voxceleb_trainer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.errors import InputError
from speakerverif.exchange.importers._foreign import Network, count, numbered, size, within
from speakerverif.exchange.importers._poolings import pooling_layout
from speakerverif.models.encoders.campplus import BLOCKS as CAMPPLUS_BLOCKS
from speakerverif.models.encoders.gemini_dfresnet import BANDS as GEMINI_BANDS
from speakerverif.models.encoders.gemini_dfresnet import BLOCKS as GEMINI_BLOCKS
from speakerverif.models.encoders.resnet import BLOCKS as RESNET_BLOCKS
from speakerverif.models.encoders.simam_resnet import BLOCKS as SIMAM_BLOCKS

State = Mapping[str, Tensor]
INPUT = {"conv1": "input.conv", "bn1": "input.norm"}
BASIC = {f"conv{i}": f"conv{i}.conv" for i in (1, 2, 3)} | {f"bn{i}": f"conv{i}.norm" for i in (1, 2, 3)}
SHORTCUT = {"shortcut.0": "shortcut.conv", "shortcut.1": "shortcut.norm"}
SEGMENT = {"seg_1": "embedding", "seg_bn_1": "second.1", "seg_2": "second.2"}
FUSION = {
    "local_att.0": "reduce.conv",
    "local_att.1": "reduce.norm",
    "local_att.3": "expand.conv",
    "local_att.4": "expand.norm",
}
BANDS = 8  # that the strides of all these networks make of one


def resnet(state: State, where: Path) -> Network:
    """Return the ResNet of WeSpeaker's layout, which is 3D-Speaker's too."""
    deep = "layer1.0.conv3.weight" in state
    counts = _counts(state)
    depth = next((d for d, c in RESNET_BLOCKS.items() if c == counts and (d >= 50) == deep), None)
    if depth is None:
        raise InputError(
            f"{where}: a ResNet of {counts} {'bottleneck' if deep else 'basic'} blocks is not here"
        )
    encoder = {"name": "resnet", "depth": depth, "channels": size(state, "conv1.weight", 0, where)}
    last = f"layer4.0.conv{3 if deep else 2}.weight"
    modules = INPUT | _stages(counts, BASIC | SHORTCUT)
    return _with_segment(state, where, encoder, modules, size(state, last, 0, where))


def eres2net(state: State, where: Path) -> Network:
    """Return the ERes2Net or ERes2NetV2 of 3D-Speaker's layout, or the ERes2Net of WeSpeaker's."""
    channels = size(state, "conv1.weight", 0, where)
    width = size(state, "layer4.0.convs.0.weight", 0, where)
    out = size(state, "layer4.0.conv3.weight", 0, where)
    scale = size(state, "layer4.0.conv1.weight", 0, where) // width
    parts = numbered("convs.{}", "convs.{}.conv", scale) | numbered("bns.{}", "convs.{}.norm", scale)
    apart = {  # WeSpeaker's blocks with fusions: the first part has its own name
        "conv2_1": "convs.0.conv",
        "bn2_1": "convs.0.norm",
        **{f"convs.{i}": f"convs.{i + 1}.conv" for i in range(scale - 1)},
        **{f"bns.{i}": f"convs.{i + 1}.norm" for i in range(scale - 1)},
    }
    block = {**BASIC, **SHORTCUT, **parts}
    for i in range(scale - 1):
        block |= within(f"fuse_models.{i}", f"fusions.{i}", FUSION)
    modules = {
        **INPUT,
        **_stages(_counts(state), block),
        "layer1_downsample": "downsamples.0",
        "layer2_downsample": "downsamples.1",
        "layer3_downsample": "downsample",
        "layer3_ds": "downsample",
        **within("fuse_mode12", "fusions.0", FUSION),
        **within("fuse_mode123", "fusions.1", FUSION),
        **within("fuse_mode1234", "fusion", FUSION),
        **within("fuse34", "fusion", FUSION),
    }
    if "layer3.0.conv2_1.weight" in state:
        for i in (2, 3):
            modules |= _stage(i, _counts(state)[i], apart)
    encoder = {
        "name": "eres2netv2",
        "channels": channels,
        "base_width": -(-width * 64 // (8 * channels)),
        "scale": scale,
        "expansion": out // (8 * channels),
        "fused_stages": 4 if "fuse_mode12.local_att.0.weight" in state else 2,
    }
    return _with_segment(state, where, encoder, modules, out)


def res2net(state: State, where: Path) -> Network:
    """Return the Res2Net of WeSpeaker's layout, which is 3D-Speaker's too."""
    channels = size(state, "conv1.weight", 0, where)
    width = size(state, "layer4.0.convs.0.weight", 0, where)
    out = size(state, "layer4.0.conv3.weight", 0, where)
    parts = count(state, "layer4.0.convs.{}.weight")
    block = numbered("convs.{}", "convs.{}.conv", parts) | numbered("bns.{}", "convs.{}.norm", parts)
    encoder = {
        "name": "res2net",
        "channels": channels,
        "base_width": -(-width * 64 // (8 * channels)),
        "scale": parts + 1,
        "expansion": out // (8 * channels),
    }
    modules = INPUT | _stages(_counts(state), BASIC | SHORTCUT | block)
    return _with_segment(state, where, encoder, modules, out)


def simam_resnet(state: State, where: Path) -> Network:
    """Return the SimAM-ResNet of WeSpeaker's layout."""
    state = {name.removeprefix("front."): tensor for name, tensor in state.items()}
    counts = _counts(state)
    depth = next((d for d, c in SIMAM_BLOCKS.items() if c == counts), None)
    if depth is None:
        raise InputError(f"{where}: a SimAM-ResNet of {counts} blocks is not among the encoders here")
    shortcut = {theirs.replace("shortcut", "downsample"): ours for theirs, ours in SHORTCUT.items()}
    encoder = {
        "name": "simam_resnet",
        "depth": depth,
        "channels": size(state, "conv1.weight", 0, where),
        "attention_channels": size(state, "pooling.attention.0.weight", 0, where),
        "embedding_dim": size(state, "bottleneck.weight", 0, where),
    }
    front = INPUT | _stages(counts, BASIC | shortcut)
    modules = {
        **{f"front.{theirs}": ours for theirs, ours in front.items()},
        "pooling.attention.0": "pooling.hidden",
        "pooling.attention.2": "pooling.norm",
        "pooling.attention.3": "pooling.logits",
        "bottleneck": "embedding",
    }
    out = size(state, "layer4.0.conv2.weight", 0, where)
    return Network(encoder, modules, size(state, "bottleneck.weight", 1, where) // 2 // out * BANDS)


def gemini_dfresnet(state: State, where: Path) -> Network:
    """Return the Gemini DF-ResNet of WeSpeaker's layout."""
    counts = tuple(count(state, f"stages.{i}.{{}}.conv1.weight") for i in range(4))
    depth = next((d for d, c in GEMINI_BLOCKS.items() if c == counts), None)
    if depth is None:
        raise InputError(f"{where}: a Gemini DF-ResNet of {counts} blocks is not among the encoders here")
    modules = {"downsample_layers.0.0": "input.conv", "downsample_layers.0.1": "input.norm"}
    for i, blocks in enumerate(counts):
        modules |= within(f"downsample_layers.{i + 1}", f"downsamples.{i}", {"0": "conv", "1": "norm"})
        for theirs, ours in numbered(f"stages.{i}.{{}}", f"stages.{i}.{{}}", blocks).items():
            modules |= within(theirs, ours, BASIC)
    encoder = {
        "name": "gemini_dfresnet",
        "depth": depth,
        "channels": size(state, "downsample_layers.0.0.weight", 0, where),
    }
    out = size(state, "downsample_layers.4.0.weight", 0, where)
    return _with_segment(state, where, encoder, modules, out, GEMINI_BANDS)


def campplus(state: State, where: Path) -> Network:
    """Return the CAM++ of 3D-Speaker's layout, which is WeSpeaker's too."""
    head = {**INPUT, "conv2": "output.conv", "bn2": "output.norm"}
    for i in range(4):
        head |= within(f"layer{i // 2 + 1}.{i % 2}", f"blocks.{i}", BASIC | SHORTCUT)
    dense = {
        "nonlinear1.batchnorm": "norm1",
        "linear1": "linear1",
        "nonlinear2.batchnorm": "norm2",
        "cam_layer.linear_local": "local",
        "cam_layer.linear1": "squeeze",
        "cam_layer.linear2": "excite",
    }
    modules = {
        **within("head", "head", head),
        "xvector.tdnn.linear": "input.conv",
        "xvector.tdnn.nonlinear.batchnorm": "input.norm",
        "xvector.out_nonlinear.batchnorm": "norm",
        "xvector.dense.linear": "embedding",
        "xvector.dense.nonlinear.batchnorm": "embedding_norm",
    }
    for b, (layers, _) in enumerate(CAMPPLUS_BLOCKS):
        for their, our in numbered(
            f"xvector.block{b + 1}.tdnnd{{}}", f"blocks.{b}.layers.{{}}", layers, 1
        ).items():
            modules |= within(their, our, dense)
        modules[f"xvector.transit{b + 1}.nonlinear.batchnorm"] = f"blocks.{b}.norm"
        modules[f"xvector.transit{b + 1}.linear"] = f"blocks.{b}.linear"
    pooling = pooling_layout(state)
    first = "xvector.block1.tdnnd1"
    head_channels = size(state, "head.conv1.weight", 0, where)
    encoder = {
        "name": "campplus",
        "head_channels": head_channels,
        "channels": size(state, "xvector.tdnn.linear.weight", 0, where),
        "growth": size(state, f"{first}.cam_layer.linear_local.weight", 0, where),
        "bottleneck_channels": size(state, f"{first}.linear1.weight", 0, where),
        "pooling": pooling.name,
        "embedding_dim": size(state, "xvector.dense.linear.weight", 0, where),
    }
    mels = size(state, "xvector.tdnn.linear.weight", 1, where) // head_channels * BANDS
    return Network(encoder, modules | pooling.modules, mels)


def speechbrain_resnet(state: State, where: Path) -> Network:
    """Return the ResNet of SpeechBrain's layout; its kernels must have been turned to frequency and time."""
    block = {
        "bn1": "norm1",
        "conv1": "conv1.conv",
        "bn2": "conv1.norm",
        "conv2": "conv2.conv",
        "bn3": "conv2.norm",
        "conv3": "conv3",
    }
    modules = {"norm_stats": "pooling_norm", "fc_embed": "embedding", "norm_embed": "embedding_norm"}
    return _excited(state, where, {"order": "preactivated", "final_norm": True}, block, modules, "fc_embed")


def voxceleb_trainer_resnet(state: State, where: Path) -> Network:
    """Return the ResNetSE34V2 of voxceleb_trainer's layout."""
    block = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2.conv", "bn2": "conv2.norm"}
    return _excited(state, where, {"order": "activated"}, block, {"fc": "embedding"}, "fc")


def _excited(
    state: State,
    where: Path,
    settings: dict[str, Any],
    block: dict[str, str],
    names: dict[str, str],
    embedding: str,
) -> Network:
    """Return the common part of the ResNets with excitation of SpeechBrain and voxceleb_trainer."""
    widths = [size(state, f"layer{i}.0.conv2.weight", 0, where) for i in (1, 2, 3, 4)]
    inside = size(state, "attention.0.weight", 1, where)
    excited = count(state, "layer{}.0.se.fc.0.weight", 1)
    encoder = {
        "name": "resnet_se",
        "widths": widths,
        "blocks": list(_counts(state)),
        "excited_stages": excited,
        "reduction": widths[0] // size(state, "layer1.0.se.fc.0.weight", 0, where),
        "attention_channels": size(state, "attention.0.weight", 0, where),
        "deviation": size(state, f"{embedding}.weight", 1, where) == 2 * inside,
        "embedding_dim": size(state, f"{embedding}.weight", 0, where),
        **settings,
    }
    block = {
        **block,
        "se.fc.0": "excitation.squeeze",
        "se.fc.2": "excitation.excite",
        "downsample.0": "shortcut.conv",
        "downsample.1": "shortcut.norm",
    }
    modules = {
        "conv1": "input",
        "bn1": "input_norm",
        **_stages(_counts(state), block),
        "attention.0": "pooling.hidden",
        "attention.2": "pooling.norm",
        "attention.3": "pooling.logits",
        **names,
    }
    return Network(encoder, modules, inside // widths[3] * BANDS)


def _with_segment(
    state: State,
    where: Path,
    encoder: dict[str, Any],
    modules: dict[str, str],
    channels: int,
    bands: int = BANDS,
) -> Network:
    """Return the network with WeSpeaker's pooling and segment layers after its maps of `out` channels."""
    pooling = pooling_layout(state)
    encoder |= {
        "embedding_dim": size(state, "seg_1.weight", 0, where),
        "segment_layers": 2 if "seg_2.weight" in state else 1,
        "pooling": pooling.name,
    }
    mels = size(state, "seg_1.weight", 1, where) // pooling.vectors // channels * bands
    return Network(encoder, modules | pooling.modules | SEGMENT, mels)


def _counts(state: State) -> tuple[int, ...]:
    """Return the number of blocks of each of the four stages."""
    return tuple(count(state, f"layer{i}.{{}}.conv1.weight") for i in (1, 2, 3, 4))


def _stages(counts: tuple[int, ...], block: Mapping[str, str]) -> dict[str, str]:
    """Return the names in four stages of blocks."""
    return {k: v for i, n in enumerate(counts) for k, v in _stage(i, n, block).items()}


def _stage(i: int, blocks: int, block: Mapping[str, str]) -> dict[str, str]:
    """Return the names in the blocks of stage `i`."""
    names: dict[str, str] = {}
    for their, our in numbered(f"layer{i + 1}.{{}}", f"stages.{i}.{{}}", blocks).items():
        names |= within(their, our, block)
    return names
