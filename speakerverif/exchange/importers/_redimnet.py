"""ReDimNet and ReDimNet2 under their authors' and WeSpeaker's tensor names, with their sizes read from the shapes."""

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Literal

from torch import Tensor

from speakerverif.errors import InputError
from speakerverif.exchange.importers._foreign import Network, count, numbered, size, within
from speakerverif.exchange.importers._poolings import pooling_layout
from speakerverif.models.encoders import redimnet2 as second_version
from speakerverif.models.encoders.redimnet import SIZES, Size, Stage

State = Mapping[str, Tensor]
SEGMENT = {"seg_1": "embedding", "seg_bn_1": "second.1", "seg_2": "second.2"}
AUTHORS_SEGMENT = {"bn": "pooling_norm", "linear": "embedding", "bn2": "embedding_norm"}
INPUT = {"backbone.stem.0": "input", "backbone.stem.1": "input_norm"}
RESIDUAL = {
    "conv1": "grouped1",
    "conv1pw": "pointwise1",
    "bn1": "norm1",
    "conv2": "grouped2",
    "conv2pw": "pointwise2.conv",
    "bn2": "pointwise2.norm",
    "se.squeeze": "excitation.squeeze",
    "se.exitation": "excitation.excite",
}
CONVNEXT = {"dwconvs.0": "grouped.conv", "norm": "grouped.norm", "pwconv1": "pointwise"}
ATTENTION = {
    **{f"attention.{p[0]}_proj": p for p in ("query", "key", "value")},
    "attention.out_proj": "output",
    "layer_norm": "norm",
    "feed_forward.intermediate_dense": "inner",
    "feed_forward.output_dense": "outer",
    "final_layer_norm": "final_norm",
}
CONTEXT = {
    "red_dim_conv.0": "reduce",
    "red_dim_conv.1": "norm",
    "exp_dim_conv": "expand",
    **within("tcm.4", "attention", ATTENTION),
    **{f"tcm.{k}.{a}": f"convs.{k}.{b}" for k in range(4) for a, b in CONVNEXT.items()},
}


def redimnet(state: State, where: Path) -> Network:
    """Return the ReDimNet of WeSpeaker's layout, or of the two that its authors' code has had."""
    # In the authors' later code each stage begins with the weights of its inputs and the change of shape.
    first = 2 if "backbone.stage0.0.w" in state else 0
    width = size(state, "backbone.fin_wght1d.w" if first else "backbone.inputs_weights.1", 2, where)
    shown = _redimnet_size(state, where, width, first)
    name = next((name for name, known in SIZES.items() if known._replace(mels=shown.mels) == shown), None)
    if name is None:
        raise InputError(f"{where}: a ReDimNet of no known size, {', '.join(SIZES)}: {shown}")
    modules = {**INPUT, **pooling_layout(state).modules, **SEGMENT, **AUTHORS_SEGMENT}
    modules |= {"backbone.mfa.0": "head.affine", "backbone.mfa.1": "head.norm"}
    modules |= numbered("backbone.inputs_weights.{}", "weights.{}", len(shown.stages), 1)
    modules |= _input_weights(len(shown.stages))
    for i, stage in enumerate(shown.stages):
        theirs, ours = f"backbone.stage{i}", f"stages.{i}"
        modules[f"{theirs}.{first}"] = f"{ours}.reduce"
        after = first + 1 + stage.blocks
        for k in range(stage.blocks):
            block = f"{theirs}.{first + 1 + k}.conv_block"
            modules |= within(block, f"{ours}.blocks.{k}", RESIDUAL | CONVNEXT)
        if stage.expansion > 1:
            squeeze = {"0": "squeeze.conv", "1": "squeeze.norm", "3": "squeezed"}
            modules |= within(f"{theirs}.{after}", ours, squeeze)
            after += 1
        # `after` changes the shape alone.
        modules |= within(f"{theirs}.{after + 1}", f"{ours}.context", CONTEXT)
    head = state.get("backbone.mfa.0.weight")
    pooled = width if head is None else len(head)
    ported = "seg_1.weight" in state
    encoder = {
        "name": "redimnet",
        "size": name,
        "head_channels": 0 if head is None else pooled,
        "embedding_dim": size(state, "seg_1.weight" if ported else "linear.weight", 0, where),
        "segment_layers": 2 if "seg_2.weight" in state else 1,
        "global_context": size(state, "pool.linear1.weight", 1, where) == 3 * pooled,
        "pooling_norm": "bn.weight" in state,
        "final_norm": "bn2.weight" in state,
    }
    # The weight of the first stage's only input is 1 whatever it holds.
    ignored = ("backbone.stage0.0.w",) if first else ("backbone.inputs_weights.0",)
    return Network(encoder, modules, shown.mels, ignored=ignored)


def redimnet2(state: State, where: Path) -> Network:
    """Return the ReDimNet2 of its authors' layout, which is WeSpeaker's too.

    Where it has no layer before the pooling, its tensors don't tell in what order the channels are pooled: its
    configuration does, by `return_2d_output`.
    """
    if any(".stage0_pre." in name or ".stage3_pre." in name for name in state):
        raise InputError(
            f"{where}: a ReDimNet2 that sums two results of each stage (dual_agg) can't be imported"
        )
    width = size(state, "backbone.fin_wght1d.w", 2, where)
    channels = size(state, "backbone.stem.0.weight", 0, where)
    stages = [_stage2(state, where, i) for i in range(count(state, "backbone.stage{}.2.weight"))]
    name = next(
        (n for n, sizes in second_version.SIZES.items() if _shapes2(sizes) == (channels, stages)), None
    )
    if name is None:
        sizes = ", ".join(second_version.SIZES)
        raise InputError(
            f"{where}: a ReDimNet2 of no known size, {sizes}: {channels} channels, stages {stages}"
        )
    modules = {**INPUT, **pooling_layout(state).modules, **AUTHORS_SEGMENT}
    modules |= {"backbone.stem_gnorm": "group_norm", "backbone.head": "head"} | _input_weights(len(stages))
    for i, stage in enumerate(second_version.SIZES[name].stages):
        theirs, ours = f"backbone.stage{i}", f"stages.{i}"
        modules[f"{theirs}.2"] = f"{ours}.reduce"
        for k in range(stage.blocks):
            modules |= within(f"{theirs}.{3 + k}.conv_block", f"{ours}.blocks.{k}", RESIDUAL)
        after = 3 + stage.blocks
        if stage.expansion != 1:
            modules |= within(f"{theirs}.{after}", f"{ours}.squeeze", {"0": "conv", "1": "norm"})
            after += 1
        # `after` changes the shape alone, and the module after the block over time repeats its frames.
        modules |= within(f"{theirs}.{after + 1}", f"{ours}.context", CONTEXT)
        modules[f"{theirs}.{after + 3}"] = f"{ours}.norm"
    head = state.get("backbone.head.weight")
    pooled = size(state, "pool.linear2.weight", 0, where)
    encoder = {
        "name": "redimnet2",
        "size": name,
        "group_norm": "backbone.stem_gnorm.weight" in state,
        "head_channels": 0 if head is None else len(head),
        "head_per_band": head is None or head.ndim == 4,
        "global_context": size(state, "pool.linear1.weight", 1, where) == 3 * pooled,
        "embedding_dim": size(state, "linear.weight", 0, where),
        "final_norm": "bn2.weight" in state,
    }
    return Network(encoder, modules, width // channels, ignored=("backbone.stage0.0.w",))


def _input_weights(stages: int) -> dict[str, str]:
    """Return the names of the weights of every sum but the first stage's, in the authors' later layout."""
    names = {f"backbone.stage{i}.0.w": f"weights.{i - 1}" for i in range(1, stages)}
    return {**names, "backbone.fin_wght1d.w": f"weights.{stages - 1}"}


def _stage2(state: State, where: Path, i: int) -> tuple[int, int, int, int, int]:
    """Return a stage of a ReDimNet2: its strides over frequency and, with those before it, over time; its blocks;
    the channels of these; and the channels of its block over time."""
    first = f"backbone.stage{i}.2.weight"
    begins = f"backbone.stage{i}."
    blocks = {n.split(".")[2] for n in state if n.startswith(begins) and ".conv_block." in n}
    inner = [
        t.shape[0] for n, t in state.items() if n.startswith(begins) and n.endswith("red_dim_conv.0.weight")
    ]
    strides = size(state, first, 2, where), size(state, first, 3, where)
    return *strides, len(blocks), size(state, first, 0, where), inner[0] if inner else 0


def _shapes2(known: second_version.Size) -> tuple[int, list[tuple[int, int, int, int, int]]]:
    """Return the channels and stages of a size as `_stage2` reads them."""
    width = known.channels * second_version.MELS
    times = accumulate((stage.time_stride for stage in known.stages), mul)
    channels = accumulate((stage.stride for stage in known.stages), mul, initial=known.channels)
    next(channels)
    return known.channels, [
        (stage.stride, time, stage.blocks, int(out * stage.expansion), width // stage.reduction)
        for stage, time, out in zip(known.stages, times, channels, strict=True)
    ]


def _redimnet_size(state: State, where: Path, width: int, first: int) -> Size:
    """Return a ReDimNet's size as its tensors give it; `first` is the number of its stages' first layer."""
    channels = size(state, "backbone.stem.0.weight", 0, where)
    stages: list[Stage] = []
    now = channels
    while f"backbone.stage{len(stages)}.{first}.weight" in state:
        theirs = f"backbone.stage{len(stages)}"
        stride = size(state, f"{theirs}.{first}.weight", 2, where)
        now *= stride
        numbers = {n.split(".")[2] for n in state if n.startswith(f"{theirs}.") and ".conv_block." in n}
        inner = [
            t.shape[0]
            for n, t in state.items()
            if n.startswith(f"{theirs}.") and n.endswith("red_dim_conv.0.weight")
        ]
        expansion = size(state, f"{theirs}.{first}.weight", 0, where) // now
        stages.append(Stage(stride, len(numbers), expansion, width // inner[0] if inner else None))
    # In the last stage: earlier ones may have fewer channels than two groups take.
    last = f"backbone.stage{len(stages) - 1}.{first + 1}.conv_block"
    convnext = f"{last}.dwconvs.0.weight" in state
    group = size(state, f"{last}.{'dwconvs.0' if convnext else 'conv1'}.weight", 1, where)
    excited = f"{last}.se.squeeze.weight" in state
    block: Literal["convnext", "residual", "excited"] = "excited" if excited else "residual"
    return Size(width // channels, channels, "convnext" if convnext else block, group, tuple(stages))
