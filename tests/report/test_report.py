"""The report: its numbers are those of the record, it holds what is at hand, and it is one safe file."""

import base64
import dataclasses
import importlib.util
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.metadata import Column
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import breakdown
from speakerverif.evaluation.cross_calibration import held_out_llrs
from speakerverif.evaluation.describe import describe
from speakerverif.evaluation.evaluate import Settings, evaluate
from speakerverif.evaluation.intervals import paired_difference
from speakerverif.evaluation.metrics import act_dcf, cllr, det_curve
from speakerverif.report import elements, embedding_map, excerpts, summary
from speakerverif.report.figures import det_png
from speakerverif.report.page import Result, System, write_report
from speakerverif.report.results import Calibrated
from speakerverif.report.svg import Plot, nice_ticks
from tests.evaluation.test_breakdown import random_task


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't draw the same PNG for every page: it takes longer than all the rest."""
    monkeypatch.setattr("speakerverif.report.figures.det_png", lambda systems: b"")


class Page(HTMLParser):
    """What a page says: the rows of its tables by caption, its text, its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = "", [""]
        self._rows: list[list[str]] = []
        self._caption, self._cell = "", None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("meta", "link", "img", "br"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open[-1] != tag and len(self._open) > 1:
            self._open.pop()
        self._open.pop()
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if self._open[-1] in ("style", "script"):
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or ("th" in self._open and "table" in self._open):
            self._rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def result_of(scores: ScoreList, name: str = "ours", **more: Any) -> Result:
    record = evaluate(scores, Settings())
    return Result(System(name, scores, record), units_of(scores.trials), **more)


def with_second(result: Result, noise: float = 1.0) -> Result:
    scores = result.system.scores
    worse = scores.scores + np.random.default_rng(5).normal(size=len(scores.scores)) * noise
    other = ScoreList(scores.trials, worse)
    return dataclasses.replace(result, against=System("theirs", other, evaluate(other, Settings())))


def written(folder: Path, *results: Result, **options: Any) -> Page:
    page = write_report(results, folder, **options).read_text("utf-8")
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"data:[^\"]*", "", page))
    assert not re.search(r"%[A-Z]+%|https?://|\b(None|undefined)\b", Page(page).text)
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    return Page(page)


def test_numbers_are_those_of_the_record(tmp_path: Path) -> None:
    result = result_of(random_task()[0])
    record = result.system.record
    page = written(tmp_path, result)
    rows = page.tables["All figures of ours"]
    assert rows == [list(row) for row in describe(record)]
    assert f"{100 * record.figures.eer:.2f} %" in page.text
    limits = record.figures.eer_ci95
    assert limits is not None
    assert f"{100 * limits.low:.2f} – {100 * limits.high:.2f} %" in page.text
    embedded = re.search(r'id="records">(.*?)</script>', (tmp_path / "index.html").read_text())
    assert embedded is not None
    held = json.loads(embedded[1])[0]
    assert held.pop("system") == "ours"
    assert held == {k: v for k, v in json.loads(json.dumps(record.to_json())).items() if k != "seconds"}


def test_the_png_of_the_det_curve_takes_any_name() -> None:
    systems = with_second(result_of(random_task()[0], "_$a$_{" + "long " * 20)).systems
    assert imread(io.BytesIO(det_png(systems))).shape[:2] == (864, 896)


def test_two_systems_are_compared_on_the_same_trials(tmp_path: Path) -> None:
    result = with_second(result_of(random_task()[0]))
    page = written(tmp_path, result)
    assert result.against is not None
    first, second, units = result.system.scores, result.against.scores, result.units
    expected = paired_difference(second.scores, first.scores, result.system.labels, units.enroll, units.test)
    assert expected.difference < 0 and expected.interval is not None and expected.p_value is not None
    said = f"{100 * expected.difference:+.2f} points [{100 * expected.interval[0]:+.2f}".replace("-", "−")
    assert said in page.text and f"p\u00a0=\u00a0{expected.p_value:.2g}" in page.text
    assert ("can’t tell whether" in page.text) == (expected.p_value >= 0.05)
    same = dataclasses.replace(result, against=dataclasses.replace(result.system, name="theirs"))
    assert "can’t tell whether" in written(tmp_path / "same", same).text


def test_calibration_is_judged_before_and_after(tmp_path: Path) -> None:
    result = result_of(random_task()[0])
    page = written(tmp_path, result)
    before, after = page.tables["Costs of the scores as log likelihood ratios"][1:]
    labels, held_out = result.system.labels, held_out_llrs(result.system.scores, result.units).scores
    for row, llrs in ((before, result.system.scores.scores), (after, held_out)):
        curve = det_curve(llrs, labels)
        expected = [cllr(llrs, labels), curve.min_cllr()]
        for p in (0.01, 0.05):
            expected += [act_dcf(llrs, labels, p).cost, curve.min_dcf(p).cost]
        assert row[2:] == [f"{x:.3f}" for x in expected]
    few = ScoreList(
        TrialList(("a/1", "a/2", "b/1"), np.array([0, 0]), np.array([1, 2]), np.array([True, False])),
        np.eye(2)[0],
    )
    assert (
        Calibrated.of(System("x", few, evaluate(few, Settings(intervals=False))), units_of(few.trials)).after
        is None
    )
    assert "could not be calibrated: 2 speakers are too few" in written(tmp_path / "few", result_of(few)).text


def test_scores_all_alike_are_drawn(tmp_path: Path) -> None:
    trials = random_task(speakers=3)[0].trials
    page = written(tmp_path, result_of(ScoreList(trials, np.full(len(trials), 0.5))))
    assert page.tables["All figures of ours"][1][1] == "50.000 %"


def decided(targets: list[float], nontargets: list[float]) -> Result:
    """Return a result whose trials compare files of unknown speakers."""
    count = len(targets) + len(nontargets)
    ids = tuple(f"f{k}" for k in range(2 * count))
    enroll, test = np.arange(count, dtype=np.int32), np.arange(count, 2 * count, dtype=np.int32)
    labels = np.arange(count) < len(targets)
    scores = ScoreList(TrialList(ids, enroll, test, labels, "t"), np.array([*targets, *nontargets]))
    return Result(
        System("ours", scores, evaluate(scores, Settings(intervals=False))), units_of(scores.trials)
    )


@pytest.mark.parametrize(
    ("targets", "nontargets", "sentence"),
    [
        # Non-targets at 0 ... 199: the threshold between 197 and 198 lets two of 200 in.
        (
            [*[500.0] * 96, *[-1.0] * 4],
            [float(k) for k in range(200)],
            "At a threshold of 197.5, 1 in 100 strangers is let in, and 4 in 100 of your people are refused.",
        ),
        # Two in a thousand are refused: in a hundred that would be none.
        (
            [*[500.0] * 998, *[-1.0] * 2],
            [float(k) for k in range(200)],
            "At a threshold of 197.5, 1 in 100 strangers is let in, and 2 in 1,000 of your people are refused.",
        ),
        # With 40 non-targets, 1 in 20 is the least that two of them can show.
        (
            [500.0] * 50,
            [float(k) for k in range(40)],
            "At a threshold of 37.5, 5 in 100 strangers are let in, and none of your people is refused.",
        ),
        ([5.0, 6.0], [1.0, 2.0], ""),
    ],
)
def test_the_first_sentence_says_what_a_decision_means(
    targets: list[float], nontargets: list[float], sentence: str
) -> None:
    assert summary.answer(decided(targets, nontargets)) == sentence


def test_errors_by_speaker_are_those_of_the_trials(tmp_path: Path) -> None:
    result = result_of(random_task()[0])
    trials, threshold = result.system.scores.trials, result.system.record.figures.eer_threshold
    counts = {name: [0, 0, 0, 0] for name in result.units.names}
    for i, score in enumerate(result.system.scores.scores):
        sides = {
            result.speaker_of[trials.ids[trials.enroll[i]]],
            result.speaker_of[trials.ids[trials.test[i]]],
        }
        target = bool(result.system.labels[i])
        for name in sides:
            counts[name][0 if target else 2] += 1
            counts[name][1 if target else 3] += (score >= threshold) != target
    errors = result.speaker_errors()
    assert {e.speaker: [e.targets, e.misses, e.nontargets, e.false_alarms] for e in errors} == counts
    assert [e.rates for e in errors] == sorted((e.rates for e in errors), reverse=True)
    page = written(tmp_path, result)
    (caption,) = (caption for caption in page.tables if "highest error rates first" in caption)
    assert [row[0] for row in page.tables[caption][1:]] == [e.speaker for e in errors[:20]]
    unknown = dataclasses.replace(result, units=dataclasses.replace(result.units, kind="file"))
    assert unknown.speaker_errors() == []


def test_counts_have_their_nouns() -> None:
    assert elements.count(1, "miss", "misses") == "1 miss"
    assert elements.count(0, "miss", "misses") == "0 misses"
    assert elements.count(1234, "speaker") == "1,234 speakers"


def test_breakdown_is_that_of_the_record(tmp_path: Path) -> None:
    scores, units, record = random_task()
    column = Column("<half>", {name: "low" if name < "s01" else "high" for name in scores.trials.ids})
    record = dataclasses.replace(record, breakdown=breakdown(scores, [column], units, record.figures))
    page = written(tmp_path, Result(System("ours", scores, record), units))
    head, *rows = page.tables["By <half> (values of both sides)."]
    assert record.breakdown is not None
    groups = record.breakdown[0].groups
    assert head[0] == "<half>" and [row[0] for row in rows] == [g.group for g in groups]
    high = groups[0]
    assert high.eer is not None and high.eer_ci95 is not None
    assert high.p_miss is not None and high.p_fa is not None
    assert rows[0][3] == "{:.2f} {:.2f} – {:.2f}".format(*(100 * x for x in (high.eer, *high.eer_ci95)))
    assert rows[0][5:7] == [f"{100 * high.p_miss:.2f}", f"{100 * high.p_fa:.2f}"]
    assert rows[1][3] == "too few" and rows[1][4] == ""


def test_hardest_trials_once_each_in_order_of_their_ids_where_equal() -> None:
    ids = ("a/1", "a/2", "a/3", "b/1")
    pairs = np.array([(0, 1), (1, 0), (0, 2), (1, 2), (0, 3), (2, 3)], np.int32).T
    trials = TrialList(ids, pairs[0], pairs[1], np.array([True] * 4 + [False] * 2))
    result = result_of(ScoreList(trials, np.array([0.5, 0.5, 0.1, 0.1, 0.3, 0.2])))
    assert result.hardest(True, 3) == [2, 3, 0]
    assert result.hardest(False, 9) == [4, 5]


def test_who_the_errors_are_of() -> None:
    ids = ("a/1", "a/2", "a/3", "b/1", "b/2")
    pairs = np.array([(0, 1), (0, 2), (3, 4), (0, 3), (4, 1)], np.int32).T
    trials = TrialList(ids, pairs[0], pairs[1], np.array([True] * 3 + [False] * 2))
    result = result_of(ScoreList(trials, np.array([0.1, 0.2, 0.9, 0.3, 0.8])))
    record = result.system.record
    record = dataclasses.replace(record, figures=dataclasses.replace(record.figures, eer_threshold=0.3))
    result = dataclasses.replace(result, system=dataclasses.replace(result.system, record=record))
    assert result.errors(True) == ([("a", 2)], 2)
    assert result.errors(False) == ([("a and b", 2)], 2)


def test_no_text_from_outside_is_markup(tmp_path: Path) -> None:
    evil = "</script><script>hacked=1</script><img src=\"x\" onerror='hacked=1'>%LISTS%"
    scores = random_task()[0]
    ids = tuple(f"{name}{evil}" for name in scores.trials.ids)
    trials = dataclasses.replace(scores.trials, ids=ids, name=f"/lists/{evil}.txt")
    system = result_of(ScoreList(trials, scores.scores), evil).system
    column = Column(evil, {name: evil if name < "s06" else "x" for name in ids})
    units = units_of(trials, {name: name[:3] + evil for name in ids})
    groups = breakdown(system.scores, [column], units, system.record.figures)
    system = dataclasses.replace(system, record=dataclasses.replace(system.record, breakdown=groups))
    rng = np.random.default_rng(0)
    table = EmbeddingTable(ids, rng.normal(size=(60, 4)), np.ones(60), np.ones(60), ["ok"] * 60, evil)
    result = with_second(Result(system, units))
    options: dict[str, Any] = {"audio_root": tmp_path, "table": table, "made": [("command", evil)]}
    text = write_report([result, result], tmp_path / "r", **options).read_text("utf-8")
    page = Page(text)
    assert len(page.of("script")) == 2 and "<script>hacked" not in text
    assert not [one for _, one in page.elements if any(name.startswith("on") for name in one)]
    assert not page.of("img")
    assert "</script><script>hacked=1" in page.text


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, tiny_corpus: Path) -> None:
    result, table = heard(tiny_corpus)
    for name in ("one", "two"):
        write_report([result], tmp_path / name, table=table, audio_root=tiny_corpus, made=[("date", "today")])
    assert (tmp_path / "one" / "index.html").read_bytes() == (tmp_path / "two" / "index.html").read_bytes()


def heard(corpus: Path) -> tuple[Result, EmbeddingTable]:
    """Return a result on the recordings of the tiny corpus, and embeddings of them."""
    ids = tuple(str(path.relative_to(corpus)) for path in sorted(corpus.rglob("*.wav")))
    enroll, test = (side.astype(np.int32) for side in np.triu_indices(len(ids), 1))
    owner = np.array([int(name[3]) for name in ids])
    labels, rng = owner[enroll] == owner[test], np.random.default_rng(0)
    scores = ScoreList(
        TrialList(ids, enroll, test, labels, "tiny.txt"), labels + rng.normal(size=len(labels))
    )
    vectors = np.eye(6, 8)[owner] + 0.2 * rng.normal(size=(len(ids), 8))
    seconds = np.ones(len(ids), np.float32)
    return result_of(scores), EmbeddingTable(ids, vectors, seconds, seconds, ["ok"] * len(ids), "f00d")


def test_players_and_spectrograms_where_audio_is_at_hand(tmp_path: Path, tiny_corpus: Path) -> None:
    result, _ = heard(tiny_corpus)
    page = written(tmp_path, result, audio_root=tiny_corpus)
    sounds, pictures = page.of("audio"), page.of("img")
    # Six speakers have one target trial each; of the pairs of speakers, eight are shown.
    assert len(sounds) == len(pictures) == 2 * (6 + 8)
    sides = [one["aria-label"].split("/")[0] for one in sounds]
    assert sorted(sides[:12:2]) == [f"spk{k}" for k in range(6)] and sides[:12:2] == sides[1:12:2]
    assert len({frozenset(pair) for pair in zip(sides[12::2], sides[13::2], strict=True)}) == 8
    assert all(one["alt"].startswith("Spectrogram of spk") for one in pictures)
    worst = result.system.scores.trials.pair(result.hardest(True, 1)[0]).split()
    assert [one["aria-label"] for one in sounds[:2]] == worst
    data = io.BytesIO(base64.b64decode(sounds[0]["src"].partition(",")[2]))
    waveform, rate = soundfile.read(data)
    recorded, _ = soundfile.read(tiny_corpus / worst[0])
    assert rate == 16000 and abs(len(waveform) - len(recorded)) < 0.2 * rate
    lost = written(tmp_path / "lost", result, audio_root=tmp_path)
    assert not lost.of("audio") and "no audio: " in lost.text


@pytest.mark.parametrize("name", ["../secret.wav", "a/../../secret.wav", "/etc/hostname", ".."])
def test_audio_from_outside_the_root_is_refused_by_name(tmp_path: Path, tiny_corpus: Path, name: str) -> None:
    """A page is sent around: nobody's list may put other files of this computer into it."""
    root = tmp_path / "root"
    shutil.copytree(tiny_corpus, root)
    shutil.copy(tiny_corpus / "spk0" / "0.wav", tmp_path / "secret.wav")
    result, _ = heard(root)
    trials = dataclasses.replace(
        result.system.scores.trials, ids=(name, *result.system.scores.trials.ids[1:])
    )
    scores = ScoreList(trials, result.system.scores.scores)
    outside = dataclasses.replace(result, system=dataclasses.replace(result.system, scores=scores))
    for given in (root, root / ".." / "root"):
        with pytest.raises(InputError, match=rf"the id '{re.escape(name)}' leads out of this folder"):
            write_report([outside], tmp_path / "r", audio_root=given)
    assert not (tmp_path / "r").exists()
    (root / "spk6").symlink_to(root / "spk1")  # the owner's own links stay usable
    write_report([result], tmp_path / "r", audio_root=root)


def test_excerpts_are_of_the_loudest_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    waveform = 0.01 * rng.normal(size=20 * 16000)
    waveform[9 * 16000 : 12 * 16000] *= 20
    soundfile.write(tmp_path / "long.wav", waveform, 16000)
    found = excerpts.excerpt(tmp_path / "long.wav")
    assert (found.duration_s, found.whole_s) == (5.0, 20.0)
    assert 7.0 <= found.start_s <= 9.0
    assert len(found.sound) < 120_000  # WAV would be 213,000


def test_a_tone_is_a_line_at_its_frequency() -> None:
    t = np.arange(16000) / 16000
    picture = imread(io.BytesIO(excerpts.spectrogram_png(0.5 * np.sin(2 * np.pi * 2000 * t))))
    assert picture.shape[:2] == (128, 101)
    brightness = picture[:, 20:80, :3].sum(axis=(1, 2))
    assert abs(brightness.argmax() - (127 - 2000 / 8000 * 128)) <= 1


@pytest.mark.parametrize("installed", ["umap", "sklearn", ""])
def test_the_map_says_how_it_was_laid_out(
    tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find(name) if name not in ("umap", "sklearn") or name == installed else None,
    )
    if installed:
        pytest.importorskip(installed)
    result, table = heard(tiny_corpus)
    page = written(tmp_path, result, table=table)
    assert {"umap": "UMAP", "sklearn": "t-SNE", "": "PCA"}[installed] in page.text
    found = embedding_map.lay_out(table, result.speaker_of)
    assert found is not None
    owner = np.array(found.owner)
    nearest = np.linalg.norm(found.points[:, None] - found.points[None], axis=2) + 1e9 * np.eye(len(owner))
    assert np.mean(owner[nearest.argmin(axis=1)] == owner) > 0.6
    assert embedding_map.lay_out(table, dict.fromkeys(table.ids, "one")) is None


def test_pca_turns_and_does_not_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit vectors in a plane keep their distances to each other."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    angles = np.linspace(0, 3, 8)
    flat = np.stack((np.cos(angles), np.sin(angles)), 1)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    ids = [f"{'ab'[k % 2]}/{k}" for k in range(8)]
    table = EmbeddingTable(ids, flat @ turn[:2], np.ones(8), np.ones(8), ["ok"] * 8, "")
    found = embedding_map.lay_out(table, {name: name[0] for name in ids})
    assert found is not None
    rows = [ids.index(name) for name in found.ids]
    expected = np.linalg.norm(flat[rows][:, None] - flat[rows][None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(found.points[:, None] - found.points[None], axis=2), expected, atol=1e-12
    )


def test_several_lists_on_one_page(tmp_path: Path) -> None:
    results = [result_of(random_task(seed=seed)[0]) for seed in (0, 1)]
    page = written(tmp_path, *results)
    rows = page.tables["All lists"][1:]
    assert [row[3] for row in rows] == [f"{100 * r.system.record.figures.eer:.2f} %" for r in results]
    assert {"list-1", "list-2"} <= {one.get("id") for one in page.of("section")}
    assert (tmp_path / "det-2.png").is_file()


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 1.2, 6) == [
        (0.0, "0"),
        (0.2, "0.2"),
        (0.4, "0.4"),
        (0.6, "0.6"),
        (0.8, "0.8"),
        (1.0, "1"),
        (1.2, "1.2"),
    ]
    assert [name for _, name in nice_ticks(-0.7, 0.9, 6)] == ["−0.5", "0", "0.5"]
    assert [value for value, _ in nice_ticks(-40, 90)] == [0, 50]


def test_lines_keep_their_corners_and_lose_what_can_not_be_seen() -> None:
    plot = Plot("x", (0, 10), (0, 10))
    plot.line([0, 1, 2, 5, 5, 5, 10], [0, 0, 0, 0, 5, 10, 10], "a")
    drawn = re.findall(r"[ML]([\d.]+) ([\d.]+)", plot.svg())
    corners = plot.place([0, 5, 5, 10], [0, 0, 10, 10])
    np.testing.assert_allclose(np.array(drawn, float), corners)


def write_task(folder: Path) -> dict[str, Path]:
    scores = random_task()[0]
    paths = {name: folder / name for name in ("t.txt", "s.txt", "s2.txt", "utt2sex")}
    scores.trials.write(paths["t.txt"])
    scores.write(paths["s.txt"])
    second = with_second(result_of(scores)).against
    assert second is not None
    second.scores.write(paths["s2.txt"])
    paths["utt2sex"].write_text("".join(f"{n} {'fm'[n > 's06']}\n" for n in scores.trials.ids))
    return paths


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_task(tmp_path)
    arguments = ["report", paths["s.txt"], "--trials", paths["t.txt"], "--against", paths["s2.txt"]]
    arguments += [
        "--columns",
        paths["utt2sex"],
        "--bootstrap",
        20,
        "--out",
        tmp_path / "r",
        "--date",
        "1 May",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r' / 'index.html'}\n"
    page = Page((tmp_path / "r" / "index.html").read_text("utf-8"))
    assert "By sex (values of both sides)." in page.tables
    assert "All figures of s2" in page.tables
    assert f"speakerverif report {paths['s.txt']} --trials" in page.text and "1 May" in page.text


def test_the_command_writes_json_and_a_title(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_task(tmp_path)
    arguments = ["report", paths["s.txt"], "--trials", paths["t.txt"], "--against", paths["s2.txt"]]
    arguments += [
        "--bootstrap",
        50,
        "--out",
        tmp_path / "r",
        "--title",
        "For <you>",
        "--json",
        tmp_path / "r.json",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    page = Page((tmp_path / "r" / "index.html").read_text("utf-8"))
    held = json.loads((tmp_path / "r.json").read_text())
    assert held["title"] == "For <you>" and "For <you>" in page.text
    (of_list,) = held["lists"]
    assert of_list["answer"] in page.text
    assert [system["system"] for system in of_list["systems"]] == ["s", "s2"]
    first, second = (system["eer"] for system in of_list["systems"])
    assert of_list["difference"]["eer_difference"] == pytest.approx(first - second)
    low, high = of_list["difference"]["ci95"]
    assert low <= of_list["difference"]["eer_difference"] <= high
    assert f"p\u00a0=\u00a0{of_list['difference']['p_value']:.2g}" in page.text
    decision = of_list["decision"]
    assert decision["p_fa"] <= 0.05 and decision["p_miss_ci95"][0] <= decision["p_miss"]


def test_the_command_refuses_what_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_task(tmp_path)
    start = ["report", str(paths["s.txt"]), "--trials", str(paths["t.txt"]), "--out", str(tmp_path / "r")]
    for more, message in (
        (["--names", "a", "b"], "expected 1 that differ"),
        (["--audio-root", str(tmp_path / "none")], "no such folder"),
        (["--columns", str(tmp_path / "none")], "No such file"),
    ):
        assert main([*start, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_scoring_breaks_down_as_text_and_in_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_task(tmp_path)
    arguments = [
        "score",
        paths["t.txt"],
        "--scores",
        paths["s.txt"],
        "--breakdown-by",
        f"sex={paths['utt2sex']}",
    ]
    arguments += ["--bootstrap", 20, "--json", tmp_path / "r.json", "--report", tmp_path / "r"]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    (column,) = json.loads((tmp_path / "r.json").read_text())["breakdown"]
    assert column["column"] == "sex" and [group["group"] for group in column["groups"]] == ["f", "m", "f – m"]
    assert "by sex: values of both sides" in printed and "too few" in printed
    assert f"{100 * column['groups'][0]['eer']:.2f}" in printed
    assert "By sex (values of both sides)." in Page((tmp_path / "r" / "index.html").read_text()).tables
