"""`score --identify`: a list in a store and a trial list of all pairs give the same figures."""

import json
from pathlib import Path

import pytest

from speakerverif.cli.entry import main


@pytest.fixture
def searched(tiny_corpus: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    """Options of a store of four people, and beside it `probes.tsv` and `pairs.txt` of six."""
    options = ["--model", str(tiny_model)]
    for speaker in range(4):
        file = str(tiny_corpus / f"spk{speaker}" / "0.wav")
        assert main(["enroll", f"spk{speaker}", file, "--store", str(tmp_path / "store"), *options]) == 0
    probes = [f"spk{speaker}/{n}.wav" for speaker in range(6) for n in (1, 2)]
    rows = [f"{probe}\t{tiny_corpus / probe}\t{probe[:4]}" for probe in probes]
    (tmp_path / "probes.tsv").write_text("\n".join(["id\tpath\tspeaker", *rows]) + "\n")
    pairs = [
        f"{int(probe[:4] == f'spk{speaker}')} spk{speaker}/0.wav {probe}"
        for speaker in range(4)
        for probe in probes
    ]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs) + "\n")
    return [*options, "--galleries", "2", "4"]


def test_a_store_and_a_list_give_the_same_figures(
    searched: list[str], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_store, by_list = tmp_path / "a.json", tmp_path / "b.json"
    probes, store = str(tmp_path / "probes.tsv"), ["--store", str(tmp_path / "store")]
    assert main(["score", probes, "--identify", *store, *searched, "--json", str(by_store)]) == 0
    out = capsys.readouterr().out
    assert "12 recordings of 6 speakers searched" in out and "thresholds: cosine similarity" in out
    pairs = ["score", str(tmp_path / "pairs.txt"), "--identify", "--audio-root", str(tiny_corpus)]
    assert main([*pairs, *searched, "--json", str(by_list)]) == 0
    records = [json.loads(path.read_text()) for path in (by_store, by_list)]
    for one, other in zip(*(record["points"] for record in records), strict=True):
        assert one["threshold"] == pytest.approx(other["threshold"], abs=1e-5)
        assert {**one, "threshold": 0} == {**other, "threshold": 0}
    assert records[0]["mean_margin"] == pytest.approx(records[1]["mean_margin"], abs=1e-5)


def test_what_cannot_be_measured_is_refused(
    searched: list[str], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes, store = tmp_path / "probes.tsv", ["--store", str(tmp_path / "store")]
    text = probes.read_text()
    probes.write_text(text + f"again\t{tiny_corpus / 'spk0' / '0.wav'}\tspk0\n")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[1:]))
    root = ["--audio-root", str(tiny_corpus)]
    for command, expected in (
        ([str(probes), "--identify", *store, *searched], "'again' is enrolled itself"),
        ([str(pairs), "--identify", *root, *searched], "needs all 48 pairs, each once"),
        ([str(pairs), *store], "--store does nothing without --identify"),
        (
            [str(pairs), "--identify", "--report", str(tmp_path / "r")],
            "--report does nothing with --identify",
        ),
    ):
        assert main(["score", *command]) == 2
        assert expected in capsys.readouterr().err
