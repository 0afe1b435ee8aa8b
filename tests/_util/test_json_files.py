"""The package's own JSON records: an object of the declared types, or one line that says what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from speakerverif._util.files import lines_of, read_lines
from speakerverif._util.json_files import check_types, read_json
from speakerverif.errors import InputError

WRONG: Any = "x"


class Pair(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    name: str
    rate: float
    count: int
    kind: Literal["a", "b"]
    pair: Pair | None
    pairs: tuple[Pair, ...]
    options: Mapping[str, int]


GOOD: dict[str, Any] = {
    **{"name": "x", "rate": 1, "count": 2, "kind": "a", "pair": None},
    **{"pairs": (Pair(0.0, 1.0),), "options": {"k": 3}},
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"key": 1', "not JSON"),
        (b"[1]", "expected a JSON object, found '\\[1\\]'"),
        (b"null", "expected a JSON object, found 'None'"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b"\0" * 20, "not JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "score.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"score\.json: damaged \({reason}.*\); remove it$"):
        read_json(path, "remove it")


def test_a_record_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ä": [1, null]}', "utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    with pytest.raises(InputError, match="No such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": 1}, "name: expected str, found '1'"),
        ({"rate": "0.5"}, "rate: expected float, found '0.5'"),
        ({"rate": True}, "rate: expected float"),
        ({"count": 2.0}, "count: expected int"),
        ({"count": True}, "count: expected int"),
        ({"kind": "c"}, "kind: expected Literal"),
        ({"kind": ["a"]}, "kind: expected Literal"),
        ({"pair": Pair(0.0, WRONG)}, "high: expected float, found 'x'"),
        ({"pairs": (Pair(WRONG, 1.0),)}, "low: expected float"),
        ({"pairs": [Pair(0.0, 1.0)]}, "pairs: expected tuple"),
        ({"options": {"k": "v"}}, "options: expected int, found 'v'"),
    ],
)
def test_types_are_checked_all_the_way_down(change: dict[str, Any], wrong: str) -> None:
    check_types(Record(**GOOD))
    with pytest.raises(TypeError, match=wrong):
        check_types(Record(**GOOD | change))


def test_lines_end_in_line_feeds_only(tmp_path: Path) -> None:
    assert lines_of("") == []
    assert lines_of("a\u2028b\x85c\n\nd\r\n") == ["a\u2028b\x85c", "", "d"]
    (tmp_path / "speakers.txt").write_bytes("Ren\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"speakers\.txt: not UTF-8 text \(byte 3\)"):
        read_lines(tmp_path / "speakers.txt")
