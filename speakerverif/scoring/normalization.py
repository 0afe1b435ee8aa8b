"""Score normalisation against a cohort of other speakers: z-, t-, s- and adaptive s-norm.

A raw cosine means different things for different recordings: some are close to everybody. Each side's score
is therefore expressed in standard deviations from how that side scores against a cohort of speakers that have
nothing to do with the trials.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.messages import named
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreList
from speakerverif.errors import InputError

Float = TypeVar("Float", bound=np.floating)
_BLOCK_SCORES = 4_000_000  # cohort scores in memory at a time: 16 MB
_MIN_STD = 1e-6  # below this, float32 rounding is all that a standard deviation can hold


def unit(embeddings: NDArray[Float], ids: Sequence[str] | None = None) -> NDArray[Float]:
    """Return the rows (N, D) scaled to Euclidean length 1, in the same floating type.

    Args:
        embeddings: (N, D).
        ids: the rows' names, for the error; None: it gives their numbers.

    Raises:
        InputError: a row is zero or not finite.
    """
    lengths = lengths_of(embeddings)
    check_lengths(lengths, ids)
    units: NDArray[Float] = embeddings / lengths[:, None]
    return units


def lengths_of(embeddings: NDArray[Float]) -> NDArray[Float]:
    """Return the Euclidean lengths (N,) of rows (N, D)."""
    lengths: NDArray[Float] = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    return lengths


def check_lengths(lengths: NDArray[np.floating], ids: Sequence[str] | None = None) -> None:
    """Raise `InputError` unless all lengths (N,) are finite and above 0; `ids` as for `unit`."""
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths))).tolist()
    if bad and ids is None:
        raise InputError(
            f"rows {bad[:10]}: expected embeddings that are finite and not zero; {len(bad)} are not"
        )
    if bad and ids is not None:
        names = list(dict.fromkeys(ids[i] for i in bad))
        raise InputError(f"{len(names)} embeddings are zero or not finite numbers: {named(names)}")


def unit_means(embeddings: NDArray[Float], owner: NDArray[np.integer], owners: int) -> NDArray[Float]:
    """Return one unit vector per owner: the mean of its unit vectors, scaled to length 1.

    Args:
        embeddings: (N, D).
        owner: int (N,), which owner (a speaker, an enrolled model) each row belongs to.
        owners: how many there are; each has at least one row.
    """
    return unit(owner_sums(unit(embeddings), owner, owners))


def owner_sums(values: NDArray[Float], owner: NDArray[np.integer], owners: int) -> NDArray[Float]:
    """Return the sum of each owner's rows, (owners, ...), of values (N, ...): row i is `owner[i]`'s."""
    if owners == 1:
        total: NDArray[Float] = values.sum(axis=0, keepdims=True)
        return total
    from scipy import sparse  # imported here: it is slow to import, and `verify` and plain cosines need none

    member = sparse.csr_array(
        (np.ones(len(owner), values.dtype), (owner, np.arange(len(owner)))), (owners, len(owner))
    )
    sums: NDArray[Float] = member @ values
    return sums


def speaker_means(table: EmbeddingTable, speakers: Mapping[str, str]) -> EmbeddingTable:
    """Return a cohort of one unit embedding per speaker; its ids are the speakers' names, sorted.

    Args:
        table: embeddings of the cohort's utterances.
        speakers: utterance id -> speaker, for every id of the table.

    Source: WeSpeaker's cohort of 5,994 speaker means. Departure: the utterances' *unit* vectors are averaged,
        as everywhere in this package, so that a loud or long recording does not outweigh the others.

    Raises:
        InputError: an utterance whose speaker is unknown.
    """
    unknown = [i for i in table.ids if i not in speakers]
    if unknown:
        raise InputError(f"cohort: no speaker is known for {named(unknown)}")
    names, owner = np.unique([speakers[i] for i in table.ids], return_inverse=True)
    return EmbeddingTable(
        ids=[str(name) for name in names],
        embeddings=unit_means(table.embeddings, owner, len(names)),
        durations=owner_sums(table.durations, owner, len(names)),
        speech=owner_sums(table.speech, owner, len(names)),
        status=["ok"] * len(names),
        fingerprint=table.fingerprint,
    )


def cohort_statistics(
    embeddings: NDArray[np.floating], cohort: NDArray[np.floating], top_n: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation, float64 (N,), of each embedding's highest cosines with a cohort.

    The standard deviation divides by the number of scores (`ddof=0`), as WeSpeaker's does. Rows are taken in
    blocks, and partitioned instead of sorted: memory does not grow with N.

    Args:
        embeddings: (N, D).
        cohort: (C, D).
        top_n: how many of the highest cosines count; None: all of them.

    Raises:
        InputError: `top_n` below 2 or above C; a zero or non-finite embedding; a spread of zero.
    """
    size = len(cohort)
    top = size if top_n is None else top_n
    if not 2 <= top <= size:
        raise InputError(f"top_n {top}: expected 2 to {size}, the size of the cohort")
    others = np.ascontiguousarray(unit(cohort.astype(np.float32)).T)
    units = unit(embeddings.astype(np.float32))
    mean, std = np.empty(len(units)), np.empty(len(units))
    step = max(1, _BLOCK_SCORES // size)
    buffer = np.empty((min(step, len(units)), size), np.float32)
    for start in range(0, len(units), step):
        block = units[start : start + step]
        scores = np.matmul(block, others, out=buffer[: len(block)])
        if top < size:
            scores.partition(size - top, axis=1)
        highest = scores[:, size - top :]
        mean[start : start + step] = highest.mean(axis=1, dtype=np.float64)
        std[start : start + step] = highest.std(axis=1, dtype=np.float64)
    flat = np.flatnonzero(std < _MIN_STD)
    if flat.size:
        raise InputError(f"rows {flat[:10].tolist()}: score the same against all {top} of the cohort")
    return mean, std


def as_norm(
    scores: ScoreList,
    table: EmbeddingTable,
    cohort: EmbeddingTable,
    top_n: int = 300,
    enroll_map: Mapping[str, Sequence[str]] | None = None,
    speakers: Mapping[str, str] | None = None,
) -> ScoreList:
    """Return adaptive s-normalised scores: mean of z- and t-norm, each on its `top_n` nearest of the cohort.

    Args:
        scores: cosines of the table's embeddings, for trials between ids of the table.
        table: the embeddings that were scored: transformed (centred, projected) as they were when scored.
        cohort: utterances or speaker means of other speakers, transformed alike.
        top_n: size of the adaptive part of the cohort.
        enroll_map: enrolled model -> its utterances' ids; None: each enroll id is an utterance.
        speakers: id -> speaker, of trials and cohort alike, where known.

    Source: Matějka et al. 2017, "Analysis of Score Normalization in Multilingual Speaker Recognition", eq. 6;
        values as WeSpeaker's (top 300, `ddof=0`).

    Raises:
        InputError: the cohort shares ids or speakers with the trials, or is smaller than `top_n`; another
            model's embeddings; missing ids; scores that are not finite or not these embeddings' cosines.
    """
    return _normalized(scores, table, cohort, ("enroll", "test"), top_n, enroll_map, speakers)


def normalize(
    scores: ScoreList,
    table: EmbeddingTable,
    cohort: EmbeddingTable,
    kind: Literal["z", "t", "s"],
    enroll_map: Mapping[str, Sequence[str]] | None = None,
    speakers: Mapping[str, str] | None = None,
) -> ScoreList:
    """Return scores normalised on the whole cohort: z by the enroll side, t by the test side, s by both.

    Arguments and errors are those of `as_norm`.

    Source: Auckenthaler, Carey and Lloyd-Thomas 2000 (z, t); Kenny 2010 (s).
    """
    sides = {"z": ("enroll",), "t": ("test",), "s": ("enroll", "test")}[kind]
    return _normalized(scores, table, cohort, sides, None, enroll_map, speakers)


def _normalized(
    scores: ScoreList,
    table: EmbeddingTable,
    cohort: EmbeddingTable,
    sides: tuple[str, ...],
    top_n: int | None,
    enroll_map: Mapping[str, Sequence[str]] | None,
    speakers: Mapping[str, str] | None,
) -> ScoreList:
    if scores.kind != "cosine":
        raise InputError(
            f"{scores.trials.name}: expected cosine scores to normalise, found kind {scores.kind!r}"
        )
    if table.fingerprint != cohort.fingerprint:
        raise InputError(
            f"the cohort was embedded by model {cohort.fingerprint}, the trials by {table.fingerprint}; "
            "embed the cohort with the same model"
        )
    _refuse_overlap(scores, cohort, enroll_map, speakers)

    trials = scores.trials
    tested, test_row = np.unique(trials.test, return_inverse=True)
    if enroll_map is None:
        used, both = np.unique(np.concatenate([trials.enroll, trials.test]), return_inverse=True)
        own = unit(table.embeddings[table.rows_of([trials.ids[i] for i in used])])
        enroll_row, test_row = np.split(both, 2)
    else:
        models, enroll_row = np.unique(trials.enroll, return_inverse=True)
        missing = [trials.ids[i] for i in models if not enroll_map.get(trials.ids[i])]
        if missing:
            raise InputError(f"enroll map: no utterances for {named(missing)}")
        members = [enroll_map[trials.ids[i]] for i in models]
        rows = table.rows_of([name for group in members for name in group])
        owner = np.repeat(np.arange(len(models)), [len(group) for group in members])
        tests = unit(table.embeddings[table.rows_of([trials.ids[i] for i in tested])])
        own = np.concatenate([tests, unit_means(table.embeddings[rows], owner, len(models))])
        enroll_row = enroll_row + len(tested)
    _refuse_other_scores(scores, own, enroll_row, test_row)

    mean, std = cohort_statistics(own, cohort.embeddings, top_n)
    row_of = {"enroll": enroll_row, "test": test_row}
    normalized = [(scores.scores - mean[row_of[side]]) / std[row_of[side]] for side in sides]
    return ScoreList(trials=trials, scores=sum(normalized) / len(sides), kind="normalized")


def _refuse_overlap(
    scores: ScoreList,
    cohort: EmbeddingTable,
    enroll_map: Mapping[str, Sequence[str]] | None,
    speakers: Mapping[str, str] | None,
) -> None:
    """Raise `InputError` for a cohort with the trials' own speakers, which would lower exactly the target scores."""
    used = set(scores.trials.ids)
    used.update(name for group in (enroll_map or {}).values() for name in group)
    others = {str(name) for name in cohort.ids}
    if speakers:
        used.update([speakers[name] for name in used if name in speakers])
        others.update([speakers[name] for name in others if name in speakers])
    shared = sorted(used & others)
    if shared:
        raise InputError(
            f"the cohort shares {len(shared)} speakers or ids with the trials of {scores.trials.name}: "
            f"{named(shared)}; take a cohort of other speakers"
        )


def _refuse_other_scores(
    scores: ScoreList,
    own: NDArray[np.floating],
    enroll_row: NDArray[np.integer],
    test_row: NDArray[np.integer],
) -> None:
    """Raise `InputError` for scores that aren't these embeddings' cosines; up to 1,000 trials are scored again."""
    some = np.unique(np.linspace(0, len(scores.scores) - 1, min(1000, len(scores.scores))).astype(int))
    cosines = np.einsum("ij,ij->i", own[enroll_row[some]], own[test_row[some]])
    off = some[np.abs(cosines - scores.scores[some]) > 1e-3]
    if off.size:
        raise InputError(
            f"{scores.trials.name}: {off.size} of {some.size} scores are not these embeddings' cosines, "
            f"the first of {scores.trials.pair(off[0])}; "
            "give the table and the cohort as they were scored (same centring and projection)"
        )
