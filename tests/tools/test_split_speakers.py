"""The three-way split of a list's speakers: the same for every list, alike in what is told of them."""

import sys
from itertools import combinations
from pathlib import Path

import pytest

from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from tools import split_speakers


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    """Twelve speakers of two recordings, half of them f; all pairs in one list, every third one in another."""
    speakers = [f"s{i:02}" for i in range(12)]
    files = [f"wav/{speaker}/{n}.wav" for speaker in speakers for n in (0, 1)]
    rows = [f"{int(a.split('/')[1] == b.split('/')[1])} {a} {b}" for a, b in combinations(files, 2)]
    (tmp_path / "all.txt").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "some.txt").write_text("".join(f"{row}\n" for row in rows[::3]))
    (tmp_path / "spk2gender").write_text("".join(f"{s} {'fm'[i % 2]}\n" for i, s in enumerate(speakers)))
    (tmp_path / "spk2age").write_text("".join(f"{s} {i + 5}\n" for i, s in enumerate(speakers)))
    return tmp_path


def alike(corpus: Path) -> list[str]:
    return [str(corpus / "spk2gender"), str(corpus / "spk2age")]


def test_a_trial_is_kept_where_both_its_speakers_are(corpus: Path) -> None:
    parts = ("select", "calibrate", "report")
    part_of = split_speakers.split(
        [corpus / "all.txt", corpus / "some.txt"], alike(corpus), parts, 0, corpus / "out"
    )
    for name in ("all.txt", "some.txt"):
        rows = (corpus / name).read_text().splitlines()
        for part in parts:
            expected = [row for row in rows if {part_of[f.split("/")[1]] for f in row.split()[1:]} == {part}]
            assert (corpus / "out" / part / name).read_text().splitlines() == expected
    assert len(TrialList.read(corpus / "out" / "report" / "all.txt")) == 28  # 8 recordings, all pairs


def test_parts_are_alike_in_gender_then_age(corpus: Path) -> None:
    part_of = split_speakers.split([corpus / "all.txt"], alike(corpus), ("a", "b"), 3, corpus / "out")
    for gender in (0, 1):  # sorted by age within a gender, each successive pair is one of each part
        ordered = [part_of[f"s{i:02}"] for i in range(gender, 12, 2)]
        assert all({*ordered[i : i + 2]} == {"a", "b"} for i in range(0, 6, 2))


def test_ages_are_sorted_as_numbers() -> None:
    assert split_speakers.numbers({"a": "9", "b": "10"}) == {"a": 9, "b": 10}
    assert split_speakers.numbers({"a": "9", "b": "ten"}) == {"a": "9", "b": "ten"}


def test_the_seed_alone_says_who_is_where() -> None:
    values: dict[str, tuple[str | float, ...]] = {f"s{i}": ("f",) for i in range(9)}
    backwards = dict(reversed(values.items()))
    assert split_speakers.deal(values, "xyz", 1) == split_speakers.deal(backwards, "xyz", 1)
    assert split_speakers.deal(values, "xyz", 1) != split_speakers.deal(values, "xyz", 2)
    assert sorted(split_speakers.deal(values, "xyz", 1).values()) == list("xxxyyyzzz")


def test_a_speaker_of_whom_nothing_is_told_is_an_error(corpus: Path) -> None:
    lines = (corpus / "spk2gender").read_text().splitlines()
    (corpus / "spk2gender").write_text("".join(f"{line}\n" for line in lines[1:]))
    with pytest.raises(InputError, match=r"gender: expected one value a speaker.*s00"):
        split_speakers.split([corpus / "all.txt"], alike(corpus), ("a", "b"), 0, corpus / "out")


@pytest.mark.parametrize(("parts", "paths"), [(("a", "a"), 1), (("a",), 1), (("a", "b"), 2)])
def test_names_that_would_write_over_each_other(corpus: Path, parts: tuple[str, ...], paths: int) -> None:
    with pytest.raises(InputError, match="different"):
        split_speakers.split([corpus / "all.txt"] * paths, [], parts, 0, corpus / "out")


def test_wrong_input_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["split_speakers.py", str(tmp_path / "no.txt"), "--out", str(tmp_path)])
    assert split_speakers.main() == 2
    assert "no.txt" in capsys.readouterr().err
