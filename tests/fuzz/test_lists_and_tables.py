"""Damaged lists, tables and archives are read or refused in one line: never a traceback, a hang or much memory.

`FUZZ_EXAMPLES` says how many inputs are tried per format (default: 200).
"""

import functools
import gzip
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakerverif._util.tar import members
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.formats.tables import read_table
from speakerverif.data.metadata import read_columns
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import read_enroll_map, read_speakers
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from tests.data.test_formats_document import CASES, beside, parquet, shard, sound, write

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
MEMORY, SECONDS = 1 << 30, 10.0
# Pieces of text and bytes that parsers stumble over.
TOKENS = [
    *(b"", b" ", b"\t", b"\n", b"\r", b"\r\n", b",", b'"', b"'", b"|", b":", b"/", b"\\", b"..", b"%00"),
    *(b"\0", b"\x1b", b"\x85", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xff\xfe", "é\u2028\u3000".encode()),
    *(b"nan", b"-inf", b"1e999", b"-1", b"0", b"1_0", b"9" * 400, b"0x10", "１".encode(), b"true"),
    *(b"{", b"}", b"[", b"]", b"null", b"NaN", b"1" + b"0" * 30, b"[" * 3000, b'{"a":' * 500),
    *(b"w.ark:2", b"w.ark:99999999999999999999", b"w.ark:0[0:99999999999]", b"0.tar:0:99999999999"),
    *(b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0BFV \4", b"PK\x03\x04", b"a" * 5000),
]


def both(path: Path) -> Any:
    trials = TrialList.read(path)
    return ScoreList.read(path, trials)


def scores(path: Path) -> Any:
    (path.parent / "trials").write_text("1 a b\n0 a c\n")
    return ScoreList.read(path, TrialList.read(path.parent / "trials"))


READERS: dict[str, tuple[Callable[[Path], Any], list[tuple[str, Any]]]] = {
    "lists": (
        lambda path: [u.path for u in read_manifest(path)],
        [
            (name, content)
            for row in CASES.values()
            for name, content, _ in row[1]
            if row[0].__name__ == "listed"
        ]
        + [good[:2] for good in CASES["`.rttm`"][1] + CASES["Kaldi `wav.ark:N`"][1]]
        + [("m.jsonl.gz", gzip.compress(b'{"key": "a", "wav": "a"}\n'))],
    ),
    "trials": (
        TrialList.read,
        [good[:2] for row in CASES.values() for good in row[1] if row[0].__name__ == "trials"],
    ),
    "scores": (
        scores,
        [good[:2] for row in CASES.values() for good in row[1] if row[0].__name__ == "scores"],
    ),
    "trials as scores": (both, [("t", "1 a b\n0 a c\n"), ("t", "a b 0.5 1\na c 0.1 0\n")]),
    "tables": (
        lambda path: read_table(path).embeddings.sum(),
        [good[:2] for row in CASES.values() for good in row[1] if row[0].__name__ == "table"]
        + [("e.parquet", parquet(id=["a"], embedding=[[1.0]], status=["ok"], duration_s=[1.0]))],
    ),
    "archives": (
        lambda path: [part.open() for _, part in members(path)],
        [("a.tar", shard(a_spk=b"s", a_wav=sound()))],
    ),
    "utt2spk": (
        lambda path: read_speakers(path, ["a"]),
        [("utt2spk", "a s\nb t\n"), ("m.tsv", "id\tpath\tspeaker\na\tx\ts\n")],
    ),
    "models": (read_enroll_map, [("map", "m a b\nn\tc d\n")]),
    "columns": (
        lambda path: read_columns([str(path)], ["a", "b"], {}),
        [("c.tsv", "id\tgender\na\tf\nb\tm\n"), ("spk2gender", "a f\nb m\n")],
    ),
}


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes with a few changes: cut, doubled, flipped, or something put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40))
        change = draw(st.sampled_from(["cut", "drop", "double", "flip", "put", "noise"]))
        if change == "cut":
            content = content[:at]
        elif change == "drop":
            content = content[:at] + content[at + length :]
        elif change == "double":
            content = content[:at] + content[at : at + length] * draw(st.integers(2, 50)) + content[at:]
        elif change == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
        elif change == "put":
            content = content[:at] + draw(st.sampled_from(TOKENS)) + content[at + draw(st.integers(0, 8)) :]
        else:
            content = content[:at] + draw(st.binary(max_size=30)) + content[at:]
    return content


@contextmanager
def bounded() -> Iterator[None]:
    """Allow a reader `MEMORY` bytes beyond what the process has, and `SECONDS`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - began < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("group", READERS)
def test_damaged_inputs_are_read_or_refused(group: str) -> None:
    read, seeds = READERS[group]
    files = [
        (
            name,
            part,
            {n: c for n, c in content.items() if n != part} if isinstance(content, dict) else {},
            whole,
        )
        for name, content in seeds
        for part, whole in (content.items() if isinstance(content, dict) else [("", content)])
    ]

    @functools.partial(
        settings, max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
    )()
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name, part, others, whole = data.draw(st.sampled_from(files))
        content = data.draw(damaged(whole if isinstance(whole, bytes) else whole.encode()))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, {part: content, **others} if part else content)
            beside(path)
            try:
                with bounded():
                    read(path)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 5000, str(error)

    check()
