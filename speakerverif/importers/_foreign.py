"""What a kind of importer reads, and how it is fitted to a model of ours."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.model import SpeakerModel


@dataclass(frozen=True)
class Foreign:
    """Another toolkit's model in our words.

    Attributes:
        weights_file: where the tensors were read.
        features: the filterbanks it was trained on.
        encoder: the `[encoder]` table.
        state: their name of a tensor -> the tensor.
        modules: their name of a module -> ours, within the encoder.
        ignored: beginnings of names of tensors that a model doesn't need: class weights, feature buffers.
        passes_last: Res2Net blocks leave the last part of the channels as it is, not the first as ours do.
        speakers: class index -> speaker, where the checkpoint says.
        facts: for the `[trained]` table.
        name: of the model; empty takes the source's.
    """

    weights_file: Path
    features: FeatureConfig
    encoder: dict[str, Any]
    state: Mapping[str, Tensor]
    modules: Mapping[str, str]
    ignored: Collection[str] = ()
    passes_last: bool = False
    speakers: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""


def fitted(foreign: Foreign) -> dict[str, Tensor]:
    """Return the state dict of the `SpeakerModel` that a foreign model describes.

    Raises:
        InputError: tensors that are missing, have no place here, another shape or non-finite values; all listed.
    """
    expected = SpeakerModel(foreign.features, foreign.encoder).state_dict()
    weights: dict[str, Tensor] = {}
    met, wrong = set(), []
    for theirs, tensor in foreign.state.items():
        if theirs.startswith(tuple(foreign.ignored)):
            continue
        module, _, leaf = theirs.rpartition(".")
        ours = f"encoder.{foreign.modules[module]}.{leaf}" if module in foreign.modules else ""
        met.add(ours)
        if ours not in expected:
            wrong.append(f"{theirs} {tuple(tensor.shape)} has no place in this encoder")
        elif _without_taps(tensor.shape) != _without_taps(expected[ours].shape):
            wrong.append(f"{theirs} {tuple(tensor.shape)}: expected {tuple(expected[ours].shape)}, as {ours}")
        elif tensor.is_floating_point() and not tensor.isfinite().all():
            wrong.append(f"{theirs}: NaN or infinite values")
        else:
            weights[ours] = tensor.reshape(expected[ours].shape).to(expected[ours].dtype)
    names = {ours: theirs for theirs, ours in foreign.modules.items()}
    for ours, tensor in expected.items():
        if ours.endswith(".num_batches_tracked"):  # older checkpoints lack it, and nothing uses it
            weights.setdefault(ours, tensor)
        elif ours.startswith("encoder.") and ours not in met:
            module, _, leaf = ours.removeprefix("encoder.").rpartition(".")
            wrong.append(f"{names.get(module, module)}.{leaf} {tuple(tensor.shape)} is missing")
    if wrong:
        listed = "\n".join(f"  {text}" for text in wrong)
        raise InputError(
            f"{foreign.weights_file}: {len(wrong)} tensors don't fit {foreign.encoder['name']} "
            f"as its other tensors describe it:\n{listed}"
        )
    if foreign.passes_last:
        _move_last_part_first(weights, foreign.encoder.get("res2_scale", 8))
    return weights


def size(state: Mapping[str, Tensor], name: str, axis: int, where: Path) -> int:
    """Return the length of one axis of a tensor.

    Raises:
        InputError: no such tensor, or it has fewer axes.
    """
    if name not in state or state[name].ndim <= axis:
        found = ", ".join(list(state)[:5])
        raise InputError(f"{where}: no tensor {name} with {axis + 1} axes or more; it begins with {found}")
    return state[name].shape[axis]


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return for how many i from 0 on `pattern.format(i)` is a tensor's name."""
    i = 0
    while pattern.format(i) in state:
        i += 1
    return i


def _without_taps(shape: Collection[int]) -> tuple[int, ...]:
    """Return a shape without axes of 1 at its end: a kernel of width 1 is a matrix."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _move_last_part_first(weights: dict[str, Tensor], scale: int) -> None:
    """Reorder the channels between the layers around every Res2Net, in place.

    Theirs convolves parts 0 to s - 2, each with the result before it, and passes part s - 1 on; ours passes
    part 0 on and convolves the others. With their last part put first both are the same function.
    """
    for name, tensor in list(weights.items()):
        if ".reduce." in name and tensor.ndim:
            weights[name] = tensor.roll(len(tensor) // scale, 0)
        elif name.endswith(".expand.affine.weight"):
            weights[name] = tensor.roll(tensor.shape[1] // scale, 1)
