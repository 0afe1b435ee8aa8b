"""PyTorch files read as data: tensors and plain values come out, whatever else is pickled stays inert."""

import pickle
import tarfile
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from speakerverif._util.messages import one_line
from speakerverif.errors import InputError

# Functions that a file of tensors calls. torch looks up the names of storages itself, before this list.
CALLED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("_codecs", "encode"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
}


class Inert:
    """Object of a class that is not looked up: it takes whatever a pickle gives it and does nothing with it."""

    name = "object"

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        """Return an object without arguments: nothing of the class that the pickle names is called."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take and forget the arguments."""

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        """Return the object itself: a pickle may call what it has built."""
        return self

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget an item."""

    def append(self, item: Any) -> None:
        """Forget an item."""

    def extend(self, items: Any) -> None:
        """Forget the items."""

    add = append


class _Unpickler(pickle.Unpickler):
    """Unpickler that builds tensors and plain values, and an `Inert` in place of anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CALLED:
            return super().find_class(module, name)
        return type("Inert", (Inert,), {"name": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_AS_DATA = types.SimpleNamespace(__name__="speakerverif", Unpickler=_Unpickler, load=_load)


def read_pickle(path: Path, content: BinaryIO | None = None) -> Any:
    """Return the content of a PyTorch file, on the CPU, with `Inert` in place of objects of classes.

    Args:
        path: the file.
        content: where given, what is read; the file is then the archive that it comes from.

    Raises:
        InputError: damaged, or another kind of file; the message says which.
    """
    if content is None:
        _refuse_other_archives(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(content or path, map_location="cpu", weights_only=False, pickle_module=_AS_DATA)
    except Exception as error:  # a forged pickle can raise anything; nothing of it has been executed
        reason = str(error).split("\n")[0].split(". ")[0][:120] or type(error).__name__
        raise InputError(f"{path}: damaged or not a PyTorch file: {reason}") from error


def _refuse_other_archives(path: Path) -> None:
    """Raise `InputError` for a TorchScript program, a NeMo archive or another archive that is not PyTorch's."""
    if path.suffix == ".nemo" or tarfile.is_tarfile(path):
        raise InputError(f"{path}: is a tar archive; if it is NeMo's: import nemo {path}")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name.partition("/")[2] for name in archive.namelist()]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path}: a damaged zip archive: {one_line(error)}") from error
        if "constants.pkl" in members:
            raise InputError(
                f"{path}: is a TorchScript program; save its state_dict() with torch.save instead"
            )
        if "data.pkl" not in members:
            raise InputError(f"{path}: is a zip archive without PyTorch's data.pkl")
