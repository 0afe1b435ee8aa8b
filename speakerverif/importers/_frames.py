"""The names that other toolkits' ECAPA-TDNN and x-vector modules have, and what their shapes tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.importers._foreign import count, size


def speechbrain_ecapa(state: Mapping[str, Tensor], where: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the `[encoder]` table and the names of modules of an ECAPA-TDNN of SpeechBrain's layout."""

    def layer(theirs: str, ours: str) -> dict[str, str]:
        return {f"{theirs}.conv.conv": f"{ours}.affine", f"{theirs}.norm.norm": f"{ours}.norm"}

    parts = count(state, "blocks.1.res2net_block.blocks.{}.conv.conv.weight")
    channels = size(state, "blocks.0.conv.conv.weight", 0, where)
    mfa = size(state, "mfa.conv.conv.weight", 0, where)
    encoder = {
        "name": "ecapa",
        "channels": channels,
        "mfa_channels": mfa,
        "attention_channels": size(state, "asp.conv.conv.weight", 1, where),
        "res2_scale": parts + 1,
        "se_channels": size(state, "blocks.1.se_block.conv1.conv.weight", 0, where),
        "embedding_dim": size(state, "fc.conv.weight", 0, where),
        "padding": "reflect",
        "global_context": size(state, "asp.tdnn.conv.conv.weight", 1, where) == 3 * mfa,
        "variance_floor": 1e-12,
    }
    modules = {
        **layer("blocks.0", "input"),
        **layer("mfa", "mfa"),
        "asp.tdnn.conv.conv": "pooling.hidden",
        "asp.tdnn.norm.norm": "pooling.norm",
        "asp.conv.conv": "pooling.logits",
        "asp_bn.norm": "pooling_norm",
        "fc.conv": "embedding",
    }
    for i in range(3):
        theirs, ours = f"blocks.{i + 1}", f"blocks.{i}"
        modules |= layer(f"{theirs}.tdnn1", f"{ours}.reduce") | layer(f"{theirs}.tdnn2", f"{ours}.expand")
        for k in range(parts):
            modules |= layer(f"{theirs}.res2net_block.blocks.{k}", f"{ours}.res2.parts.{k}")
        modules[f"{theirs}.se_block.conv1.conv"] = f"{ours}.se.squeeze"
        modules[f"{theirs}.se_block.conv2.conv"] = f"{ours}.se.excite"
    return encoder, modules


def wespeaker_xvector(state: Mapping[str, Tensor], where: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the `[encoder]` table and the names of modules of an x-vector of WeSpeaker's layout."""
    second = "seg_2.weight" in state
    encoder = {
        "name": "xvector",
        "channels": size(state, "frame_1.conv_1d.weight", 0, where),
        "pooling_channels": size(state, "frame_5.conv_1d.weight", 0, where),
        "embedding_dim": size(state, "seg_1.weight", 0, where),
        "padding": "none",
        "norm_affine": False,
        "segment_layers": 2 if second else 1,
    }
    modules = {"seg_1": "embedding"}
    for i in range(5):
        modules |= {f"frame_{i + 1}.conv_1d": f"frames.{i}.affine", f"frame_{i + 1}.bn": f"frames.{i}.norm"}
    if second:
        modules |= {"seg_bn_1": "second.1", "seg_2": "second.2"}
    return encoder, modules
