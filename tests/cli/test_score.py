"""Cosine scores, the audit of lists, the record, the report, and the scoring command from outside."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.cli import _outputs, main, score
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import read_enroll_map, read_speakers, speakers_by_path, units_of
from speakerverif.data.trial_audit import audit
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.describe import format_record
from speakerverif.evaluation.evaluate import Provenance, Settings, evaluate
from speakerverif.evaluation.records import ModelFacts, ScoringRecord
from speakerverif.scoring.cosine import cosine
from speakerverif.scoring.normalization import as_norm

ROOT = Path(__file__).resolve().parents[2]


def trials_of(*rows: str, labels: list[int] | None = None) -> TrialList:
    """Return a list of `enroll test` rows."""
    pairs = [row.split() for row in rows]
    ids = sorted({name for pair in pairs for name in pair})
    columns = np.array([[ids.index(name) for name in pair] for pair in pairs], np.int32).T
    return TrialList(
        tuple(ids), columns[0], columns[1], None if labels is None else np.array(labels, bool), "list"
    )


def table_of(vectors: dict[str, Any]) -> EmbeddingTable:
    """Return embeddings by id."""
    ids, n = list(vectors), len(vectors)
    embeddings = np.array(list(vectors.values()), np.float32)
    return EmbeddingTable(ids, embeddings, np.ones(n, np.float32), np.ones(n, np.float32), ["ok"] * n, "f00d")


def random_task(
    speakers: int = 12, files: int = 4, trials: int = 600, seed: int = 0
) -> tuple[str, EmbeddingTable]:
    """Return the text of a trial list over `speaker/file` ids and embeddings for it."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(speakers, 8))
    ids = [f"id{s:02}/{f}.wav" for s in range(speakers) for f in range(files)]
    vectors = {name: centres[i // files] + 0.8 * rng.normal(size=8) for i, name in enumerate(ids)}
    rows: list[str] = []
    while len(rows) < trials:
        a, b = rng.integers(len(ids), size=2)
        same = a // files == b // files
        if a != b and (same or rng.random() < 0.4):
            rows.append(f"{int(same)} {ids[a]} {ids[b]}\n")
    return "".join(rows), table_of(vectors)


# --- scores


def test_cosine_against_float64() -> None:
    text, table = random_task()
    rows = [line.split()[1:] for line in text.splitlines()]
    trials = trials_of(*(" ".join(row) for row in rows))
    vectors = dict(zip(table.ids, table.embeddings.astype(np.float64), strict=True))
    oracle = [
        vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]) for a, b in rows
    ]
    assert cosine(trials, table).scores == pytest.approx(oracle, abs=1e-6)


def test_a_score_depends_on_its_pair_alone() -> None:
    text, table = random_task(trials=1000)
    rows = [" ".join(line.split()[1:]) for line in text.splitlines()]
    whole = dict(zip(rows, cosine(trials_of(*rows), table).scores.tolist(), strict=True))
    for row in rows[::97]:
        assert cosine(trials_of(row), table).scores[0] == pytest.approx(whole[row], abs=1e-6)
    order = np.random.default_rng(1).permutation(len(rows))
    moved = trials_of(*(rows[i] for i in order))
    assert cosine(moved, table).scores.tolist() == [whole[rows[i]] for i in order]


def test_models_are_the_mean_direction_of_their_files() -> None:
    # Unit vectors (1, 0) and (0, 1), whatever their lengths: the mean points along (1, 1).
    table = table_of({"a": [5, 0], "b": [0, 0.1], "x": [2, 2], "y": [-1, 1]})
    scores = cosine(trials_of("m x", "m y", "n x"), table, {"m": ["a", "b"], "n": ["a"]})
    assert scores.scores == pytest.approx([1, 0, np.sqrt(0.5)], abs=1e-6)


def test_scoring_names_everything_that_is_missing() -> None:
    table = table_of({"a": [1, 0], "zero": [0, 0], "bad": [np.nan, 1]})
    with pytest.raises(InputError, match="no embedding for 2 files: b, c"):
        cosine(trials_of("b a", "a c", "a b"), table)
    with pytest.raises(InputError, match=r"2 embeddings are zero or not finite numbers: bad, zero"):
        cosine(trials_of("a zero", "bad a"), table)
    with pytest.raises(InputError, match="2 models are not in the enroll map: n, o"):
        cosine(trials_of("m a", "n a", "o a"), table, {"m": ["a"]})
    with pytest.raises(InputError, match="no embedding for 1 files: q"):
        cosine(trials_of("m a"), table, {"m": ["a", "q"]})


# --- what a list is


def test_audit_counts_what_is_odd() -> None:
    found = audit(trials_of("a b", "a b", "b a", "b a", "c c", "a c", "a b", labels=[0, 0, 0, 0, 1, 0, 0]))
    # a b stands three times (two repeat it), b a mirrors it once and is itself repeated once
    assert (found.self_pairs, found.duplicates, found.mirrored) == (1, 3, 1)
    assert "self-pair: c c" in str(found)


def test_audit_finds_a_model_tested_with_its_own_file() -> None:
    assert audit(trials_of("m a", "m b", labels=[1, 1]), {"m": ["a", "c"]}).self_pairs == 1


@pytest.mark.parametrize("second", ["a b", "b a"])
def test_a_pair_with_both_labels_is_an_error(second: str) -> None:
    with pytest.raises(InputError, match="1 pairs are both target and non-target"):
        audit(trials_of("a b", "c d", second, labels=[1, 0, 0]))


@pytest.mark.corpus
def test_known_lists(shared: Path, tmp_path: Path) -> None:
    lists = {"veri_test.txt": "VoxCeleb1-O (original)", "voxsrc2021_val_trials.txt": "VoxSRC-2021 validation"}
    for name, known in lists.items():
        path = shared / "voxceleb" / name
        assert audit(TrialList.read(path)).known_as == known
        (tmp_path / name).write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
        assert audit(TrialList.read(tmp_path / name)).known_as == f"{known}, by its counts"
    assert audit(trials_of("a b", labels=[1])).known_as is None


@pytest.mark.corpus
def test_pairs_twice_or_mirrored_in_the_shared_lists(shared: Path) -> None:
    for name, count in (("trials", 33), ("trials_hard", 156)):
        found = audit(TrialList.read(shared / "corpora" / "speechocean762" / "dev" / f"{name}.txt"))
        assert found.duplicates + found.mirrored == count


def test_speakers_are_the_first_component_that_differs() -> None:
    assert speakers_by_path(["W/s1/a/1.wav", "W/s1/b/1.wav", "W/s2/a/1.wav"]) == ["s1", "s1", "s2"]
    assert speakers_by_path(["s1/1", "s10/1", "s1/2"]) == ["s1", "s10", "s1"]


def test_speakers_are_the_files_that_target_trials_link() -> None:
    rows = ("spk0_a spk0_b", "spk0_b spk0_c", "spk1_a spk1_b", "spk0_a spk1_b", "spk2_a spk0_c")
    units = units_of(trials_of(*rows, labels=[1, 1, 1, 0, 0]))
    assert (units.kind, units.source, units.names) == (
        "speaker",
        "target trials",
        ("spk0_a", "spk1_a", "spk2_a"),
    )
    assert units.enroll.tolist() == [0, 0, 1, 0, 2] and units.test.tolist() == [0, 0, 1, 1, 0]
    # A model is linked with its files, and through a target trial with the file that it is tested with.
    models = {"m": ["u1", "u2"], "n": ["u3"]}
    units = units_of(trials_of("m u4", "n u4", "n u5", labels=[1, 0, 1]), None, models)
    assert units.names == ("u4", "u5")
    assert units.enroll.tolist() == [units.test[0], units.test[2], units.test[2]]
    assert units.enroll[0] != units.enroll[1] and units.test[1] == units.test[0]


@pytest.mark.parametrize("labels", [None, [1, 1, 0], [1, 1, 1], [0, 0, 0]])
def test_speakers_are_unknown_without_labels_or_where_they_contradict(labels: list[int] | None) -> None:
    units = units_of(trials_of("x y", "y z", "x z", labels=labels))
    assert (units.kind, units.source, len(units.names)) == ("file", None, 3)


def test_no_interval_is_printed_where_speakers_are_unknown_or_few() -> None:
    rng = np.random.default_rng(0)
    flat = [f"x{i} y{i}" for i in range(40)]
    trials = trials_of(*flat, "x0 y1", "y0 x1", labels=[1] * 20 + [0] * 20 + [1, 0])  # one person, and not
    record = evaluate(ScoreList(trials, rng.normal(size=42)), Settings())
    assert record.figures.eer_ci95 is None and "the speakers are unknown" in format_record(record)
    pairs = [f"s{i}/1 s{j}/{2}" for i in range(9) for j in range(9)]
    trials = trials_of(*pairs, labels=[int(i == j) for i in range(9) for j in range(9)])
    record = evaluate(ScoreList(trials, rng.normal(size=81)), Settings())
    assert record.figures.eer_ci95 is None and "no intervals: 9 speakers are too few" in format_record(record)


def test_units_fall_back_to_files() -> None:
    for rows in (("a/1 a/2", "a/1 a/3"), ("x y", "x z")):  # one speaker, one speaker a file
        units = units_of(trials_of(*rows))
        assert (units.kind, len(units.names)) == ("file", 3)
        assert units.enroll.tolist() == [0, 0]
        assert units.test.tolist() == [1, 2]
    units = units_of(trials_of("a/1 a/2", "a/1 b/1"))
    assert (units.kind, units.names) == ("speaker", ("a", "b"))
    assert (units.enroll.tolist(), units.test.tolist()) == ([0, 0], [0, 1])


def test_units_of_models() -> None:
    trials = trials_of("m b/1", "n b/1")
    units = units_of(trials, None, {"m": ["a/1", "a/2"], "n": ["b/2"]})
    assert [units.names[i] for i in units.enroll] == ["a", "b"]
    with pytest.raises(InputError, match="1 models are of several speakers: m"):
        units_of(trials, None, {"m": ["a/1", "b/3"], "n": ["b/2"]})


def test_speakers_from_kaldi_tables(tmp_path: Path) -> None:
    (tmp_path / "utt2spk").write_text("u1 anne\nu2 bob\n")
    assert read_speakers(tmp_path / "utt2spk", ["u1", "u2"]) == {"u1": "anne", "u2": "bob"}
    (tmp_path / "wav.scp").write_text("u1 W/1.wav\nu2 W/2.wav\n")
    speakers = read_speakers(tmp_path / "utt2spk", ["W/1.wav"])
    assert speakers["W/2.wav"] == "bob"
    with pytest.raises(InputError, match=r"no speaker is known for 1 files: W/3\.wav"):
        units_of(trials_of("W/1.wav W/3.wav"), speakers)


@pytest.mark.corpus
def test_speakers_of_the_shared_list_by_path_and_by_table(shared: Path) -> None:
    dev = shared / "corpora" / "speechocean762" / "dev"
    trials = TrialList.read(dev / "trials.txt")
    by_path, by_table = units_of(trials), units_of(trials, read_speakers(dev / "utt2spk", trials.ids))
    assert len(by_path.names) == len(by_table.names) == 63
    assert by_path.enroll.tolist() == by_table.enroll.tolist()
    assert ((by_path.enroll == by_path.test) == trials.labels).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("m a\nn\n", ":2: 'n' has no files"), ("m a\nm b\n", ":2: model 'm' is repeated"), ("\n", "empty")],
)
def test_enroll_maps_that_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "map").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_enroll_map(tmp_path / "map")


# --- the record


def test_record_is_json_and_says_how_it_came_about() -> None:
    text, table = random_task()
    trials = trials_of(
        *(" ".join(row.split()[1:]) for row in text.splitlines()),
        labels=[int(row[0]) for row in text.splitlines()],
    )
    scores = cosine(trials, table)
    heard = Provenance(model=ModelFacts("toy", "f00d"), training_speakers=["id00", "id03", "elsewhere"])
    typed = evaluate(scores, Settings(), provenance=heard)
    record = json.loads(json.dumps(typed.to_json(), allow_nan=False))
    assert ScoringRecord.from_json(record) == typed
    assert record["eer_ci95"][0] < record["eer"] < record["eer_ci95"][1]
    facts = {"unit": "speaker", "units": 12, "samples": 0, "seed": 0, "redrawn": 0, "speakers_from": "paths"}
    assert record["bootstrap"] == facts
    assert record["model"] == {"name": "toy", "fingerprint": "f00d", "training_speakers_in_trials": 2}
    assert list(record["min_dcf"]) == ["0.01", "0.05"]
    assert (record["act_dcf"], record["cllr"]) == (None, None)
    assert record["list"]["labels_against_speakers"] == 0
    shown = format_record(typed)
    assert f"{100 * record['eer']:.3f} %" in shown
    assert "over 12 speakers" in shown


def test_record_of_likelihood_ratios_has_their_costs() -> None:
    trials = trials_of("a/1 a/2", "a/1 b/1", "b/1 b/2", labels=[1, 0, 1])
    record = evaluate(ScoreList(trials, np.array([2.0, -1.0, -0.5]), "llr"), Settings(intervals=False))
    figures = record.figures
    assert figures.cllr is not None and figures.cllr > figures.min_cllr == 0
    assert list(record.to_json()["act_dcf"]) == ["0.01", "0.05"]
    assert (figures.eer_ci95, figures.intervals) == (None, None)
    assert "Cllr" in format_record(record)


def test_labels_that_contradict_the_speakers_are_counted() -> None:
    trials = trials_of("a/1 a/2", "a/1 b/1", "b/1 a/2", labels=[1, 0, 1])
    record = evaluate(ScoreList(trials, np.array([2.0, -1.0, -0.5])), Settings(intervals=False))
    assert record.trial_list.labels_against_speakers == 1
    assert "1 labels disagree" in format_record(record)


def test_a_threshold_that_rejects_all_is_null() -> None:
    trials = trials_of("a/1 a/2", "a/1 b/1", labels=[1, 0])
    record = evaluate(ScoreList(trials, np.zeros(2)), Settings(intervals=False))
    written = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert written["min_dcf_at"]["0.01"] == {"threshold": None, "p_miss": 1.0, "p_fa": 0.0}
    assert "reject all" in format_record(record)


# --- the command


def write_task(folder: Path) -> tuple[Path, Path, Path]:
    """Write a trial list, its scores and its embeddings."""
    text, table = random_task()
    trials, scores, embeddings = folder / "trials.txt", folder / "scores.txt", folder / "e.npz"
    trials.write_text(text)
    table.save(embeddings)
    cosine(TrialList.read(trials), table).write(scores)
    return trials, scores, embeddings


def command(*arguments: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_scores_and_embeddings_give_the_same_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, scores, embeddings = write_task(tmp_path)
    for source, name in (("--scores", scores), ("--embeddings", embeddings)):
        out = [tmp_path / f"{source[2:]}-out.{kind}" for kind in ("json", "txt")]
        options = ("--bootstrap", 20, "--p-target", 0.2, "--json", out[0], "--out-scores", out[1])
        assert score.run(command(trials, source, name, *options)) == 0
        assert "EER" in capsys.readouterr().out
    records = [json.loads((tmp_path / f"{kind}-out.json").read_text()) for kind in ("scores", "embeddings")]
    assert [record.pop("model") for record in records] == [
        None,
        {"name": None, "fingerprint": "f00d", "training_speakers_in_trials": None},
    ]
    assert [record.pop("backend") for record in records] == [None, {"name": "cosine", "trained_on": None}]
    assert all(record.pop("seconds") >= 0 for record in records)
    assert records[0] == records[1]
    assert list(records[0]["min_dcf"]) == ["0.2"]
    assert (tmp_path / "scores-out.txt").read_text() == (tmp_path / "embeddings-out.txt").read_text()


def test_the_script_needs_no_torch_and_no_installation(tmp_path: Path) -> None:
    trials, scores, _ = write_task(tmp_path)
    code = (
        "import runpy, sys; sys.argv = ['score.py', *sys.argv[2:]]\n"
        f"try: runpy.run_path({str(ROOT / 'tools' / 'score.py')!r}, run_name='__main__')\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "score.py", trials, "--scores", scores, "--bootstrap", "10"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "EER" in done.stdout
    assert done.stderr == ""


def test_report_of_the_command(tmp_path: Path) -> None:
    trials, scores, _ = write_task(tmp_path)
    assert score.run(command(trials, "--scores", scores, "--bootstrap", 0, "--report", tmp_path / "r")) == 0
    assert (tmp_path / "r" / "index.html").is_file()


def test_two_systems_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials, scores, _ = write_task(tmp_path)
    rng = np.random.default_rng(3)
    rows = dict(line.rsplit(" ", 1) for line in scores.read_text().splitlines())
    noisy = tmp_path / "noisy.txt"
    noisy.write_text("".join(f"{pair} {float(score) + rng.normal()}\n" for pair, score in rows.items()))
    options = ("--scores", scores, "--against", noisy, "--bootstrap", 1000, "--json", tmp_path / "r.json")
    assert score.run(command(trials, *options)) == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())
    other = record["against"]
    assert other["difference"] == pytest.approx(record["eer"] - other["eer"]) and other["difference"] < 0
    assert (
        other["difference_ci95"][1] < 0 and other["p_value"] < 0.05 and other["eer_ci95"][0] > record["eer"]
    )
    assert f"{100 * other['difference']:+.3f} points" in shown and f"p = {other['p_value']:.2g}" in shown
    assert ScoringRecord.from_json(record).to_json() == record
    assert score.run(command(trials, "--scores", scores, "--against", scores)) == 0
    assert "+0.000 points no interval, p = 1" in capsys.readouterr().out


def test_models_of_several_files_from_a_map(tmp_path: Path) -> None:
    _, _, embeddings = write_task(tmp_path)
    (tmp_path / "map").write_text("anne id00/0.wav id00/1.wav\nbob id01/0.wav id01/1.wav\n")
    tests = [f"id0{s}/{f}.wav" for s in (0, 1) for f in (2, 3)]
    rows = [
        f"{model} {test} {'target' if test[3] == k else 'nontarget'}"
        for model, k in (("anne", "0"), ("bob", "1"))
        for test in tests
    ]
    (tmp_path / "t").write_text("\n".join(rows))
    options = ("--embeddings", embeddings, "--enroll-map", tmp_path / "map", "--json", tmp_path / "r.json")
    assert score.run(command(tmp_path / "t", *options, "--bootstrap", 10)) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["trials"], record["targets"], record["bootstrap"]["units"]) == (8, 4, 2)


def test_normalised_scores_are_those_of_the_library(tmp_path: Path) -> None:
    trials, _, embeddings = write_task(tmp_path)
    rng = np.random.default_rng(5)
    cohort = table_of({f"other{i}": rng.normal(size=8) for i in range(30)})
    cohort.save(tmp_path / "c.npz")
    options = ("--norm", "asnorm", "--cohort", tmp_path / "c.npz", "--top-n", 10, "--bootstrap", 0)
    out = ("--out-scores", tmp_path / "s", "--json", tmp_path / "r.json")
    assert score.run(command(trials, "--embeddings", embeddings, *options, *out)) == 0
    read = TrialList.read(trials)
    raw = cosine(read, EmbeddingTable.load(embeddings))
    expected = as_norm(raw, EmbeddingTable.load(embeddings), cohort, 10)
    assert ScoreList.read(tmp_path / "s", read).scores.tolist() == expected.scores.tolist()
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["score_kind"] == "normalized"
    assert record["norm"] == {"kind": "asnorm", "top_n": 10, "cohort": "c.npz", "cohort_size": 30}


def test_missing_audio_is_found_before_anything_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "t").write_text("1 a.wav b.wav\n0 a.wav c.wav\n0 c.wav\n")
    with pytest.raises(
        InputError, match=r"1 wrong row: line 3: .*2 of 3 files are not in .*: b\.wav, c\.wav"
    ):
        score.run(command(tmp_path / "t", "--model", tmp_path / "no-model"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.txt", "--scores", "scores.txt"], "none.txt: No such file"),
        ([".", "--scores", "scores.txt"], "is a folder"),
        (["empty.txt", "--scores", "scores.txt"], "empty.txt: the file is empty"),
        (["trials.txt", "--scores", "none.txt"], "none.txt: No such file"),
        (["trials.txt", "--scores", "empty.txt"], "empty.txt: the file is empty"),
        (["trials.txt", "--scores", "trials.txt"], "is the trial list itself"),
        (["trials.txt", "--embeddings", "scores.txt"], "expected an .npz"),
        (["trials.txt", "--embeddings", "none.npz"], "none.npz: No such file"),
        (["unknown.txt", "--embeddings", "e.npz"], "no embedding for 1 files: id77/0.wav"),
        (["mixed.txt", "--scores", "scores.txt"], "1 wrong row: line 601"),
        (["trials.txt", "--scores", "scores.txt", "--embeddings", "e.npz"], "give one source"),
        (["trials.txt", "--scores", "scores.txt", "--p-target", "1"], "--p-target 1"),
        (["trials.txt", "--scores", "scores.txt", "--json", "trials.txt"], "would write over an input"),
        (["trials.txt", "--scores", "scores.txt", "--out-scores", "scores.txt"], "would write over an input"),
        (["trials.txt", "--scores", "scores.txt", "--norm", "asnorm"], "--norm asnorm needs"),
        (["trials.txt", "--scores", "scores.txt", "--speakers", "none"], "none: No such file"),
        (["one_class.txt", "--scores", "scores.txt"], "need both kinds"),
        (["unlabelled.txt", "--scores", "scores.txt"], "no labels"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_task(tmp_path)[0].read_text()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "unknown.txt").write_text(text + "0 id00/0.wav id77/0.wav\n")
    (tmp_path / "mixed.txt").write_text(text + "id00/0.wav id01/0.wav nontarget\n")
    (tmp_path / "one_class.txt").write_text("".join(row for row in text.splitlines(True) if row[0] == "1"))
    (tmp_path / "unlabelled.txt").write_text("".join(row[2:] for row in text.splitlines(True)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    if "--json" not in arguments:
        arguments = [*arguments, "--json", "r.json"]
    parsed = command(*arguments)
    with pytest.raises(InputError, match=expected) as caught:
        _outputs.check(parsed)  # as `main` does for every command
        score.run(parsed)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_wrong_and_what_is_odd_is_reported_together(tmp_path: Path) -> None:
    text, table = random_task(trials=50)
    table.save(tmp_path / "e.npz")
    rows = text.splitlines()
    odd = [
        rows[0],
        "1 id00/0.wav id00/0.wav",
        "7 id00/0.wav id00/1.wav",
        "1 id00/0.wav",
        "0 id00/0.wav gone.wav",
    ]
    (tmp_path / "t").write_text("\n".join([*rows, *odd]))
    with pytest.raises(InputError) as caught:
        score.run(command(tmp_path / "t", "--embeddings", tmp_path / "e.npz"))
    message = str(caught.value)
    for part in (
        "2 wrong rows: line 53:",
        "line 54: 2 columns",
        "no embedding for 1 files: gone.wav",
        "1 self-pairs",
    ):
        assert part in message
    assert "duplicate: " in message


def test_a_list_without_labels_can_be_scored_but_not_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, table = random_task()
    table.save(tmp_path / "e.npz")
    (tmp_path / "t").write_text("id00/0.wav id00/1.wav\nid00/0.wav id01/1.wav\n")
    options = ("--embeddings", tmp_path / "e.npz", "--out-scores", tmp_path / "s")
    assert score.run(command(tmp_path / "t", *options)) == 0
    assert "no labels" in capsys.readouterr().out
    assert len((tmp_path / "s").read_text().splitlines()) == 2


def test_the_script_exits_with_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "score.py", tmp_path / "none"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none: No such file" in done.stderr


@pytest.mark.corpus
def test_voxsrc_in_any_row_order(shared: Path, tmp_path: Path) -> None:
    folder, rng = shared / "voxceleb", np.random.default_rng(0)
    paths = {}
    for kind in ("trials", "scores"):
        rows = (folder / f"voxsrc2021_val_{kind}.txt").read_text().splitlines()
        paths[kind] = tmp_path / kind
        paths[kind].write_text("\n".join(rows[i] for i in rng.permutation(len(rows))))
    records = []
    for trials, scores in (
        (folder / "voxsrc2021_val_trials.txt", folder / "voxsrc2021_val_scores.txt"),
        (paths["trials"], paths["scores"]),
    ):
        assert (
            score.run(command(trials, "--scores", scores, "--bootstrap", 20, "--json", tmp_path / "r")) == 0
        )
        records.append(json.loads((tmp_path / "r").read_text()))
        records[-1].pop("list"), records[-1].pop("seconds")
    assert records[0] == records[1]
    assert round(100 * records[0]["eer"], 3) == 5.177
    assert {key: round(cost, 4) for key, cost in records[0]["min_dcf"].items()} == {
        "0.01": 0.4261,
        "0.05": 0.2928,
    }
    assert records[0]["bootstrap"]["units"] == 1251


@pytest.mark.parametrize("samples", ["-1", "9" * 20, "2.5", ""])
def test_the_number_of_bootstrap_samples_has_an_end(samples: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["score", "t", "--scores", "s"], ["report", "s", "--trials", "t", "--out", "p"]):
        with pytest.raises(SystemExit, match="2"):
            main([*arguments, f"--bootstrap={samples}"])
        assert "expected a whole number from 0 to 1000000" in capsys.readouterr().err
