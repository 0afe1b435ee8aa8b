"""The text formats of trial lists and score files, parsed to NumPy columns."""

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerverif.data import _text
from speakerverif.data._rows import Mask, Places, Rows, Separator, Texts, WrongRows, distinct, floats, merge
from speakerverif.data._text import Block
from speakerverif.errors import InputError

FORMATS = (
    "'label enroll test' or 'enroll test label' with labels 1 and 0, target and nontarget, or tgt and imp; or "
    "'enroll test'; separated by blanks, or by tabs where ids hold spaces"
)
SCORE_FORMATS = "'enroll test score' or 'score enroll test', and maybe a label before or after them"
# Labels of target and non-target trials: VoxCeleb and CN-Celeb, Kaldi and NIST, VOiCES.
LABELS = ((b"1", b"0"), (b"target", b"nontarget"), (b"tgt", b"imp"))
# Column names in headers, such as those of NIST's keys and score files.
ENROLL = {"enroll", "enroll_id", "enrollment", "model", "modelid", "model_id"}
TEST = {"test", "test_id", "segment", "segmentid", "segment_id"}
LABEL = {"label", "target", "targettype", "target_type"}
SCORE = {"score", "llr"}
SIDE = {"side", "channel"}
# Number of rows from which the format is recognised.
EXAMINED = 1000


class Labels(NamedTuple):
    """The column of labels, and the labels of target and non-target trials."""

    column: int
    target: bytes
    nontarget: bytes


@dataclass(frozen=True)
class Layout:
    """The columns of a file.

    Attributes:
        separator: of columns.
        width: number of columns.
        enroll: column of the enroll ids.
        test: column of the test ids.
        labels: column of the labels, None where there is none.
        score: column of the scores, None where there is none.
        side: column of the test segment's channel, None where there is none.
    """

    separator: Separator
    width: int
    enroll: int
    test: int
    labels: Labels | None = None
    score: int | None = None
    side: int | None = None

    def pairs(self, rows: Rows) -> Texts:
        """Return the enroll and test ids of rows of this width, dtype S (len(rows), 2).

        Raises:
            InputError: rows with different sides, since ids don't include the side.
        """
        if self.side is not None and len(rows):
            sides = rows.column(self.side)
            others = np.flatnonzero(sides != sides[0])
            if len(others):
                raise InputError(
                    f"{rows.where}:{rows.text_of(int(others[0]))}: another side than {sides[0].decode()!r}; "
                    "expected segments of one channel, each with its own id"
                )
        return rows.columns([self.enroll, self.test])


class ScoreRows(NamedTuple):
    """The rows of a score file.

    Attributes:
        keys: int64 (M,), pairs numbered as by `TrialList.pair_keys`; -1 where an id is not in the list.
        scores: float64 (M,), finite.
        labels: bool (M,), True for targets; None where the file has none.
    """

    keys: Places
    scores: NDArray[np.float64]
    labels: Mask | None


def parse_trials(
    path: str | Path, wrong: WrongRows
) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int32], Mask | None, str]:
    """Return distinct ids, enroll and test int32 (N,), labels bool (N,) or None, and the file's sha256.

    Most of the first rows determine columns and format; rows that differ go to `wrong`.
    """
    digest = hashlib.sha256()
    ids: list[tuple[Texts, Places]] = []
    labels = [np.empty(0, np.bool_)]
    labelled = False
    for rows, layout in trial_rows(path, wrong, digest):
        if layout.labels is not None:
            labelled = True
            labels.append(read_labels(rows, layout.labels, wrong))
        ids.append(distinct(_pairs(rows, layout, wrong).ravel()))
    if not any(len(texts) for texts, _ in ids) and not wrong.count:
        raise InputError(f"{path}: no trials in it")
    names, codes = merge(ids)
    enroll, test = np.concatenate(codes).astype(np.int32).reshape(-1, 2).T.copy()
    answers = np.concatenate(labels) if labelled else None
    return tuple(_decoded(names)), enroll, test, answers, digest.hexdigest()


def trial_rows(path: str | Path, wrong: WrongRows, digest: Any = None) -> Iterator[tuple[Rows, Layout]]:
    """Yield the rows of a trial list in blocks, and their layout; rows of another width go to `wrong`.

    Raises:
        InputError: unreadable or empty file, unrecognised format.
    """
    yield from _laid_out(path, wrong, digest, _trial_layouts(), FORMATS, needs_score=False)


def score_rows(path: str | Path, wrong: WrongRows, ids: Set[bytes]) -> Iterator[tuple[Rows, Layout]]:
    """Yield the rows of a score file in blocks, and their layout; rows of another width go to `wrong`.

    Args:
        path: the file.
        wrong: collects the rows that can't be read.
        ids: some ids of the trial list, to distinguish columns of numbers from ids.

    Raises:
        InputError: unreadable or empty file, unrecognised format.
    """
    yield from _laid_out(path, wrong, None, _score_layouts(), SCORE_FORMATS, needs_score=True, ids=ids)


def parse_scores(path: str | Path, ids: Sequence[str]) -> ScoreRows:
    """Return the scores in a file, with keys as in a trial list with these ids.

    Raises:
        InputError: unreadable or empty file, wrong rows (reported together), unclear which column is the score.
    """
    id_bytes = np.array([text.encode() for text in ids], np.bytes_)
    id_bytes = id_bytes.astype(f"S{-(-id_bytes.itemsize // 8) * 8}")
    wrong = WrongRows()
    parts: list[tuple[Texts, Places]] = [(id_bytes, np.arange(len(id_bytes)))]
    values, labels, labelled = [np.empty(0)], [np.empty(0, np.bool_)], False
    for rows, layout in score_rows(path, wrong, set(id_bytes.tolist())):
        if layout.labels is not None:
            labelled = True
            labels.append(read_labels(rows, layout.labels, wrong))
        assert layout.score is not None
        scores = floats(rows.column(layout.score))
        bad = ~np.isfinite(scores)
        rows.drop(bad, "the score is not a finite number", wrong)
        parts.append(distinct(_pairs(rows, layout, wrong).ravel()))
        values.append(scores[~bad])
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    # The list's ids come first, so any greater number is an id that is not in the list.
    pairs = np.concatenate(merge(parts)[1][1:]).reshape(-1, 2)
    keys = np.where((pairs < len(ids)).all(1), pairs[:, 0] * len(ids) + pairs[:, 1], -1)
    return ScoreRows(keys, np.concatenate(values), np.concatenate(labels) if labelled else None)


def read_labels(rows: Rows, labels: Labels, wrong: WrongRows) -> Mask:
    """Return the labels, bool (len(rows),), after dropping rows without a valid one, which go to `wrong`."""
    words = rows.column(labels.column)
    target: Mask = words == labels.target
    labelled = target | (words == labels.nontarget)
    expected = " or ".join(sorted((labels.target.decode(), labels.nontarget.decode())))
    where = ", then enroll and test" if labels.column == 0 else f" in column {labels.column + 1}"
    rows.drop(~labelled, f"expected {expected}{where}", wrong)
    answers: Mask = target[labelled]
    return answers


def _pairs(rows: Rows, layout: Layout, wrong: WrongRows) -> Texts:
    pairs = layout.pairs(rows)
    if layout.separator == "tab":
        rows.refuse((pairs == b"").any(1), "an empty id", wrong)
    return pairs


def _decoded(ids: Texts) -> list[str]:
    names = ids.tolist()
    return b"\n".join(names).decode().split("\n") if names else []


def _trial_layouts() -> list[Layout]:
    layouts = [
        Layout("blanks", 3, *pair, Labels(column, *words))
        for words, (column, pair) in product(LABELS, ((0, (1, 2)), (2, (0, 1))))
    ]
    return [*layouts, Layout("blanks", 2, 0, 1)]


def _score_layouts() -> list[Layout]:
    three = [Layout("blanks", 3, 0, 1, None, 2), Layout("blanks", 3, 1, 2, None, 0)]
    four = [
        Layout("blanks", 4, *pair, Labels(column, *words), score)
        for words, (column, pair, score) in product(
            LABELS, ((3, (0, 1), 2), (3, (1, 2), 0), (0, (1, 2), 3), (0, (2, 3), 1))
        )
    ]
    return three + four


def _laid_out(
    path: str | Path,
    wrong: WrongRows,
    digest: Any,
    layouts: list[Layout],
    expected: str,
    needs_score: bool,
    ids: Set[bytes] = frozenset(),
) -> Iterator[tuple[Rows, Layout]]:
    layout = None
    for block in _blocks(path, digest):
        if layout is None:
            if not block.text.strip():
                continue
            layout, block = _layout_by_header(block, path, needs_score) or (None, block)
            if layout is None:
                layout = _layout_by_content(block, layouts, expected, path, ids)
        rows = Rows(block.text, block.first_line, layout.separator, path)
        rows.keep_width(layout.width, wrong)
        yield rows, layout
    if layout is None:
        raise InputError(f"{path}: the file is empty")


def _blocks(path: str | Path, digest: Any) -> Iterator[Block]:
    """Yield a file's blocks; comma-separated rows are converted to tab-separated ones."""
    if Path(path).suffix != ".csv":
        yield from _text.blocks(path, digest)
        return
    if digest is not None:
        for block in _text.blocks(path, digest):
            del block
    rows = iter(_text.csv_rows(path))
    text, first, line = bytearray(), 1, 1
    for number, fields in chain(rows, [(0, [])]):
        if not fields or len(text) >= _text.BLOCK_BYTES:
            if text:
                yield Block(first, bytes(text), True)
            text, first = bytearray(), number
            line = number
        if fields:
            if any("\t" in field or "\n" in field for field in fields):
                raise InputError(f"{path}:{number}: a tab or a line break within a field")
            # Blank lines keep the line numbers right.
            text += b"\n" * (number - line) + "\t".join(fields).encode() + b"\n"
            line = number + 1


def _layout_by_header(block: Block, path: str | Path, needs_score: bool) -> tuple[Layout, Block] | None:
    """Return the layout in the header line, and the block without that line; None where there is no header."""
    start = len(block.text) - len(block.text.lstrip())
    start = block.text.rfind(b"\n", 0, start) + 1
    end = block.text.index(b"\n", start)
    line = block.text[start:end].decode().strip(_text.BLANKS)
    separator: Separator = "tab" if "\t" in line else "blanks"
    names = [name.strip().casefold() for name in (line.split("\t") if "\t" in line else line.split())]
    places = {name: i for i, name in enumerate(names)}
    enroll, test, label, score, side = (
        [places[name] for name in names if name in meant] for meant in (ENROLL, TEST, LABEL, SCORE, SIDE)
    )
    if not (enroll and test):
        return None
    if max(map(len, (enroll, test, label, score, side))) > 1 or (needs_score and not score):
        needed = "enroll, test and score" if needs_score else "enroll and test"
        raise InputError(
            f"{path}:{block.first_line}: expected one column each for {needed}, found {line[:80]!r}"
        )
    rest = Block(block.first_line, block.text[:start] + block.text[end:], True)
    labels = None
    if label:
        rows = Rows(rest.text, rest.first_line, separator, path)
        rows.keep_width(len(names), WrongRows())
        words = rows.column(label[0])[:EXAMINED] if len(rows) else np.empty(0, "S8")
        matches = [int(((words == pair[0]) | (words == pair[1])).sum()) for pair in LABELS]
        labels = Labels(label[0], *LABELS[int(np.argmax(matches))])
    column = score[0] if needs_score else None
    layout = Layout(separator, len(names), enroll[0], test[0], labels, column, side[0] if side else None)
    return layout, rest


def _layout_by_content(
    block: Block, layouts: list[Layout], expected: str, path: str | Path, ids: Set[bytes]
) -> Layout:
    """Return the layout that fits most of the first rows.

    Raises:
        InputError: no layout fits, or several fit equally well.
    """
    end = -1
    for _ in range(EXAMINED):
        end = block.text.find(b"\n", end + 1)
        if end < 0:
            break
    text = block.text if end < 0 else block.text[: end + 1]
    separators: list[Separator] = ["tab"] if Path(path).suffix == ".csv" else ["blanks", "tab"]
    counts: list[tuple[int, Layout]] = []
    for separator in separators:
        for width in sorted({layout.width for layout in layouts}):
            rows = Rows(text, block.first_line, separator, path)
            rows.keep_width(width, WrongRows())
            for layout in layouts:
                if layout.width == width:
                    fits = _fitting(rows, layout)
                    counts.append((fits, replace(layout, separator=separator)))
    best = max(count for count, _ in counts)
    chosen = [layout for count, layout in counts if count == best]
    # Tabs and blanks may both fit as separators; if the results differ, blanks are preferred.
    by_blanks = [layout for layout in chosen if layout.separator == "blanks"]
    by_tabs = [layout for layout in chosen if layout.separator == "tab"]
    both = [replace(layout, separator="tab") for layout in by_blanks]
    chosen = by_tabs if by_tabs and all(layout in by_tabs for layout in both) else by_blanks
    chosen = [layout for layout in chosen if layout in both] or chosen
    if best and len(chosen) > 1 and all(layout.labels is None for layout in chosen):
        chosen = _by_ids(text, block.first_line, chosen, ids)
    if best and len(chosen) == 1:
        return chosen[0]
    rows = Rows(text, block.first_line, where=path)
    width = rows.most_common_width()
    if width not in {layout.width for layout in layouts}:
        raise InputError(f"{path}: most rows have {width} columns; expected {expected}")
    rows.keep_width(width, WrongRows())
    what = "could be either of two formats" if best else "is neither"
    raise InputError(f"{path}:{rows.text_of(0)} {what}; expected {expected}")


def _fitting(rows: Rows, layout: Layout) -> int:
    """Return the number of rows that fit a layout."""
    fits = np.ones(len(rows), np.bool_)
    if layout.labels is not None:
        words = rows.column(layout.labels.column)
        fits &= (words == layout.labels.target) | (words == layout.labels.nontarget)
    if layout.score is not None:
        fits &= np.isfinite(floats(rows.column(layout.score)))
    return int(fits.sum())


def _by_ids(text: bytes, first_line: int, layouts: list[Layout], ids: Set[bytes]) -> list[Layout]:
    """Return the layouts whose id columns contain most ids of the list; needed where ids are numbers."""
    counts = []
    for layout in layouts:
        rows = Rows(text, first_line, layout.separator)
        rows.keep_width(layout.width, WrongRows())
        counts.append(
            sum(name in ids for name in rows.columns([layout.enroll, layout.test]).ravel().tolist())
        )
    return [layout for layout, count in zip(layouts, counts, strict=True) if count == max(counts)]
