"""The precision in which a model computes embeddings: float32, or bfloat16 where the processor is made for it.

In bfloat16 the weights of linear and convolutional layers are kept in that format, and their products are computed
in it. Features, batch norms' statistics and pooling stay float32, and so does the result.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16"]

# By how many points of EER on a dev list bfloat16 differs from float32, by the encoder's name, where it was measured
# (docs/performance.md, "Precision"). An encoder that is not here was not measured.
COST_IN_EER: dict[str, float] = {}
MOST_COST = 0.02


def chosen(
    precision: Precision, encoder: str, device: "str | torch.device"
) -> Literal["float32", "bfloat16"]:
    """Return the precision to compute in: `auto` is bfloat16 where that gains and its cost was measured to be small.

    Args:
        precision: the one asked for.
        encoder: the encoder's name.
        device: where the model is.
    """
    if precision != "auto":
        return precision
    cheap = abs(COST_IN_EER.get(encoder, float("inf"))) < MOST_COST
    return "bfloat16" if cheap and gains(device) else "float32"


def gains(device: "str | torch.device") -> bool:
    """Return whether a device multiplies bfloat16 faster than float32."""
    import torch

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
