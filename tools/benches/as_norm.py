"""AS-norm of a list like VoxCeleb1-E against 5,994 speaker means; the limit is the matrix product of the embeddings."""

import numpy as np

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.trials import TrialList
from speakerverif.scoring.cosine import cosine
from speakerverif.scoring.normalization import as_norm
from tools.benches._case import Case, product

FILES, TRIALS, COHORT, DIM, TOP = 145_160, 581_480, 5_994, 192, 300


def _table(rng: np.random.Generator, count: int, prefix: str) -> EmbeddingTable:
    seconds = np.ones(count, np.float32)
    vectors = rng.standard_normal((count, DIM), np.float32)
    return EmbeddingTable(
        [f"{prefix}{i}" for i in range(count)], vectors, seconds, seconds, ["ok"] * count, "x"
    )


def _case(threads: int) -> Case:
    rng = np.random.default_rng(0)
    table, cohort = _table(rng, FILES, "u"), _table(rng, COHORT, "c")
    enroll, test = rng.integers(0, FILES, (2, TRIALS)).astype(np.int32)
    scores = cosine(TrialList(tuple(table.ids), enroll, test, None), table)
    gflop = 2 * FILES * COHORT * DIM / 1e9
    return Case(lambda: as_norm(scores, table, cohort, TOP), limits={"product": product(gflop)}, rounds=1)


CASES = {"581,480 trials, 145,160 files, cohort 5,994, top 300": _case}
