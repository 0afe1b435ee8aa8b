"""The groups of parsers that `fuzz.py` tries: good inputs to damage, and the call that must survive them."""

import gzip
import io
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speakerverif._util.json_files import read_json
from speakerverif._util.tar import members
from speakerverif._util.toml import format_toml, from_dict, to_dict
from speakerverif.audio import reading
from speakerverif.config import Recipe, load_recipe
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.formats.tables import read_table
from speakerverif.data.metadata import Column, read_columns
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import read_enroll_map, read_speakers, units_of
from speakerverif.data.trials import TrialList
from speakerverif.evaluation.records import ScoringRecord
from tests.data import test_formats_document as document
from tools.fuzz_inputs import Seed, unpacked

RATE = 16000
SPEAKERS, PER_SPEAKER, DIM = 4, 3, 8  # of the tables behind a model's scoring


@dataclass(frozen=True)
class Group:
    """Parsers of one kind of input.

    Attributes:
        name: of the group.
        seeds: returns good inputs, which are then damaged.
        parse: must return, or raise `InputError`, given the path that an input names.
    """

    name: str
    seeds: Callable[[], list[Seed]]
    parse: Callable[[Path], object]


AUDIO = (
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "ULAW"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
)


def audio_seeds() -> list[Seed]:
    """Return a third of a second of two sounds in every container and coding."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE // 3, 2)).astype(np.float32)
    files = []
    for format, subtype in AUDIO:
        for samples in (noise[:, 0], noise):
            if soundfile.check_format(format, subtype) and (samples.ndim == 1 or subtype != "GSM610"):
                buffer = io.BytesIO()
                soundfile.write(buffer, samples, RATE, format=format, subtype=subtype)
                files.append(buffer.getvalue())
    flac = bytearray(next(file for file in files if file[:4] == b"fLaC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    frame = struct.pack(">B", 12 << 3) + bytes(5)
    files += [bytes(flac), b"#!AMR\n" + frame * 20, b"\xff\xf1\x60\x40\x01\x7f\xfc" * 9]
    return [Seed("input", {"input": content}) for content in files]


def read_audio(path: Path) -> None:
    """Read a recording in all ways there are."""
    reading.info(path)
    reading.read(path, 0.1, 0.05, channel="mix")
    for _ in reading.blocks(path, 0.1, channel=1):
        pass
    reading.read(path)


def from_document(*readers: Callable[[Path], Any], rows: tuple[str, ...] = ()) -> list[Seed]:
    """Return the good examples of `docs/formats.md` that one of some readers reads, or of the given rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        document.beside(folder / "list")
        around = {path.name: path.read_bytes() for path in folder.iterdir()}
    seeds = []
    for row, (reader, good, _) in document.CASES.items():
        if reader not in readers and row not in rows:
            continue
        for name, content, _ in good:
            parts = content if isinstance(content, dict) else {"": content}
            raw = {
                part: text if isinstance(text, bytes) else text.replace("{here}/", "").encode()
                for part, text in parts.items()
            }
            files = {f"{name}/{part}" if part else name: text for part, text in raw.items()}
            fixed = frozenset(around) - set(files)
            seeds.append(Seed(name, {**around, **files}, fixed))
    return seeds


def list_seeds() -> list[Seed]:
    """Return lists of recordings in every format."""
    seeds = from_document(document.listed, rows=("`.rttm`", "Kaldi `wav.ark:N`"))
    return [*seeds, Seed("m.jsonl.gz", {"m.jsonl.gz": gzip.compress(b'{"key": "a", "wav": "a"}\n')})]


def read_list(path: Path) -> None:
    """Read a list of recordings and locate each of them."""
    for utterance in read_manifest(path):
        assert utterance.id and utterance.path


TRIALS = Seed("t", {"t": b"1 a b\n0 a c\n", "s": b"a b 0.5\na c 0.1\n"})
LABELLED = Seed("t", {"t": b"1 a b\n0 a c\n", "s": b"a b 0.5 1\na c 0.1 0\n"})


def read_scores(path: Path) -> None:
    """Read a trial list, and the scores next to it."""
    trials = TrialList.read(path)
    scores = ScoreList.read(path.with_name("s"), trials)
    assert np.isfinite(scores.scores).all() and len(scores.scores) == len(trials)


def score_seeds() -> list[Seed]:
    """Return score files in every format, each with its trial list."""
    seeds = [TRIALS, LABELLED]
    for seed in from_document(document.scores):
        trials = b"1\ta 1\tb\n0\ta 1\tc\n" if "tab" in seed.path else b"1 a b\n0 a c\n"
        name = f"s{Path(seed.path).suffix}"
        seeds.append(Seed("t", {"t": trials, name: seed.files[seed.path]}))
    return [seed for seed in seeds if "s" in seed.files]


def table_seeds() -> list[Seed]:
    """Return tables of embeddings in every format."""
    seeds = from_document(document.table)
    # Whole archives, whose damage the checksums find, and archives of damaged arrays.
    seeds += [Seed("e.npz", unpacked(s.files["e.npz"], "e.npz")) for s in seeds if s.path == "e.npz"]
    rows = document.parquet(id=["a"], embedding=[[1.0]], status=["ok"], duration_s=[1.0])
    return [*seeds, Seed("e.parquet", {"e.parquet": rows})]


def read_embeddings(path: Path) -> None:
    """Read a table; what is read must be finite and have an id per row."""
    table = read_table(path)
    assert np.isfinite(table.embeddings).all() and len(set(table.ids)) == len(table)


def tiny_recipe() -> Recipe:
    """Return a recipe of a network of 16 channels."""
    encoder = {
        **{"name": "ecapa", "channels": 16, "mfa_channels": 24, "attention_channels": 8, "res2_scale": 4},
        **{"se_channels": 8, "embedding_dim": DIM},
    }
    return from_dict(Recipe, {"name": "tiny", "features": {"num_mels": 24}, "encoder": encoder}, "tiny")


def _labelled_table(fingerprint: str, part: str) -> tuple[EmbeddingTable, dict[str, str]]:
    rng = np.random.default_rng(len(part))
    ids = [f"{part}{s}/{u}" for s in range(SPEAKERS) for u in range(PER_SPEAKER)]
    vectors = rng.standard_normal((len(ids), DIM)).astype(np.float32)
    ones = np.ones(len(ids), np.float32)
    table = EmbeddingTable(ids, vectors, ones, ones, ["ok"] * len(ids), fingerprint)
    return table, {name: name[:2] for name in ids}


@cache
def model_seeds() -> list[Seed]:
    """Return model folders with every file there can be, and with each back end."""
    import torch

    from speakerverif import heads
    from speakerverif.inference.enroll import LIMITS, EnrolmentLimits
    from speakerverif.models.folder import CALIBRATION, save_model
    from speakerverif.models.model import SpeakerModel
    from speakerverif.models.weights import fingerprint
    from speakerverif.scoring import scorer
    from speakerverif.scoring.calibration import Calibration

    torch.manual_seed(0)
    recipe = tiny_recipe()
    model = SpeakerModel(recipe.features, recipe.encoder)
    head = heads.build(recipe.head, DIM, SPEAKERS)
    name = fingerprint(model)
    table, speakers = _labelled_table(name, "s")
    seeds = []
    scorings: tuple[tuple[str, scorer.NormKind], ...]
    scorings = (("cosine", "asnorm"), ("plda", "none"), ("lda", "none"), ("wccn", "snorm"))
    for backend, norm in scorings:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            names = [f"s{s}" for s in range(SPEAKERS)]
            save_model(folder, model.state_dict(), head.state_dict(), recipe, names, {"samples": 9})
            options = {"dim": 2} if backend == "lda" else {}
            plan = scorer.Plan(name, {"name": backend, **options}, "x", norm, 3, "x")
            scorer.fit(plan, table, table if norm != "none" else None, speakers).save(folder)
            kind = scorer.Scoring.load(folder, name).kind
            Calibration((kind,), (), (2.0,), -1.0, 0.05, "t", "0" * 64, name).save(folder / CALIBRATION)
            limits = EnrolmentLimits(name, "x", 1.0, 0.3, 0.3, 0.7)
            (folder / LIMITS).write_text(format_toml(asdict(limits)))
            files = {path.name: path.read_bytes() for path in folder.iterdir()}
        for archive in ("backend.npz", "cohort.npz"):
            if archive in files:
                files |= unpacked(files.pop(archive), archive)
        within = {f"model/{path}": content for path, content in files.items()}
        seeds.append(Seed("model", within, frozenset({"model/README.md"})))
    return seeds


def read_model(path: Path) -> None:
    """Load a model, embed a sound, score two embeddings and calibrate the score."""
    import torch

    from speakerverif.inference.enroll import EnrolmentLimits
    from speakerverif.inference.scale import Scale
    from speakerverif.models.folder import load_head, read_model_folder

    folder = read_model_folder(path)
    load_head(path)
    with torch.inference_mode():
        waveforms = torch.zeros(1, folder.model.sample_rate // 2)
        waveforms[0, ::100] = 0.5
        vectors = folder.model(waveforms)
    assert vectors.shape == (1, folder.model.embedding_dim)
    table, speakers = _labelled_table(folder.fingerprint, "t")
    pairs = np.arange(PER_SPEAKER, dtype=np.int32)
    trials = TrialList(tuple(table.ids), pairs, pairs + PER_SPEAKER, None)
    scores, _ = folder.scoring().score(trials, table, None, speakers)
    assert np.isfinite(scores.scores).all()
    Scale.of(folder)
    EnrolmentLimits.of(folder)


def recipe_seeds() -> list[Seed]:
    """Return recipes: the package's own with all keys written out, and one that changes another."""
    whole = format_toml(to_dict(Recipe()) | {"name": "r"}).encode()
    root = Path(__file__).resolve().parents[1] / "recipes"
    texts = {path.stem: path.read_bytes() for path in sorted(root.glob("voxceleb/*.toml"))}
    seeds = [
        Seed("r.toml", {"r.toml": whole}),
        Seed("r.toml", {"r.toml": format_toml(to_dict(tiny_recipe())).encode()}),
    ]
    common = texts.pop("common")
    return seeds + [Seed("r.toml", {"r.toml": text, "common.toml": common}) for text in texts.values()]


def read_recipe(path: Path) -> None:
    """Read a recipe and check all that is checked before a training starts."""
    from speakerverif.training.plan import check

    check(load_recipe(path), 10)


@cache
def store_seeds() -> list[Seed]:
    """Return an enrolment store of three people."""
    from speakerverif.inference.enrollment import Store

    with tempfile.TemporaryDirectory() as scratch:
        store = Store(scratch, "0" * 16, create=True)
        for i, name in enumerate(("ann", "bob", "eve")):
            store.enroll(name, np.eye(DIM, dtype=np.float32)[i : i + 2])
        content = (Path(scratch) / "store.db").read_bytes()
    return [Seed("store", {"store/store.db": content})]


def read_store(path: Path) -> None:
    """List a store, search it, and change it."""
    from speakerverif.inference.enrollment import Store

    store = Store(path)
    for speaker in store.speakers():
        store.samples(speaker.name)
    store.models()
    store.search(np.ones(DIM, np.float32))
    store.enroll("ann", np.ones(DIM, np.float32))
    store.remove("bob")


@cache
def record_seeds() -> list[Seed]:
    """Return the record of a scoring with a breakdown."""
    from speakerverif.evaluation.breakdown import breakdown
    from speakerverif.evaluation.evaluate import Settings, evaluate

    pairs = np.triu_indices(24, 1)
    ids = tuple(f"s{i // 3}/{i % 3}" for i in range(24))
    labels = pairs[0] // 3 == pairs[1] // 3
    enroll, test = (side.astype(np.int32) for side in pairs)
    scores = ScoreList(TrialList(ids, enroll, test, labels, "t"), labels - 0.03 * enroll, "llr")
    record = evaluate(scores, Settings(intervals=True))
    columns = [Column("half", {name: str(i // 12) for i, name in enumerate(ids)})]
    groups = breakdown(scores, columns, units_of(scores.trials), record.figures)
    text = json.dumps(replace(record, breakdown=groups).to_json()).encode()
    return [Seed("r.json", {"r.json": text})]


def read_record(path: Path) -> None:
    """Read a record and write it again."""
    record = ScoringRecord.from_json(read_json(path), path)
    json.dumps(record.to_json())


@cache
def state_seeds() -> list[Seed]:
    """Return what an unfinished training of one speaker leaves: its state and its log."""
    with tempfile.TemporaryDirectory() as scratch:
        training = _tiny_training()
        training.step = 2
        training.save(Path(scratch), {"utterances": 3})
        state = (Path(scratch) / "training/state.safetensors").read_bytes()
    log = b'{"step": 1, "loss": 2.5}\n{"step": 2, "eer": 0.1}\n'
    return [Seed("m", {"m/training/state.safetensors": state, "m/log.jsonl": log})]


def read_state(path: Path) -> None:
    """Continue from a training's state and log."""
    from speakerverif.training import log, state

    log.read_log(path)
    saved = state.read(path)
    assert saved is not None
    training = _tiny_training()
    training.load(path, *saved)
    assert training.step >= 0


def _tiny_training() -> Any:
    from speakerverif.training.loop import new_training

    return new_training(tiny_recipe(), ["a", "b"], "cpu", None)


PREPARED = b'{"train": "t.tsv", "trials": {"t": "t.txt"}, "audio_root": "wav", "notes": ["n"], "test": null}'

GROUPS = {
    group.name: group
    for group in (
        Group("audio", audio_seeds, read_audio),
        Group("lists", list_seeds, read_list),
        Group("trials", lambda: from_document(document.trials), TrialList.read),
        Group("scores", score_seeds, read_scores),
        Group("tables", table_seeds, read_embeddings),
        Group(
            "archives",
            lambda: [Seed("a.tar", {"a.tar": document.shard(a_spk=b"s", a_wav=document.sound())})],
            lambda path: [part.open() for _, part in members(path)],
        ),
        Group(
            "speakers",
            lambda: [
                Seed("utt2spk", {"utt2spk": b"a s\nb t\n"}),
                Seed("m.tsv", {"m.tsv": b"id\tpath\tspeaker\na\tx\ts\n"}),
            ],
            lambda path: read_speakers(path, ["a"]),
        ),
        Group("enroll maps", lambda: [Seed("map", {"map": b"m a b\nn\tc d\n"})], read_enroll_map),
        Group(
            "columns",
            lambda: [
                Seed("c.tsv", {"c.tsv": b"id\tgender\na\tf\nb\tm\n"}),
                Seed("spk2gender", {"spk2gender": b"a f\nb m\n"}),
            ],
            lambda path: read_columns([str(path)], ["a", "b"], {}),
        ),
        Group("models", model_seeds, read_model),
        Group("recipes", recipe_seeds, read_recipe),
        Group("stores", store_seeds, read_store),
        Group("records", record_seeds, read_record),
        Group("states", state_seeds, read_state),
        Group("prepared", lambda: [Seed("p.json", {"p.json": PREPARED})], Prepared.load),
    )
}
