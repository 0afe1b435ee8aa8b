"""The search index of an enrolment store, a file next to its database, for hundreds of thousands of speakers."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError
from speakerverif.inference._store_seal import Plain, Sealed

COARSE_FROM = 10_000  # speakers; below, the index is exact
_TRAINED_ON = 100_000  # models that the coarse index is trained on
_EXACT_PER_RESULT = 100  # models compared exactly per result, after the coarse search


class StoreIndex:
    """A faiss index of speakers' models.

    Every four dimensions of a model are kept as one of sixteen prototypes; a search compares the query with all of
    these codes, then exactly with the hundred times `top` models that come out best. An inverted file was tried: it
    compares with fewer, but missed speakers in groups it did not look into.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "index.faiss"
        self._loading = threading.Lock()
        self._loaded: tuple[tuple[int, int], Any] | None = None

    @property
    def exists(self) -> bool:
        """Whether an index was built and not deleted."""
        return self._path.is_file()

    def close(self) -> None:
        """Free the memory that the index takes."""
        self._loaded = None

    def delete(self) -> None:
        """Delete the index."""
        self._path.unlink(missing_ok=True)

    @contextmanager
    def built(
        self, speakers: NDArray[np.int64], models: NDArray[np.float32], seal: Plain
    ) -> Iterator[Callable[[], None]]:
        """Build an index in a temporary file, and yield a function that moves it into place.

        Args:
            speakers: (N,), what a search returns.
            models: (N, D), of length 1.
            seal: the form of the store's personal values, and of the index.
        """
        faiss = _faiss()
        dim = models.shape[1]
        coarse = len(models) >= COARSE_FROM and dim % 4 == 0
        kind = f"IDMap,PQ{dim // 4}x4fs,RFlat" if coarse else "IDMap,Flat"
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(models[:: max(1, len(models) // _TRAINED_ON)])
        index.add_with_ids(models, speakers)
        if coarse:
            faiss.downcast_index(index.index).k_factor = _EXACT_PER_RESULT
        aside = self._path.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}.part")
        try:
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL, 0o600))
            if isinstance(seal, Sealed):
                aside.write_bytes(seal.seal(faiss.serialize_index(index).tobytes(), "index", 0, 0))
            else:
                faiss.write_index(index, str(aside))

            def put_in_place() -> None:
                aside.replace(self._path)

            yield put_in_place
        except OSError as error:
            raise InputError(f"{self._path}: can't write: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)

    def search(self, query: NDArray[np.float32], top: int, seal: Plain) -> dict[int, float]:
        """Return speaker -> similarity of the `top` most similar to a query (1, D).

        Raises:
            InputError: no index was built; faiss not installed.
        """
        faiss = _faiss()
        with self._loading:
            try:
                stat = self._path.stat()
            except FileNotFoundError as error:
                raise InputError(
                    f"{self._path.parent}: no search index; build it first (build_index)"
                ) from error
            stamp = (stat.st_ino, stat.st_mtime_ns)
            if self._loaded is None or self._loaded[0] != stamp:
                if isinstance(seal, Sealed):
                    content = seal.open(self._path.read_bytes(), "index", 0, 0)
                    self._loaded = (stamp, faiss.deserialize_index(np.frombuffer(content, np.uint8)))
                else:
                    self._loaded = (stamp, faiss.read_index(str(self._path)))
            index = self._loaded[1]
        similarities, speakers = index.search(query, top)
        return {int(s): float(v) for s, v in zip(speakers[0], similarities[0], strict=True) if s >= 0}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("the search index needs faiss: pip install faiss-cpu") from error
    return faiss
