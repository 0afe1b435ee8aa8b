"""Bad inputs for `hostile.py`: each kind changes good files in ways drawn by a seed."""

import io
import json
import pickle
import random
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
import torch
from numpy.typing import NDArray

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.tables import write_table
from tools.hostile_changes import BYTES, VALUES, WORDS, changed_toml, forged_shapes, odd_arrays, text


@dataclass(frozen=True)
class Case:
    """One bad input: its kind, a name that tells what is wrong with it, and the command line to run."""

    kind: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Good:
    """Good inputs that the bad ones are made of."""

    # Holds a.wav, b.wav, model/, model.onnx, store/, e.npz, trials.txt, scores.txt, utt2spk, list.tsv, recipe.toml
    # and c.toml.
    folder: Path
    out: Path  # where bad files are written

    def path(self, name: str) -> str:
        """Return the path of a good file."""
        return str(self.folder / name)

    @property
    def model(self) -> tuple[str, str]:
        """The option that names the good model."""
        return "--model", self.path("model")

    def write(self, name: str, data: bytes | str) -> str:
        """Write a bad file and return its path."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)


def recordings(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged recordings of several containers, embedded and compared."""
    samples = soundfile.read(good.folder / "a.wav", dtype="int16")[0]
    sources: dict[str, bytes] = {}
    for ending, options in {
        "wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "aiff": {}, "au": {}, "w64": {}, "caf": {},
        "opus.ogg": {"format": "OGG", "subtype": "OPUS"}, "rf64.wav": {"format": "RF64"},
        "float.wav": {"subtype": "FLOAT"},
    }.items():  # fmt: skip
        buffer = io.BytesIO()
        kind = options.get("format", ending.rpartition(".")[2].upper())
        soundfile.write(buffer, samples, 16000, format=kind, subtype=options.get("subtype"))
        sources[ending] = buffer.getvalue()
    for i in range(count):
        ending = rng.choice(sorted(sources))
        change = rng.choice(BYTES)
        path = good.write(f"recording{i}.{ending}", change(sources[ending], rng))
        commands = (
            ("embed", path, good.path("b.wav"), "--out", str(good.out / f"r{i}.npz"), *good.model),
            ("verify", path, good.path("b.wav"), *good.model),
            ("enroll", "ann", path, "--store", str(good.out / f"store{i}"), *good.model),
            ("segments", path, "--out", str(good.out / f"r{i}.rttm")),
        )
        yield Case("recordings", f"{change.__name__} {ending}", rng.choice(commands))


def lists(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged trial lists, score files and tables of speakers."""
    folder, out = good.folder, good.out
    for i in range(count):
        name = rng.choice(("trials.txt", "scores.txt", "utt2spk", "c.toml"))
        bad = good.write(f"{i}-{name}", text((folder / name).read_bytes(), rng))
        files = {file: good.path(file) for file in ("trials.txt", "scores.txt", "utt2spk", "c.toml")}
        files[name] = bad
        base = ("score", files["trials.txt"], "--scores", files["scores.txt"], "--bootstrap", "10")
        commands = {
            "trials.txt": base,
            "scores.txt": rng.choice((base, ("report", bad, "--trials", files["trials.txt"], "--out", str(out / "p")))),
            "utt2spk": (*base, "--speakers", bad),
            "c.toml": (*base, "--calibration", bad),
        }  # fmt: skip
        yield Case("calibrations" if name == "c.toml" else "trial and score lists", name, commands[name])


def manifests(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged lists of recordings in every format that is read."""
    a, b = good.folder / "a.wav", good.folder / "b.wav"
    formats = {
        "list.tsv": (good.folder / "list.tsv").read_bytes(),
        "list.csv": f"ID,duration,wav,start,stop,spk_id\nu,1.0,{a},0,16000,s\nv,1.0,{b},0,16000,t\n".encode(),
        "raw.list": "".join(
            json.dumps({"key": k, "wav": str(p), "spk": k}) + "\n" for k, p in (("u", a), ("v", b))
        ).encode(),
        "cuts.jsonl": json.dumps(
            {
                "id": "u", "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut",
                "recording": {
                    "id": "r", "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
                    "sources": [{"type": "file", "channels": [0], "source": str(a)}],
                },
                "supervisions": [{"id": "u", "recording_id": "r", "start": 0, "duration": 1, "speaker": "s"}],
            }
        ).encode() + b"\n",
        "turns.rttm": b"SPEAKER a 1 0.0 1.0 <NA> <NA> ann <NA> <NA>\nSPEAKER b 1 0.2 0.8 <NA> <NA> bob <NA> <NA>\n",
    }  # fmt: skip
    for i in range(count):
        if rng.random() < 0.2:
            folder = good.out / f"kaldi{i}"
            files = {
                "wav.scp": f"u {a}\nv {b}\n".encode(),
                "segments": b"x u 0.0 1.0\ny v 0.0 1.0\n",
                "utt2spk": b"x s\ny t\n",
            }
            bad = rng.choice(sorted(files))
            for name, data in files.items():
                good.write(f"kaldi{i}/{name}", text(data, rng) if name == bad else data)
            path, name = str(folder), f"Kaldi {bad}"
        else:
            name = rng.choice(sorted(formats))
            path = good.write(f"{i}-{name}", text(formats[name], rng))
        out = ("--audio-root", str(good.folder), "--out", str(good.out / f"m{i}.npz"))
        yield Case("lists of recordings", name, ("embed", "--manifest", path, *out, *good.model))


def tables(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged embedding tables of every format."""
    whole = {}
    for file in ("e.npz", "cohort.npz"):
        table = EmbeddingTable.load(good.folder / file)
        for ending in ("npz", "ark", "parquet"):
            place = (good.out / file).with_suffix(f".{ending}")
            write_table(table, place)
            whole[file, ending] = place.read_bytes()
        whole[file, "scp"] = (good.out / file).with_suffix(".scp").read_bytes()
    score = ("score", good.path("trials.txt"), "--bootstrap", "10", "--embeddings")
    for i in range(count):
        ending = rng.choice(("npz", "npz", "npz", "ark", "parquet", "scp"))
        path = str(good.out / f"{i}.{ending}")
        file, command = rng.choice(
            (
                ("e.npz", (*score, path)),
                ("e.npz", (*score, path, *good.model)),
                (
                    "cohort.npz",
                    (*score, good.path("e.npz"), "--norm", "asnorm", "--top-n", "3", "--cohort", path),
                ),
                ("e.npz", ("store", "import", path, "--store", good.path("store"))),
            )
        )
        data = whole[file, ending]
        if ending == "scp":
            data, name = text(data, rng), ending
        elif ending != "npz" or rng.random() < 1 / 3:
            change = rng.choice(BYTES)
            data, name = change(data, rng), f"{ending} {change.__name__}"
        else:
            data, name = rng.choice((odd_arrays, forged_shapes))(npz(data), rng)
        good.write(f"{i}.{ending}", data)
        yield Case("embedding tables", name, command)


def npz(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file."""
    with np.load(io.BytesIO(data)) as loaded:
        return dict(loaded)


def models(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield model folders with one damaged file."""
    source = good.folder / "model"
    endings = (".toml", ".npz", ".safetensors", ".txt")
    names = [path.name for path in sorted(source.iterdir()) if path.suffix in endings]
    for i in range(count):
        bad = rng.choice(names)
        folder = good.out / f"model{i}"
        folder.mkdir()
        for path in source.iterdir():
            if path.is_file() and path.name != bad:
                (folder / path.name).symlink_to(path)
        data = (source / bad).read_bytes()
        if bad.endswith(".toml") and rng.random() < 0.7:
            good.write(f"model{i}/{bad}", changed_toml(data.decode(), rng))
        elif bad.endswith(".npz") and rng.random() < 0.5:
            good.write(f"model{i}/{bad}", odd_arrays(npz(data), rng)[0])
        elif rng.random() < 0.9:
            change = text if bad.endswith((".toml", ".txt")) else rng.choice(BYTES)
            good.write(f"model{i}/{bad}", change(data, rng))
        pair, option = (good.path("a.wav"), good.path("b.wav")), ("--model", str(folder))
        commands = (
            ("info", str(folder)),
            ("verify", *pair, *option),
            ("identify", pair[0], "--store", good.path("store"), *option),
            (
                "score",
                good.path("trials.txt"),
                "--embeddings",
                good.path("e.npz"),
                *option,
                "--bootstrap",
                "10",
            ),
        )
        yield Case("model folders", bad, rng.choice(commands))


def onnx_files(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield exported models with damaged bytes, or one damaged text among their metadata."""
    whole = (good.folder / "model.onnx").read_bytes()
    for i in range(count):
        graph = onnx.load_model_from_string(whole)
        if rng.random() < 0.4:
            change = rng.choice(BYTES)
            data, name = change(whole, rng), change.__name__
        else:
            entry = rng.choice(graph.metadata_props)
            name = entry.key
            if rng.random() < 0.2:
                graph.metadata_props.remove(entry)
            elif entry.key.endswith(".toml") and rng.random() < 0.7:
                entry.value = changed_toml(entry.value, rng)
            else:
                entry.value = rng.choice((*WORDS, *VALUES))
            data = graph.SerializeToString()
        path = good.write(f"{i}.onnx", data)
        commands = (("info", path), ("verify", good.path("a.wav"), good.path("b.wav"), "--model", path))
        yield Case("ONNX files", name, rng.choice(commands))


def stores(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield enrolment stores with damaged bytes, or one damaged value in their database."""
    whole = (good.folder / "store" / "store.db").read_bytes()
    cells = (
        "meta.value",
        "speakers.name",
        "utterances.speaker",
        "utterances.embedding",
        "utterances.speech_s",
    )
    values: tuple[object, ...] = (None, -1, 1e300, "x", b"", b"\xff" * 64, b"\0" * 7, "a\nb", "\ud7ff", 2**62)
    for i in range(count):
        folder = good.out / f"people{i}"
        if rng.random() < 0.4:
            change = rng.choice(BYTES)
            name = change.__name__
            good.write(f"people{i}/store.db", change(whole, rng))
        else:
            name = rng.choice(cells)
            place = Path(good.write(f"people{i}/store.db", whole))
            table, _, column = name.partition(".")
            with closing(sqlite3.connect(place)) as db:
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (rng.choice(values),))
                db.commit()
        store = ("--store", str(folder))
        commands = (
            ("identify", good.path("a.wav"), *store, *good.model),
            ("enroll", "bob", good.path("b.wav"), *store, *good.model, "--force"),
            ("store", "list", *store),
            ("store", "export", *store, "--out", str(good.out / f"people{i}.npz")),
            ("store", "remove", "ann", *store),
        )
        yield Case("stores", name, rng.choice(commands))


class Harmful:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def archives(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield tar shards of recordings, and checkpoints of other toolkits, that are damaged or lie."""
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        archive.add(good.folder / "a.wav", "u.wav")
        speaker = tarfile.TarInfo("u.spk")
        speaker.size = 1
        archive.addfile(speaker, io.BytesIO(b"s"))
    huge = torch.zeros(1).expand(1_000_000_000)
    contents: dict[str, Any] = {
        "tensors": {"layer1.0.conv1.weight": torch.zeros(4, 4)},
        "a shape beyond its bytes": {"layer1.0.conv1.weight": huge, "pool.linear1.weight": huge},
        "a number among tensors": {"layer1.0.conv1.weight": torch.zeros(1), "x": torch.zeros(1), "y": 1.0},
        "not named": [torch.zeros(2)],
        "deep": None,
        "an object": {"layer1.0.conv1.weight": Harmful(good.out / "unpickled")},
    }  # fmt: skip
    for i in range(count):
        change = rng.choice(BYTES)
        if rng.random() < 0.5:
            path = good.write(f"shard{i}.tar", change(shard.getvalue(), rng))
            listed = good.write(f"{i}-shard.list", path + "\n")
            command: tuple[str, ...] = (
                "embed",
                "--manifest",
                listed,
                "--out",
                str(good.out / f"t{i}.npz"),
                *good.model,
            )
            yield Case("archives", f"tar {change.__name__}", command)
            continue
        name = rng.choice(sorted(contents))
        buffer = io.BytesIO()
        if name == "deep":
            buffer.write(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
        else:
            torch.save(contents[name], buffer, pickle_protocol=pickle.DEFAULT_PROTOCOL)
        good.write(
            f"checkpoint{i}/config.yaml", text(b"model: ECAPA_TDNN\nmodel_args:\n  feat_dim: 80\n", rng)
        )
        data = change(buffer.getvalue(), rng) if rng.random() < 0.5 else buffer.getvalue()
        path = good.write(f"checkpoint{i}/avg_model.pt", data)
        kind = rng.choice(("wespeaker", "3dspeaker", "taoruijie", "voxceleb_trainer"))
        source = path if kind in ("taoruijie", "voxceleb_trainer") else str(Path(path).parent)
        yield Case(
            "archives",
            f"checkpoint, {name}",
            ("import", kind, source, "--out", str(good.out / f"imported{i}")),
        )
