"""The model that an importer reads, and its tensors under our names."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models import encoders, features

SHOWN = 4  # tensors that an error lists


@dataclass(frozen=True)
class Network:
    """Another toolkit's network in our terms.

    Attributes:
        encoder: the `[encoder]` table.
        modules: their name of a module, or of a tensor -> ours, within the encoder.
        num_mels: number of bands that its first layer takes.
        ignored: prefixes of tensor names that it doesn't need.
        passes_last: its Res2Net blocks pass on the last part of the channels unchanged, ours the first.
    """

    encoder: dict[str, Any]
    modules: Mapping[str, str]
    num_mels: int
    ignored: tuple[str, ...] = ()
    passes_last: bool = False


@dataclass(frozen=True)
class Question:
    """A setting that decides a model's embeddings and that its files don't give.

    Attributes:
        keys: settings that answer it, such as `features.window`.
        text: the question, with the answers and who trained that way.
    """

    keys: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Foreign:
    """Another toolkit's model in our terms.

    Attributes:
        weights_file: file of the tensors.
        features: its filterbank.
        network: its encoder.
        state: their name of a tensor -> the tensor.
        ignored: prefixes of tensor names outside the network: class weights, feature buffers.
        speakers: class index -> speaker, where the checkpoint lists them.
        facts: for the `[trained]` table.
        name: of the model; empty: the source's name.
        questions: open questions that only the user can answer.
        crop_s: length of the crops that the toolkit's evaluation averages, in seconds; `--crops N` takes it.
    """

    weights_file: Path
    features: FeatureConfig
    network: Network
    state: Mapping[str, Tensor]
    ignored: tuple[str, ...] = ()
    speakers: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    questions: tuple[Question, ...] = ()
    crop_s: float = 3.015  # 300 frames of 25 ms every 10 ms, as most toolkits evaluate


def fitted(foreign: Foreign) -> dict[str, Tensor]:
    """Return the state dict of the `SpeakerModel` that a foreign model describes.

    Raises:
        InputError: tensors that are missing, have no place here, another shape or non-finite values.
    """
    network = foreign.network
    with torch.device("meta"):  # names and shapes alone: no memory, no initial values
        encoder = encoders.build(network.encoder, foreign.features.num_mels)
    expected = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights: dict[str, Tensor] = {}
    met, wrong = set(), []
    for theirs, tensor in foreign.state.items():
        if theirs.startswith(foreign.ignored + network.ignored):
            continue
        module, _, leaf = theirs.rpartition(".")
        ours = network.modules.get(theirs) or f"{network.modules.get(module, '?')}.{leaf}"
        ours = f"encoder.{ours}"
        met.add(ours)
        if ours not in expected:
            wrong.append(f"{theirs} {tuple(tensor.shape)} has no place in this encoder")
        elif _without_ones(tensor.shape) != _without_ones(expected[ours].shape):
            wrong.append(f"{theirs} {tuple(tensor.shape)}: expected {tuple(expected[ours].shape)}, as {ours}")
        elif tensor.is_floating_point() and not tensor.isfinite().all():
            wrong.append(f"{theirs}: NaN or infinite values")
        else:
            weights[ours] = tensor.reshape(expected[ours].shape).to(expected[ours].dtype)
    names = {ours: theirs for theirs, ours in network.modules.items()}
    for ours, tensor in expected.items():
        if ours.endswith(".num_batches_tracked"):  # older checkpoints lack it, and nothing uses it
            weights.setdefault(ours, torch.zeros_like(tensor, device="cpu"))
        elif ours not in met:
            name = ours.removeprefix("encoder.")
            module, _, leaf = name.rpartition(".")
            theirs = names.get(name) or f"{names.get(module, module)}.{leaf}"
            wrong.append(f"{theirs} {tuple(tensor.shape)} is missing")
    if wrong:
        listed = "\n".join(f"  {text}" for text in wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(
            f"{foreign.weights_file}: {len(wrong)} tensors don't fit {network.encoder['name']} "
            f"as its other tensors describe it:\n{listed}{more}"
        )
    if network.passes_last:
        _move_last_part_first(weights, network.encoder["res2_scale"])
    return weights


def size(state: Mapping[str, Tensor], name: str, axis: int, where: Path) -> int:
    """Return the length of one axis of a tensor.

    Raises:
        InputError: no such tensor, or it has fewer axes.
    """
    if name not in state or state[name].ndim <= axis:
        first_names = ", ".join(list(state)[:5])
        raise InputError(
            f"{where}: no tensor {name} with {axis + 1} axes or more; it begins with {first_names}"
        )
    return state[name].shape[axis]


def count(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """Return the number of consecutive i from `first` on with a tensor named `pattern.format(i)`."""
    i = first
    while pattern.format(i) in state:
        i += 1
    return i - first


def within(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return names of modules within one module, theirs -> ours."""
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in names.items()}


def numbered(theirs: str, ours: str, count: int, first: int = 0) -> dict[str, str]:
    """Return numbered names of modules, theirs from `first` on, ours from 0 on; `{}` is the number."""
    return {theirs.format(first + i): ours.format(i) for i in range(count)}


def recognised(
    state: Mapping[str, Tensor],
    layouts: Mapping[str, Callable[[Mapping[str, Tensor], Path], Network]],
    where: Path,
    toolkit: str,
) -> Network:
    """Return the network of the first layout with a matching tensor.

    Args:
        state: their name of a tensor -> the tensor.
        layouts: name of a tensor that none of the layouts before it has -> the function that reads it.
        where: the file, for errors.
        toolkit: name of the toolkit, for errors.

    Raises:
        InputError: none fits.
    """
    read = next((read for name, read in layouts.items() if name in state), None)
    if read is None:
        layout_names = ", ".join(layout.__name__.replace("_", " ").strip() for layout in layouts.values())
        begins = ", ".join(list(state)[:3])
        raise InputError(
            f"{where}: none of the networks of {toolkit} that come in ({layout_names}); its tensors begin with {begins}"
        )
    return read(state, where)


def check_mel(state: Mapping[str, Tensor], name: str, ours: FeatureConfig, where: Path) -> None:
    """Compare a checkpoint's mel matrix with that of our features.

    Raises:
        InputError: they differ.
    """
    mel = features.build(ours).get_buffer("mel")
    if name in state and (state[name].shape != mel.shape or (state[name] - mel).abs().max() > 1e-5):
        high_hz = ours.high_hz or ours.sample_rate / 2
        raise InputError(
            f"{where}: {name}: other mel bands than {ours.num_mels} from {ours.low_hz:g} to {high_hz:g} Hz"
        )


def _without_ones(shape: Collection[int]) -> tuple[int, ...]:
    """Return a shape without axes of length 1, so that a kernel of width 1 equals a matrix."""
    return tuple(size for size in shape if size != 1)


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
