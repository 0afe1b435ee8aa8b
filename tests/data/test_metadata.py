"""Columns of metadata: their files, and how their keys are led to recordings."""

from pathlib import Path

import numpy as np
import pytest

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.metadata import Column, durations_of, read_columns
from speakerverif.errors import InputError

FILES = ["wav/ann/1.wav", "wav/ann/2.wav", "wav/bob/1.wav"]


def test_a_table_with_a_header_has_a_column_for_every_title(tmp_path: Path) -> None:
    text = "\ufeffid\tgender\tcity\r\nwav/ann/1.wav\tf\tNew York\r\nwav/bob/1.wav\tm\t\r\n"
    (tmp_path / "about.tsv").write_text(text, "utf-8")
    assert read_columns([str(tmp_path / "about.tsv")], FILES) == [
        Column("gender", {"wav/ann/1.wav": "f", "wav/bob/1.wav": "m"}),
        Column("city", {"wav/ann/1.wav": "New York"}),
    ]


def test_speakers_lead_to_their_recordings_by_map_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "spk2gender").write_text("ann f\nbob m\n")
    expected = [Column("gender", dict(zip(FILES, "ffm", strict=True)))]
    assert read_columns([str(tmp_path / "spk2gender")], FILES) == expected
    (tmp_path / "spk2gender").write_text("A f\nB m\n")
    speakers = dict(zip(FILES, "AAB", strict=True))
    assert read_columns([str(tmp_path / "spk2gender")], FILES, speakers) == expected


def test_kaldis_tables_beside_the_file_join_it_to_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("".join(f"utt{k} {name}\n" for k, name in enumerate(FILES)))
    (tmp_path / "utt2spk").write_text("utt0 A\nutt1 A\nutt2 B\n")
    (tmp_path / "spk2age").write_text("A 30\nB 8\n")
    (tmp_path / "utt2dur").write_text("utt0 1.5\nutt2 2.5\n")
    age, seconds = read_columns([str(tmp_path / "spk2age"), f"seconds={tmp_path / 'utt2dur'}"], FILES)
    assert age == Column("age", dict(zip(FILES, ("30", "30", "8"), strict=True)))
    assert seconds == Column("seconds", {FILES[0]: "1.5", FILES[2]: "2.5"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann f\n", "none of its keys"),
        ("id\tgender\nwav/ann/1.wav\tf\tx\n", "line 2: 3 columns, expected 2"),
        ("id\tgender\nwav/ann/1.wav\tf\nwav/ann/1.wav\tm\n", "line 3: an id that is repeated, as in line 2"),
        ("id\tgender\tgender\n", "distinct columns after id"),
        ("utt\tgender\tage\n", "begins with id"),
    ],
)
def test_wrong_files_are_named_with_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "about").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_columns([str(tmp_path / "about")], ["x/1.wav", *FILES[:1]], {})
    assert str(tmp_path / "about") in str(caught.value)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "utt2x").write_text("".join(f"{name} 1\n" for name in FILES))
    with pytest.raises(InputError, match="columns given twice: x; name one"):
        read_columns([str(tmp_path / "utt2x")] * 2, FILES)


def test_durations_of_a_table_leave_out_what_is_not_known() -> None:
    seconds = np.array([1.25, np.nan, 3.0], np.float32)
    table = EmbeddingTable(FILES, np.ones((3, 2), np.float32), seconds, seconds, ["ok"] * 3, "")
    assert durations_of(table) == [Column("duration (s)", {FILES[0]: "1.250", FILES[2]: "3.000"})]
    unknown = np.full(3, np.nan, np.float32)
    assert not durations_of(EmbeddingTable(FILES, np.ones((3, 2)), unknown, unknown, ["ok"] * 3, ""))
