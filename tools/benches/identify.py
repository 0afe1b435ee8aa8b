"""Identification among 1,000,000 enrolled speakers, exact and by the index; the limit is one matrix product."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from speakerverif.inference.enrollment import Store
from speakerverif.scoring.normalization import unit
from tools.benches._case import Case, Limit, Work, left_out

SPEAKERS, DIM, QUERIES = 1_000_000, 192, 200
GROUPS, WITHIN, OWN = (
    1000,
    0.5,
    0.7,
)  # speakers come in groups of similar voices; a recording is near its speaker


def _voices() -> tuple[np.ndarray, np.ndarray]:
    """Return models (SPEAKERS, DIM) and queries of the first QUERIES speakers.

    Speakers of a group have a cosine of WITHIN squared on average, a recording and its speaker one of OWN.
    """
    rng = np.random.default_rng(0)

    def near(centres: np.ndarray, cosine: float) -> np.ndarray:
        noise = unit(rng.standard_normal(centres.shape, np.float32))
        return unit(np.float32(cosine) * centres + np.float32(np.sqrt(1 - cosine**2)) * noise)

    groups = unit(rng.standard_normal((GROUPS, DIM), np.float32))
    models = near(groups[rng.integers(0, GROUPS, SPEAKERS)], WITHIN)
    return models, near(models[:QUERIES], OWN)


def _case(threads: int, indexed: bool) -> Case:
    models, queries = _voices()
    folder = tempfile.TemporaryDirectory()
    store = Store(Path(folder.name), "x", create=True)
    store.enroll_all((f"s{i}", model) for i, model in enumerate(models))
    peers: dict[str, Work] = {}
    facts: dict[str, float | str] = {}
    query = queries[0]
    try:
        import faiss
    except ImportError:
        left_out("faiss-cpu")
        if indexed:
            raise SystemExit("the index needs faiss-cpu") from None
    else:
        faiss.omp_set_num_threads(threads)
        if indexed:
            store.build_index()
            found = [store.search(q, use_index=True)[0][0] for q in queries]
            exact = np.argmax(models @ queries.T, axis=0)
            facts["recall@1"] = float(
                np.mean([name == f"s{i}" for name, i in zip(found, exact, strict=True)])
            )
        else:
            flat = faiss.IndexFlatIP(DIM)
            flat.add(models)
            peers["faiss, flat"] = lambda: flat.search(query[None], 5)

    def ours(kept: tempfile.TemporaryDirectory[str] = folder) -> None:
        store.search(query, use_index=indexed)

    return Case(ours, peers, {"product": Limit(lambda: models @ query)}, facts=facts)


CASES = {
    f"1,000,000 enrolled, {name}": functools.partial(_case, indexed=indexed)
    for name, indexed in (("exact", False), ("index", True))
}
