"""Exact error rates of score files of any size: matched in parts and sorted on disk, in bounded memory.

Trials and scores are dealt out to parts by a hash of their pair, so that a pair's rows, mirrored ones included,
meet in one part; each part is read, checked and matched as a small list is. What is left are two files of
numbers, which are sorted in pieces and walked through once, in order.
"""

import dataclasses
import hashlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from speakerverif.data._rows import WrongRows
from speakerverif.data._trial_files import read_labels, score_rows, trial_rows
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.trial_audit import KNOWN_FILES, audit
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.evaluate import figures_of
from speakerverif.evaluation.metrics import DetCurve, bayes_costs, with_equal_rates
from speakerverif.evaluation.records import ListFacts, ScoringRecord
from speakerverif.scoring.decision import bayes_threshold

LEAST_MB = 256  # most of it for a block of text and its parsed form
TEXT_FACTOR = 4  # bytes of memory that matching takes for each byte of a part's text, with a margin
PER_SCORE = 64  # bytes of memory for each score of a piece, sorted or walked through
MOST_PARTS = 400  # files open at once, twice
# What is sorted on disk are bare scores: their speakers, for every threshold, would take as much again.
NO_SPEAKERS = "a list matched on disk is read without its speakers; score it in memory for intervals"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: odd, its bits well mixed

Numbers = NDArray[np.float64]
Block = tuple[Numbers, NDArray[np.int64], NDArray[np.int64]]  # distinct values; targets and non-targets there


def evaluate_on_disk(
    trials: Path, scores: Path, kind: ScoreKind, p_targets: Sequence[float], memory_mb: int
) -> ScoringRecord:
    """Return the record of a scoring, as `evaluate` does without intervals.

    Meanwhile the system's temporary folder holds files as large as both inputs.

    Args:
        trials: a labelled list.
        scores: its scores, in any row order.
        kind: of the scores.
        p_targets: priors of a target trial for the detection costs.
        memory_mb: memory in addition to the interpreter's own, at least `LEAST_MB`.

    Raises:
        InputError: as reading the files does, for the first part where something is wrong; no labels; files too
            large for this little memory.
    """
    began, budget = time.perf_counter(), memory_mb << 20
    if memory_mb < LEAST_MB:
        raise InputError(f"{memory_mb} MB of memory: expected {LEAST_MB} or more")
    size = trials.stat().st_size + scores.stat().st_size
    parts = max(1, math.ceil(size * TEXT_FACTOR / budget))
    if parts > MOST_PARTS:
        raise InputError(
            f"{size >> 20:,} MB of text: expected {size * TEXT_FACTOR // MOST_PARTS >> 20:,} MB of memory or more"
        )
    with tempfile.TemporaryDirectory(prefix="speakerverif-") as name:
        folder = Path(name)
        facts, extra = _join(trials, scores, kind, parts, folder)
        piece = budget // PER_SCORE
        curve, bits, wrong = _walk(folder, piece, p_targets)
    targets, nontargets = int(curve.misses[-1]), int(curve.false_alarms[0])
    priors = {f"{p:g}": p for p in p_targets}
    figures = figures_of(curve, priors, kind)
    costs = tuple(dataclasses.replace(cost, no_interval=NO_SPEAKERS) for cost in figures.costs)
    figures = dataclasses.replace(figures, costs=costs, no_interval=NO_SPEAKERS)
    if kind == "llr":
        actual = [
            bayes_costs(p)[0] * wrong[p][0] / targets + bayes_costs(p)[1] * wrong[p][1] / nontargets
            for p in priors.values()
        ]
        figures = dataclasses.replace(
            figures,
            cllr=(bits[0] / targets + bits[1] / nontargets) / 2 / math.log(2),
            costs=tuple(
                dataclasses.replace(cost, actual=a) for cost, a in zip(figures.costs, actual, strict=True)
            ),
        )
    return ScoringRecord(
        targets=targets,
        nontargets=nontargets,
        figures=figures,
        trial_list=facts,
        extra_scores=extra,
        seconds=time.perf_counter() - began,
    )


def _join(trials: Path, scores: Path, kind: ScoreKind, parts: int, folder: Path) -> tuple[ListFacts, int]:
    """Write the scores of all targets and of all non-targets, in no order.

    Returns:
        Facts about the list, and the number of scores for pairs that are not in it.
    """
    with ExitStack() as stack:
        dealt = [[stack.enter_context(open(folder / f"{w}{i}", "wb")) for i in range(parts)] for w in "ts"]
        sha256, known = _deal_trials(trials, dealt[0])
        _deal_scores(scores, known, dealt[1])
    odd: Counter[str] = Counter(self_pairs=0, duplicates=0, mirrored=0, extra=0)
    with open(folder / "targets", "wb") as targets, open(folder / "nontargets", "wb") as nontargets:
        for i in range(parts):
            pair = folder / f"t{i}", folder / f"s{i}"
            try:
                odd += _join_part(*pair, kind, targets, nontargets)
            except InputError as error:
                text = str(error).replace(str(pair[0]), str(trials)).replace(str(pair[1]), str(scores))
                raise InputError(f"{text} (and maybe more: the list is matched in parts)") from None
            for path in pair:
                path.unlink()
    facts = ListFacts(
        name=str(trials),
        sha256=sha256,
        known_as=KNOWN_FILES.get(sha256),
        self_pairs=odd["self_pairs"],
        duplicates=odd["duplicates"],
        mirrored=odd["mirrored"],
    )
    return facts, odd["extra"]


def _join_part(
    listed: Path, scored: Path, kind: ScoreKind, targets: IO[bytes], nontargets: IO[bytes]
) -> Counter[str]:
    """Append one part's scores to the two files, and return the counts for its audit."""
    if not listed.stat().st_size:
        with open(scored, "rb") as file:
            return Counter(extra=sum(1 for _ in file))
    trials = TrialList.read(listed)
    if not scored.stat().st_size:
        raise InputError(f"{scored}: no score for {len(trials)} trials of {listed}")
    scores, found = ScoreList.read(scored, trials, kind), audit(trials)
    assert trials.labels is not None
    scores.scores[trials.labels].tofile(targets)
    scores.scores[~trials.labels].tofile(nontargets)
    return Counter(
        self_pairs=found.self_pairs,
        duplicates=found.duplicates,
        mirrored=found.mirrored,
        extra=scores.extra,
    )


def _deal_trials(path: Path, files: Sequence[IO[bytes]]) -> tuple[str, set[bytes]]:
    """Write each row as `label enroll test` to its pair's part; return the file's sha256 and some of its ids."""
    digest, wrong = hashlib.sha256(), WrongRows()
    known: set[bytes] = set()
    for rows, layout in trial_rows(path, wrong, digest):
        if layout.labels is None:
            raise InputError(f"{path}: no labels: error rates need to know the targets")
        target = read_labels(rows, layout.labels, wrong)
        pairs = layout.pairs(rows)
        known = known or set(pairs[:1000].ravel().tolist())
        _deal([np.where(target, b"1", b"0")], pairs, files)
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    return digest.hexdigest(), known


def _deal_scores(path: Path, known: set[bytes], files: Sequence[IO[bytes]]) -> None:
    """Write each row as `score enroll test`, after its label where it has one, to its pair's part."""
    wrong = WrongRows()
    for rows, layout in score_rows(path, wrong, known):
        before: list[NDArray[np.bytes_]] = []
        if layout.labels is not None:
            before = [np.where(read_labels(rows, layout.labels, wrong), b"1", b"0")]
        assert layout.score is not None
        _deal([*before, rows.column(layout.score)], layout.pairs(rows), files)
    if wrong.count:
        raise InputError(f"{path}: {wrong}")


def _deal(
    values: Sequence[NDArray[np.bytes_]], pairs: NDArray[np.bytes_], files: Sequence[IO[bytes]]
) -> None:
    """Append rows `values enroll test`, between tabs, to the parts of their pairs; swapped, a pair has the same."""
    part = (_hash(pairs[:, 0]) + _hash(pairs[:, 1])) % np.uint64(len(files))
    order = np.argsort(part, kind="stable")
    columns = [column[order].tolist() for column in (*values, pairs[:, 0], pairs[:, 1])]
    rows = [b"\t".join(row) + b"\n" for row in zip(*columns, strict=True)]
    bounds = np.searchsorted(part[order], np.arange(len(files) + 1, dtype=np.uint64)).tolist()
    for file, (start, stop) in zip(files, pairwise(bounds), strict=True):
        file.write(b"".join(rows[start:stop]))


def _hash(texts: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """Return a number for each text, dtype S of a multiple of 8 bytes, whatever that width is."""
    texts = np.ascontiguousarray(texts)
    words = texts.view("<u8").reshape(len(texts), -1)
    powers = np.multiply.accumulate(np.full(words.shape[1], _FACTOR))
    hashes: NDArray[np.uint64] = (words * powers).sum(
        1, dtype=np.uint64
    )  # the zeros that fill a wider column up add nothing
    hashes ^= hashes >> np.uint64(29)
    hashes *= _FACTOR
    return hashes


def _walk(
    folder: Path, piece: int, p_targets: Sequence[float]
) -> tuple[DetCurve, list[float], dict[float, list[int]]]:
    """Return the curve at the corners where a figure can have its optimum, and what likelihood ratios need.

    Those are the corners of its convex hull, where every detection cost is least, and the two next to the equal error
    rate.
    """
    runs = [_sort_pieces(folder / name, piece) for name in ("targets", "nontargets")]
    total = [sum(stop - start for start, stop, _ in of_class) for of_class in runs]
    if not all(total):
        raise InputError(f"{total[0]} target and {total[1]} non-target trials: error rates need both kinds")
    kept: list[Numbers] = []
    bits, wrong = [0.0, 0.0], {p: [0, 0] for p in p_targets}
    bayes = {p: bayes_threshold(p) for p in p_targets}

    def blocks() -> Iterator[Block]:
        for values, targets, nontargets in _blocks(folder, runs, piece):
            bits[0] += float(targets @ np.logaddexp(0, -values))
            bits[1] += float(nontargets @ np.logaddexp(0, values))
            for p, threshold in bayes.items():
                wrong[p][0] += int(targets[values < threshold].sum())
                wrong[p][1] += int(nontargets[values >= threshold].sum())
            yield values, targets, nontargets

    last, crossed = np.empty((0, 3)), False
    for corners in _corners(blocks(), total[1]):
        curve = DetCurve(corners[:, 0], corners[:, 1], corners[:, 2])
        kept.append(corners[curve.hull])
        joined = np.concatenate([last, corners])
        above = joined[:, 1] / total[0] >= joined[:, 2] / total[1]
        if above.any() and not crossed:
            crossed, after = True, int(np.argmax(above))
            kept.append(joined[max(0, after - 1) : after + 1])
        last = corners[-1:]
    corners = np.concatenate(kept)
    corners = corners[np.lexsort((-corners[:, 2], corners[:, 1]))]
    corners = corners[np.append(True, (np.diff(corners[:, 1:], axis=0) != 0).any(1))]
    curve = DetCurve(corners[:, 0], corners[:, 1].astype(np.int64), corners[:, 2].astype(np.int64))

    def around(target: bool, rank: int) -> list[tuple[int, float]]:
        """Return the score of a rank in one class and the next higher one, as `with_equal_rates` takes them."""
        below, neighbours = 0, list[tuple[int, float]]()
        for values, targets, nontargets in _blocks(folder, runs, piece):
            counts = targets if target else nontargets
            ends = below + np.cumsum(counts)
            for k in np.flatnonzero((counts > 0) & (ends > rank))[: 2 - len(neighbours)].tolist():
                neighbours.append((int(ends[k] - counts[k]), float(values[k])))
            if len(neighbours) == 2:
                break
            below = int(ends[-1])
        return neighbours

    return with_equal_rates(curve, around), bits, wrong


def _corners(blocks: Iterator[Block], nontargets: int) -> Iterator[Numbers]:
    """Yield (threshold, misses, false alarms) rows where the curve turns, as `metrics.det_curve` keeps them."""
    missed = rejected = before = 0
    for values, of_targets, of_nontargets in blocks:
        kind = (of_targets > 0) + 2 * (of_nontargets > 0)  # 3: equal scores of both, a turn on either side
        turns = (kind != np.append(before, kind[:-1])) | (kind == 3)
        misses = missed + np.cumsum(of_targets) - of_targets
        alarms = nontargets - (rejected + np.cumsum(of_nontargets) - of_nontargets)
        if turns.any():
            yield np.stack([values, misses, alarms], 1)[turns]
        missed, rejected = missed + int(of_targets.sum()), rejected + int(of_nontargets.sum())
        before = int(kind[-1])
    yield np.array([[np.inf, missed, 0.0]])


Run = tuple[int, int, Numbers]  # a sorted stretch of a file, from and to, and some of its values


def _sort_pieces(path: Path, piece: int) -> list[Run]:
    """Sort a file of numbers piece by piece, in place."""
    runs, count = [], path.stat().st_size // 8
    step = max(1, piece // (8 * max(1, math.ceil(count / piece))))
    with open(path, "r+b") as file:
        for start in range(0, count, piece):
            values = np.fromfile(path, np.float64, min(piece, count - start), offset=8 * start)
            values.sort()
            file.seek(8 * start)
            values.tofile(file)
            runs.append((start, start + len(values), values[step - 1 :: step].copy()))
    return runs


def _blocks(folder: Path, runs: list[list[Run]], piece: int) -> Iterator[Block]:
    """Yield distinct values, ascending, with their counts, about a quarter of a piece at a time."""
    samples = np.sort(np.concatenate([sample for of_class in runs for *_, sample in of_class]))
    total = sum(stop - start for of_class in runs for start, stop, _ in of_class)
    several = max(1, math.ceil(len(samples) * (piece / 4) / total))
    bounds = [-np.inf, *np.unique(samples[::several]).tolist(), np.inf]
    paths = [folder / name for name in ("targets", "nontargets")]
    mapped = [np.memmap(path, np.float64, "r") for path in paths]
    for low, high in pairwise(bounds):
        found = [
            _counted(path, numbers, of_class, low, high)
            for path, numbers, of_class in zip(paths, mapped, runs, strict=True)
        ]
        values = np.union1d(found[0][0], found[1][0])
        counts = np.zeros((2, len(values)), np.int64)
        for row, (distinct, count) in zip(counts, found, strict=True):
            row[np.searchsorted(values, distinct)] = count
        if len(values):
            yield values, counts[0], counts[1]


def _counted(
    path: Path, numbers: Numbers, runs: list[Run], low: float, high: float
) -> tuple[Numbers, NDArray[np.int64]]:
    """Return the distinct values from `low` to below `high`, and how often each occurs in the file."""
    values, counts = [np.empty(0)], [np.empty(0, np.int64)]
    for start, stop, _ in runs:
        first, end = start + np.searchsorted(numbers[start:stop], [low, high])
        some = np.fromfile(path, np.float64, int(end - first), offset=8 * int(first))
        # Counted run by run: however often a value occurs, it takes the memory of one.
        distinct, count = np.unique(some, return_counts=True)
        values.append(distinct)
        counts.append(count)
    distinct, which = np.unique(np.concatenate(values), return_inverse=True)
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, which, np.concatenate(counts))
    return distinct, total
