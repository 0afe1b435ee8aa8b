"""RepVGG under WeSpeaker's tensor names, with its branches or fused, its sizes read from the shapes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from speakerverif.exchange.importers._foreign import Network, count, size, within
from speakerverif.exchange.importers._poolings import pooling_layout
from speakerverif.models.encoders.repvgg import BANDS

BLOCK = {
    "rbr_dense.conv": "dense",
    "rbr_dense.bn": "dense_norm",
    "rbr_1x1.conv": "second",
    "rbr_1x1.bn": "second_norm",
    "rbr_dense_dilation.conv": "second",
    "rbr_dense_dilation.bn": "second_norm",
    "rbr_identity": "identity_norm",
    "rbr_reparam": "fused",
    "se.fc_1": "excitation.squeeze",
    "se.fc_2": "excitation.excite",
}


def repvgg(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the RepVGG of WeSpeaker's layout."""
    fused = "stage0.rbr_reparam.weight" in state
    kernel = "rbr_reparam.weight" if fused else "rbr_dense.conv.weight"
    dilated = "stage0.rbr_dense_dilation.conv.weight" in state
    if fused:
        dilated = size(state, f"stage0.{kernel}", 2, where) == 5
    counts = [count(state, f"stage{i}.{{}}.{kernel}") for i in (1, 2, 3, 4)]
    widths = [size(state, f"stage{i}.0.{kernel}", 0, where) for i in (1, 2, 3, 4)]
    modules = within("stage0", "blocks.0", BLOCK)
    index, second_block = 1, ""
    for i, blocks in enumerate(counts, 1):
        for k in range(blocks):
            modules |= within(f"stage{i}.{k}", f"blocks.{index}", BLOCK)
            if index == 2:
                second_block = f"stage{i}.{k}"
            index += 1
    in_channels = (
        widths[0] if second_block == "stage1.1" else size(state, f"{second_block}.{kernel}", 1, where)
    )
    pooling = pooling_layout(state)
    encoder = {
        "name": "repvgg",
        "blocks": counts,
        "widths": widths,
        "second_branch": "dilated" if dilated else "pointwise",
        "groups": in_channels // size(state, f"{second_block}.{kernel}", 1, where),
        "excitation": "stage0.se.fc_1.weight" in state,
        "fused": fused,
        "pooling": pooling.name,
        "embedding_dim": size(state, "seg.weight", 0, where),
    }
    mels = size(state, "seg.weight", 1, where) // pooling.vectors // widths[-1] * BANDS
    return Network(encoder, {**modules, **pooling.modules, "seg": "embedding"}, mels)
