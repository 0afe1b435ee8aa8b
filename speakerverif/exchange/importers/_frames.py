"""ECAPA-TDNNs and x-vectors under other toolkits' tensor names, with their sizes read from the shapes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from speakerverif.exchange.importers._foreign import Network, count, numbered, size, within
from speakerverif.exchange.importers._poolings import pooling_layout

POOLED_VARIANCE = 1e-7  # the least variance of WeSpeaker's poolings


def speechbrain_ecapa(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the ECAPA-TDNN of SpeechBrain's layout, which is 3D-Speaker's too."""
    parts = count(state, "blocks.1.res2net_block.blocks.{}.conv.conv.weight")
    mfa = size(state, "mfa.conv.conv.weight", 0, where)
    layer = {"conv.conv": "affine", "norm.norm": "norm"}
    block = {
        **within("tdnn1", "reduce", layer),
        **within("tdnn2", "expand", layer),
        **numbered("res2net_block.blocks.{}.conv.conv", "res2.parts.{}.affine", parts),
        **numbered("res2net_block.blocks.{}.norm.norm", "res2.parts.{}.norm", parts),
        "se_block.conv1.conv": "se.squeeze",
        "se_block.conv2.conv": "se.excite",
    }
    modules = {
        **within("blocks.0", "input", layer),
        **_blocks("blocks.{}", 1, block),
        **within("mfa", "mfa", layer),
        **within("asp.tdnn", "pooling", {"conv.conv": "hidden", "norm.norm": "norm"}),
        "asp.conv.conv": "pooling.logits",
        "asp_bn.norm": "pooling_norm",
        "fc.conv": "embedding",
    }
    encoder = {
        "name": "ecapa",
        "channels": size(state, "blocks.0.conv.conv.weight", 0, where),
        "mfa_channels": mfa,
        "attention_channels": size(state, "asp.conv.conv.weight", 1, where),
        "res2_scale": parts + 1,
        "se_channels": size(state, "blocks.1.se_block.conv1.conv.weight", 0, where),
        "embedding_dim": size(state, "fc.conv.weight", 0, where),
        "padding": "reflect",
        "global_context": size(state, "asp.tdnn.conv.conv.weight", 1, where) == 3 * mfa,
        "variance_floor": 1e-12,
    }
    return Network(encoder, modules, size(state, "blocks.0.conv.conv.weight", 1, where))


def wespeaker_ecapa(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the ECAPA-TDNN of WeSpeaker's layout."""
    parts = count(state, "layer2.se_res2block.1.convs.{}.weight")
    pooling = pooling_layout(state)
    mfa = size(state, "conv.weight", 0, where)
    layer = {"conv": "affine", "bn": "norm"}
    block = {
        **within("0", "reduce", layer),
        **within("2", "expand", layer),
        **numbered("1.convs.{}", "res2.parts.{}.affine", parts),
        **numbered("1.bns.{}", "res2.parts.{}.norm", parts),
        "3.linear1": "se.squeeze",
        "3.linear2": "se.excite",
    }
    modules = {
        **within("layer1", "input", layer),
        **_blocks("layer{}.se_res2block", 2, block),
        "conv": "mfa.affine",
        **pooling.modules,
        "bn": "pooling_norm",
        "linear": "embedding",
        "bn2": "embedding_norm",
    }
    encoder = {
        "name": "ecapa",
        "channels": size(state, "layer1.conv.weight", 0, where),
        "mfa_channels": mfa,
        "pooling": pooling.name,
        "res2_scale": parts + 1,
        "se_channels": size(state, "layer2.se_res2block.3.linear1.weight", 0, where),
        "embedding_dim": size(state, "linear.weight", 0, where),
        "mfa_norm": False,
        "final_norm": "bn2.weight" in state,
    }
    if pooling.name == "attentive":
        encoder |= {
            "attention_channels": size(state, "pool.linear1.weight", 0, where),
            "attention_norm": False,
            "global_context": size(state, "pool.linear1.weight", 1, where) == 3 * mfa,
            "unbiased_context": True,
        }
    else:
        encoder |= {"variance_floor": POOLED_VARIANCE}
    return Network(encoder, modules, size(state, "layer1.conv.weight", 1, where), passes_last=True)


def taoruijie_ecapa(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the ECAPA-TDNN of TaoRuijie's layout."""
    parts = count(state, "layer1.convs.{}.weight")
    block = {
        "conv1": "reduce.affine",
        "bn1": "reduce.norm",
        "conv3": "expand.affine",
        "bn3": "expand.norm",
        **numbered("convs.{}", "res2.parts.{}.affine", parts),
        **numbered("bns.{}", "res2.parts.{}.norm", parts),
        "se.se.1": "se.squeeze",
        "se.se.3": "se.excite",
    }
    modules = {
        "conv1": "input.affine",
        "bn1": "input.norm",
        **_blocks("layer{}", 1, block),
        "layer4": "mfa.affine",
        "attention.0": "pooling.hidden",
        "attention.2": "pooling.norm",
        "attention.4": "pooling.logits",
        "bn5": "pooling_norm",
        "fc6": "embedding",
        "bn6": "embedding_norm",
    }
    encoder = {
        "name": "ecapa",
        "channels": size(state, "conv1.weight", 0, where),
        "mfa_channels": size(state, "layer4.weight", 0, where),
        "attention_channels": size(state, "attention.0.weight", 0, where),
        "res2_scale": parts + 1,
        "se_channels": size(state, "layer1.se.se.1.weight", 0, where),
        "embedding_dim": size(state, "fc6.weight", 0, where),
        "sum_inputs": True,
        "mfa_norm": False,
        "unbiased_context": True,
        "variance_floor": 1e-4,
        "final_norm": True,
    }
    return Network(encoder, modules, size(state, "conv1.weight", 1, where), passes_last=True)


def _blocks(theirs: str, first: int, block: Mapping[str, str]) -> dict[str, str]:
    """Return the names in the three blocks of an ECAPA-TDNN."""
    names: dict[str, str] = {}
    for their, our in numbered(theirs, "blocks.{}", 3, first).items():
        names |= within(their, our, block)
    return names


def speechbrain_xvector(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the x-vector of SpeechBrain's layout: five times convolution, activation, norm."""
    encoder = {
        "name": "xvector",
        "channels": size(state, "blocks.0.conv.weight", 0, where),
        "pooling_channels": size(state, "blocks.12.conv.weight", 0, where),
        "embedding_dim": size(state, "blocks.16.w.weight", 0, where),
        "padding": "reflect",
    }
    modules = {"blocks.16.w": "embedding"}
    for i in range(5):
        modules[f"blocks.{3 * i}.conv"] = f"frames.{i}.affine"
        modules[f"blocks.{3 * i + 2}.norm"] = f"frames.{i}.norm"
    return Network(encoder, modules, size(state, "blocks.0.conv.weight", 1, where))


def wespeaker_xvector(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the x-vector of WeSpeaker's layout, which is 3D-Speaker's too."""
    pooling = pooling_layout(state)
    encoder = {
        "name": "xvector",
        "channels": size(state, "frame_1.conv_1d.weight", 0, where),
        "pooling_channels": size(state, "frame_5.conv_1d.weight", 0, where),
        "embedding_dim": size(state, "seg_1.weight", 0, where),
        "padding": "none",
        "norm_affine": False,
        "segment_layers": 2 if "seg_2.weight" in state else 1,
        "pooling": pooling.name,
        **({} if pooling.name == "statistics" else {"variance_floor": POOLED_VARIANCE}),
    }
    modules = {
        **pooling.modules,
        **numbered("frame_{}.conv_1d", "frames.{}.affine", 5, 1),
        **numbered("frame_{}.bn", "frames.{}.norm", 5, 1),
        "seg_1": "embedding",
        "seg_bn_1": "second.1",
        "seg_2": "second.2",
    }
    return Network(encoder, modules, size(state, "frame_1.conv_1d.weight", 1, where))
