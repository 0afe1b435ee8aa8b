"""Other toolkits' files read as data: nothing in them is executed."""

from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speakerverif._util.messages import one_line
from speakerverif.errors import InputError
from speakerverif.exchange.importers._pickles import Inert, read_pickle

WRAPPERS = ("state_dict", "model", "model_state_dict", "embedding_model")


def find(source: Path, *patterns: str) -> Path:
    """Return `source` if it is a file, else the only file in it that matches the first pattern with a match.

    Raises:
        InputError: none, or several of one pattern.
    """
    if source.is_file():
        return source
    for pattern in patterns:
        paths = sorted(source.glob(pattern))
        if len(paths) > 1:
            raise InputError(f"{source}: {', '.join(p.name for p in paths)}: name the one to import")
        if paths:
            return paths[0]
    raise InputError(f"{source}: expected {' or '.join(patterns)} in it")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a PyTorch or safetensors file, out of the usual wrappings.

    Raises:
        InputError: no such file, damaged, or values other than tensors among them.
    """
    return tensors_of(read_file(path), path)


def read_file(path: Path) -> Any:
    """Return the content of a PyTorch or safetensors file as data.

    Raises:
        InputError: no such file, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        return read_pickle(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file: {error}") from error


def tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors within what `read_file` gave; `module.`, which DataParallel adds, is left out.

    Raises:
        InputError: no named tensors, or other values among them.
    """
    while isinstance(loaded, dict) and not _holds_tensors(loaded):
        if "teacher" in loaded and "student" in loaded:
            raise InputError(
                f"{path}: holds a teacher and a student (DINO), whose features and layers their tensors don't tell"
            )
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not _holds_tensors(loaded):
        keys = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, dict) else ""
        kind = loaded.name if isinstance(loaded, Inert) else type(loaded).__name__
        raise InputError(f"{path}: expected named tensors, found {f'keys {keys}' if keys else kind}")
    others = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        value = loaded[others[0]]
        kind = value.name if isinstance(value, Inert) else type(value).__name__
        raise InputError(f"{path}: not a file of tensors alone: {others[0]!r} is a {kind}")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _holds_tensors(loaded: dict[Any, Any]) -> bool:
    """Return whether most values are tensors: then these are weights, and the rest is an error to name."""
    tensors = sum(isinstance(value, Tensor) for value in loaded.values())
    return all(isinstance(key, str) for key in loaded) and 2 * tensors > len(loaded)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping as plain data; tags are data too.

    `!ref <x>` becomes the string `<x>`; any other unknown tag, `!new:a.B`, becomes `{"!": "new:a.B", ...}` with
    the keys of its mapping, or with `value` where the tagged node is no mapping.

    Raises:
        InputError: no such file, not YAML, no mapping.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return parse_yaml(content, path)


def parse_yaml(content: bytes, path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file's content as `read_yaml` does; the path is for errors."""
    try:
        loaded = yaml.load(content.decode("utf-8"), Loader=_AsData)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file: {one_line(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a YAML mapping, found {type(loaded).__name__}")
    return loaded


class _AsData(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """A loader that never constructs an object."""


def _tagged(loader: _AsData, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {"!": tag.lstrip("!"), **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return {"!": tag.lstrip("!"), "value": loader.construct_sequence(node, deep=True)}
    value = loader.construct_scalar(node)
    return value if tag == "!ref" else {"!": tag.lstrip("!"), "value": value}


_AsData.add_multi_constructor("", _tagged)
