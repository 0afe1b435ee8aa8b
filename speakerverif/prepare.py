"""A corpus's name and folder to its lists: the one way to the files of `corpora/`."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from speakerverif import build
from speakerverif.config import nearest
from speakerverif.corpora._prepared import Prepared, PreparedRecordings
from speakerverif.errors import InputError

PREPARED = "prepared.json"


def prepare(corpus: str, root: Path | None, out: Path, **options: Any) -> Prepared | PreparedRecordings:
    """Check a corpus tree and write its lists under `out`: manifests and trials, or those of noises and rooms.

    Args:
        corpus: a file in `corpora/`.
        root: the corpus's folder.
        out: where the lists go.
        options: what the corpus's `prepare` takes besides.

    Raises:
        InputError: unknown corpus or option, or a tree that is not what it should be.
    """
    known = build.names("corpora")
    if corpus not in known:
        raise InputError(f"unknown corpus {corpus!r}; {nearest(corpus, known)}")
    module = importlib.import_module(f"speakerverif.corpora.{corpus}")
    strange = [name for name in options if name not in inspect.signature(module.prepare).parameters]
    if strange:
        raise InputError(f"--{strange[0]}: the corpus {corpus} takes no such option")
    if root is None and not options:
        raise InputError(f"where is {corpus}? name its folder with --data DIR or --root DIR")
    prepared: Prepared | PreparedRecordings = module.prepare(
        root and root.absolute(), out.absolute(), **options
    )
    if isinstance(prepared, Prepared):
        prepared.save(out / PREPARED)
    return prepared


def lists_folder(corpus: str, data_dir: Path | None, own: Path) -> Path:
    """Return `data_dir`/`corpus` where `prepare` has written its lists there, else `own`, where they shall go."""
    if data_dir is not None and (data_dir / corpus / PREPARED).is_file():
        return data_dir / corpus
    return own
