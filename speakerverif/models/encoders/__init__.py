"""Encoders: features (batch, frames, mels) to embeddings (batch, dim), one network per file."""

from typing import TYPE_CHECKING, Any

from speakerverif._util import registry
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def build(table: dict[str, Any], num_mels: int) -> "nn.Module":
    """Return the encoder that a recipe's `[encoder]` table describes.

    An encoder whose table holds tables of `members` is built from them.

    Raises:
        InputError: unknown name, key or value (the alternatives are named), values that the network can't be built
            with (its own error is named), or an ensemble without members.
        Exception: whatever else an outside encoder's `build` raises, unchanged.
    """
    module, config = registry.resolve("encoder", table)
    if not hasattr(config, "members"):
        try:
            network: nn.Module = module.build(config, num_mels)
        except InputError:
            raise
        except (ArithmeticError, RuntimeError, ValueError) as error:  # of layers that can't have these sizes
            raise InputError(
                f"[encoder] {table['name']}: can't be built with these values and {num_mels} mel bands: "
                f"{registry.place_of(error)}{type(error).__name__}: {error}"
            ) from error
        return network
    if not config.members:
        raise InputError(f"[encoder] {table['name']}: expected encoders in [encoder.members.NAME]")
    members = {name: build(member, num_mels) for name, member in config.members.items()}
    ensemble: nn.Module = module.build(config, num_mels, members)
    return ensemble
