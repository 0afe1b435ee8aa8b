"""Each row of `docs/formats.md` about lists and tables is held by cases: what is read, and what is refused."""

import gzip
import io
import json
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.formats.tables import read_table
from speakerverif.data.manifest import Utterance
from speakerverif.data.metadata import read_columns
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import read_enroll_map, read_speakers
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
OURS = (
    "Every text list",
    "Lists of recordings",
    "Trial lists",
    "Score files",
    "Tables of embeddings",
    "Other lists",
)
Good = tuple[str, Any, Any]  # name, content, what is read
Bad = tuple[str, Any, str]  # name, content, pattern of the reason


def rows_of_the_document() -> set[str]:
    sections = re.split(r"^## ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    text = "\n".join(s for s in sections if s.partition("\n")[0] in OURS)
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return set(rows) - {"property", "list", "file", "table"}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        for name, part in content.items():
            write(path / name, part)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def sound(samples: int = 1600) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(samples), 16000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def shard(**files: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def arrays(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"ids": np.array(["a", "b"]), "embeddings": np.eye(2)} | changes)
    return file.getvalue()


def parquet(**columns: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def cut(**changes: Any) -> str:
    source = {"type": "file", "channels": [0], "source": "r.flac"}
    row = {"id": "a", "start": 1.0, "duration": 2.0, "type": "MonoCut", "supervisions": [{"speaker": "s"}]}
    return json.dumps(row | {"recording": {"sources": [source]}} | changes)


def stereo(*channels: int) -> dict[str, Any]:
    return {"recording": {"sources": [{"type": "file", "channels": channels, "source": "r.flac"}]}}


def listed(path: Path) -> list[Utterance]:
    return list(read_manifest(path, "/c"))


def trials(path: Path) -> tuple[list[str], list[str], list[bool] | None]:
    found = TrialList.read(path)
    return found.enroll_ids(), found.test_ids(), None if found.labels is None else found.labels.tolist()


def scores(path: Path) -> list[float]:
    write(path.parent / "trials", "1\ta 1\tb\n0\ta 1\tc\n" if "tab" in path.name else "1 a b\n0 a c\n")
    values: list[float] = ScoreList.read(path, TrialList.read(path.parent / "trials")).scores.tolist()
    return values


def table(path: Path) -> list[tuple[str, list[float]]]:
    found = read_table(path)
    return [(name, row.tolist()) for name, row in zip(found.ids, found.embeddings, strict=True)]


def pairs(path: Path) -> dict[str, str]:
    return read_speakers(path, ["a"])


def models(path: Path) -> dict[str, list[str]]:
    return read_enroll_map(path)


def columns(path: Path) -> dict[str, dict[str, str]]:
    return {column.name: dict(column.values) for column in read_columns([str(path)], ["a", "b"], {})}


TSV = "id\tpath\tspeaker\n"
TWO = (["a", "a"], ["b", "c"], [True, False])
ARK = b"u " + sound()
SCORES = [0.5, -1.0]
VECTORS = [("a", [1.0, 0.0]), ("b", [0.0, 1.0])]
KALDI_ARK = b"".join(
    name + b" \0BFV \4" + struct.pack("<iff", 2, *vector) for name, vector in ((b"a", (1, 0)), (b"b", (0, 1)))
)
CASES: dict[str, tuple[Callable[[Path], Any], list[Good], list[Bad]]] = {
    "encoding": (
        listed,
        [
            ("m.tsv", "\ufeff" + TSV + "ü\ta.wav\ts\n", [Utterance("ü", "/c/a.wav", "s")]),
            ("m.csv", "\ufeffID,wav\na,a.wav\n", [Utterance("a", "/c/a.wav", "")]),
            ("k", {"wav.scp": "\ufeffa a.wav\n"}, [Utterance("a", "/c/a.wav", "")]),
        ],
        [
            ("m.tsv", (TSV + "a\ta.wav\tRené\n").encode("latin-1"), "line 2: the speaker is not UTF-8"),
            (
                "m.tsv",
                (TSV + "a\tRené.wav\ts\n").encode("latin-1"),
                r":2: no such file, .* Latin-1 .* 'René\.wav'",
            ),
            ("m.csv", "ID,wav\na,René.wav\n".encode("latin-1"), r":2: not UTF-8; as Latin-1 .*'a,René\.wav'"),
            (
                "k",
                {"wav.scp": "a a.wav\n", "utt2spk": "a Ren\xe9\n".encode("latin-1")},
                "utt2spk:1: not UTF-8",
            ),
            ("m.tsv", (TSV + "a\ta.wav\ts\n").encode("utf-16"), "UTF-16"),
            ("m.tsv", (TSV + "a\ta.wav\ts\n").encode("utf-32"), "UTF-32"),
            ("m.tsv", (TSV + "a\ta.wav\ts\n").encode("utf-16-le"), ":1: a NUL byte.*UTF-16"),
        ],
    ),
    "control characters": (
        listed,
        [
            ("m.tsv", TSV.replace("\n", "\r\n") + "a\ta.wav\ts\r\n", [Utterance("a", "/c/a.wav", "s")]),
            (
                "m.tsv",
                TSV + "a\xa0b\ta.wav\t\u4e00\u200d\n",
                [Utterance("a\xa0b", "/c/a.wav", "\u4e00\u200d")],
            ),
        ],
        [
            ("m.tsv", TSV + "a\ta.wav\ts\nb\x00\tb.wav\ts\n", ":3: a NUL byte"),
            ("m.tsv", TSV + "a\x1b[1m\ta.wav\ts\n", r":2: the control character U\+001B"),
            ("m.tsv", TSV + "a\x85\ta.wav\ts\n", r":2: the control character U\+0085"),
            ("m.tsv", (TSV + "a\ta.wav\ts\n").replace("\n", "\r"), ":1: a carriage return within a line"),
            (
                "m.list",
                json.dumps({"key": "a\nb", "wav": "a.wav"}),
                "line 1: a tab or another control character",
            ),
            ("m.tsv", TSV + "a\ta.wav\ts\n\ufeff" + TSV, ":3: a byte-order mark within .* lists joined"),
            ("m.csv", "ID,wav\na\u200b,a.wav\n", r":2: the invisible character U\+200B"),
            ("m.tsv", TSV + "a\ta.wav\ts\xa0\n", r":2: the invisible character U\+00A0; .* plain spaces"),
            ("k", {"wav.scp": "\u3000a a.wav\n"}, r"wav\.scp:1: the invisible character U\+3000"),
            ("m.tsv", TSV + "a\u2028b\ta.wav\ts\n", r":2: the invisible character U\+2028"),
            ("m.jsonl", '{"key": "a\\u2060", "wav": "a"}', "line 1: an invisible character in the id"),
            ("m.jsonl", '{"key": "a\\u00a0", "wav": "a"}', "line 1: blanks around the id"),
            ("m.jsonl", '{"key": "\\ud800", "wav": "a"}', "line 1: half a character .* in the id"),
            ("m.jsonl", '{"key": "a", "wav": "\\udfff"}', "line 1: half a character .* in the path"),
            (
                "m.list",
                json.dumps({"key": "a", "wav": "a\0.wav"}),
                "line 1: a tab or another control .* path",
            ),
        ],
    ),
    "other files": (
        listed,
        [("m.tsv.gz", gzip.compress((TSV + "a\ta.wav\ts\n").encode()), [Utterance("a", "/c/a.wav", "s")])],
        [
            ("m.tsv", gzip.compress(b"x"), r"gzip data; .* \.gz"),
            ("m.tsv", arrays(), "zip archive"),
            ("m.tsv", sound(), "a WAV file"),
            ("m.jsonl.gz", gzip.compress((b" " * 999_999 + b"\n") * 300, 1), "unpacks to more than 256 MB"),
            ("m.tsv.gz", gzip.compress(TSV.encode() * 99)[:-9], "damaged"),
            ("m.jsonl", b"x" * 10_000_000, r"a line of more than 1,048,576 bytes: is it a text list\?"),
        ],
    ),
    "numbers": (
        listed,
        [
            (
                "m.tsv",
                TSV[:-1] + "\tstart_s\tduration_s\na\ta.wav\ts\t1e1\t.5\n",
                [Utterance("a", "/c/a.wav", "s", 10.0, 0.5)],
            )
        ],
        [
            *(
                ("m.tsv", TSV[:-1] + f"\tduration_s\na\ta.wav\ts\t{text}\n", "line 2: duration_s is not")
                for text in ("nan", "inf", "-1", "0", "1_0", "1e9", "１", "1e999")
            ),
            *(
                ("m.csv", f"ID,wav,start,stop\na,a.wav,{start},{stop}\n", "line 2: ")
                for start, stop in (("nan", "nan"), ("0", "inf"), ("5", "5"), ("9", "1"), ("-1", "1"))
            ),
            ("k", {"wav.scp": "r a.wav\n", "segments": "u r 0 inf\nw r 0 2\n"}, "line 1: segments: 'inf'"),
            ("k", {"wav.scp": "r a.wav\n", "segments": "u r 2 1\n"}, "line 1: .*-1 s long"),
            ("m.jsonl", cut(duration=float("nan")), "line 1: NaN is no number"),
            ("m.jsonl", cut(start=10**400), "line 1: "),
        ],
    ),
    "ids": (
        listed,
        [("m.list", json.dumps({"key": "a b", "wav": "a b.wav"}), [Utterance("a b", "/c/a b.wav", "")])],
        [
            ("m.tsv", TSV + "\ta.wav\ts\n", "line 2: empty id or path"),
            ("m.csv", "ID,wav\n,a.wav\n", "line 2: an empty id"),
            ("m.tsv", TSV + "a\ta\ts\n\nb\tb\ts\na\tc\ts\n", "'a' is repeated: lines 2 and 5"),
            ("m.csv", 'ID,wav\na,"a\nb"\na,b\n', "line 2: a tab or another"),
            ("m.csv", "ID,wav\na,a\n\na,b\n", "'a' is repeated: lines 2 and 4"),
            ("k", {"wav.scp": "a a\na b\n"}, "line 2: .*'a' is repeated, as in line 1"),
            ("k", {"wav.scp": "r a\n", "segments": "u r 0 1\nu r 1 2\n"}, "'u' is repeated: lines 1 and 2"),
            ("m.jsonl", cut() + "\n" + cut(), "'a' is repeated: lines 1 and 2"),
            ("m.list", json.dumps({"key": "a" * 1025, "wav": "a"}), "1,025 bytes"),
        ],
    ),
    "wrong rows": (
        listed,
        [("m.tsv", TSV + "\n \t \n\na\ta\ts\n\n", [Utterance("a", "/c/a", "s")])],
        [
            (
                "m.tsv",
                TSV + "a\n" * 9 + "b\tb\ts\n",
                "9 wrong rows: line 2: 1 column, expected 3: 'a'.*; and 4 more",
            )
        ],
    ),
    "our `.tsv`": (
        listed,
        [
            (
                "m.tsv",
                "channel\tspeaker\tpath\tid\n2\t\tmy a.wav\ta\n\ts\tb.wav\tb c\n",
                [Utterance("a", "/c/my a.wav", "", channel=2), Utterance("b c", "/c/b.wav", "s")],
            )
        ],
        [
            ("m.tsv", "id\tpath\n", r"m\.tsv:1: expected the header"),
            ("m.tsv", TSV[:-1] + "\tgender\n", "expected the header.*'gender'"),
            ("m.tsv", TSV[:-1] + "\tid\n", "expected the header"),
            ("m.tsv", TSV + "a\ta\n", "line 2: 2 columns, expected 3"),
            ("m.tsv", "", "the file is empty"),
            ("m.tsv", TSV, "no utterances"),
        ],
    ),
    "Kaldi folder": (
        listed,
        [
            (
                "k",
                {"wav.scp": "r my call.wav\n", "segments": "u r 1 2 1\nw r 0 -1\n", "utt2spk": "u s\n"},
                [Utterance("u", "/c/my call.wav", "s", 1.0, 1.0, 2), Utterance("w", "/c/my call.wav", "")],
            ),
            (
                "k",
                {"wav.scp": "a c.sph\nb c.sph\nd d.sph\n", "reco2file_and_channel": "a c A\nb c B\nd d B\n"},
                [Utterance("a", "/c/c.sph", "", channel=1), Utterance("b", "/c/c.sph", "", channel=2)]
                + [Utterance("d", "/c/d.sph", "")],
            ),
            (
                "k",
                {
                    "wav.scp": "a c\nb c\n",
                    "reco2file_and_channel": "b c 2\n",
                    "segments": "u b 1 2\nv b 1 2 0\n",
                },
                [Utterance("u", "/c/c", "", 1.0, 1.0, 2), Utterance("v", "/c/c", "", 1.0, 1.0, 1)],
            ),
        ],
        [
            ("k", {"wav.scp": "a sox x |\nb\n"}, "2 wrong rows: line 1: .*a command.*line 2: "),
            ("k", {"wav.scp": "r a\n", "segments": "u q 0 1\n"}, "line 1: segments: 'q' is not in wav.scp"),
            (
                "k",
                {"wav.scp": "r a\n", "segments": "u r 0 1 left\n"},
                "line 1: segments: 'left' is no channel",
            ),
            ("k", {"wav.scp": "a a\n", "utt2spk": "a s\na t\n"}, r"'s' \(line 1\) and 't' \(line 2\)"),
            ("k", {"wav.scp": "a a\n", "utt2spk": "a s t\n"}, "line 1: 3 columns, expected 2"),
            *(
                (
                    "k",
                    {"wav.scp": "a a\nb a\n", "reco2file_and_channel": row},
                    "line 1: reco2file_and_channel: ",
                )
                for row in ("a a C\n", "a a\n", "a a 0\n", "a a A x\n")
            ),
            ("k", {"wav.scp": ""}, "no utterances"),
            ("k", {"other": ""}, "wav.scp: No such file"),
        ],
    ),
    "Kaldi `wav.ark:N`": (
        lambda path: list(read_manifest(path)),
        [
            ("k", {"wav.scp": "u w.ark:2\n", "w.ark": ARK}, lambda k: [Utterance("u", f"{k}/w.ark:2", "")]),
            (
                "k",
                {"wav.scp": "u w.ark:2[160:319]\n", "w.ark": ARK},
                lambda k: [Utterance("u", f"{k}/w.ark:2", "", 0.01, 0.01)],
            ),
            (
                "k",
                {"wav.scp": "r w.ark:2[160:1599]\n", "w.ark": ARK, "segments": "u r 0.01 -1\n"},
                lambda k: [Utterance("u", f"{k}/w.ark:2", "", 0.02, 0.08)],
            ),
        ],
        [
            ("k", {"wav.scp": "u w.ark:3[0:1]\n", "w.ark": ARK}, "line 1: .*no WAV file begins there"),
            ("k", {"wav.scp": "u w.ark:2[9:1]\n", "w.ark": ARK}, "line 1: .*the first sample before"),
            ("k", {"wav.scp": "u w.ark:2[0:]\n", "w.ark": ARK}, r"line 1: .*\[first:last\]"),
            (
                "k",
                {"wav.scp": "u w.ark:2[0:9]\n", "w.ark": ARK[:6] + b"\xff" * 4 + ARK[10:]},
                "doesn't state its length",
            ),
        ],
    ),
    "SpeechBrain `.csv`": (
        listed,
        [
            (
                "m.csv",
                'ID, wav, start, stop, spk_id\n"a, b","my, a.wav",16000,32000,s\nc,$data_root/c.wav,,,\n',
                [Utterance("a, b", "/c/my, a.wav", "s", 1.0, 1.0), Utterance("c", "/c/c.wav", "")],
            ),
            (
                "m.csv",
                "ID,wav,channel\na,a.wav,2\nb,a.wav,\n",
                [Utterance("a", "/c/a.wav", "", channel=2), Utterance("b", "/c/a.wav", "")],
            ),
        ],
        [
            ("m.csv", "ID,wav,spk_id\na,a.wav\n", "line 2: 2 columns, expected 3"),
            ("m.csv", "ID,wav\na,a,b\n", "line 2: 3 columns, expected 2"),
            ("m.csv", 'ID,wav\na,"a.wav\nb,b.wav\n', r"m\.csv:2: not a CSV row"),
            ("m.csv", "ID,wav,wav\na,a,b\n", "columns given twice: wav"),
            ("m.csv", "ID,wav,channel\na,a,left\n", "line 2: 'left' is no channel"),
            ("m.csv", "ID,wav,channel\na,a,0\n", "line 2: channel 0; channels are counted from 1"),
            ("m.csv", "id,path\n", "expected the columns ID and wav; found id, path"),
        ],
    ),
    "WeSpeaker raw `.list`": (
        listed,
        [("m.list", '{"key": "a", "wav": "a.wav", "spk": "s"}\n', [Utterance("a", "/c/a.wav", "s")])],
        [
            ("m.list", '{"key": "a", "wav": "a", "key": "b"}\n', "line 1: 'key' is given twice"),
            ("m.list", '{"key": ["a"], "wav": "a"}\n', "line 1: expected a JSON object"),
            ("m.list", '{"key": "a", "wav": NaN}\n', "line 1: NaN"),
            ("m.list", '{"key": "a"}\n{"key"\n', "2 wrong rows"),
            ("m.jsonl", "[" * 100_000 + "\n", "line 1: "),
        ],
    ),
    "WeSpeaker shard `.list`": (
        listed,
        [
            (
                "m.list",
                "{here}/0.tar\n",
                lambda m: [Utterance("a", f"{m.parent}/0.tar:1536:3244", "s")],
            )
        ],
        [
            ("m.list", "{here}/z.tar\n{here}/e.tar\n{here}/c.tar\n", "3 wrong rows"),
            ("m.list", "{here}/0.tar\n{here}/0.tar\n", "'a' is repeated: lines 1 and 2"),
        ],
    ),
    "Lhotse cuts `.jsonl`": (
        listed,
        [
            ("m.jsonl", cut(), [Utterance("a", "/c/r.flac", "s", 1.0, 2.0)]),
            ("m.jsonl", cut(**stereo(0, 1), channel=1), [Utterance("a", "/c/r.flac", "s", 1.0, 2.0, 2)]),
            ("m.jsonl", cut(**stereo(1)), [Utterance("a", "/c/r.flac", "s", 1.0, 2.0, 2)]),
            ("m.jsonl", cut(**stereo(0, 1), type="MultiCut"), [Utterance("a", "/c/r.flac", "s", 1.0, 2.0)]),
        ],
        [
            ("m.jsonl", cut(type="MixedCut"), "line 1: a MixedCut"),
            ("m.jsonl", cut(recording={"sources": [{"type": "url", "source": "x"}]}), "line 1: .*found url"),
            ("m.jsonl", cut(supervisions=[{"speaker": "s"}, {"speaker": "t"}]), "line 1: 2 speakers"),
            ("m.jsonl", cut(start="1"), "line 1: "),
            (
                "m.jsonl",
                cut(**stereo(0, 1)),
                r"line 1: channel None of a recording with the channels \[0, 1\]",
            ),
            ("m.jsonl", cut(**stereo(0, 1), channel=2), "line 1: channel 2 of"),
            ("m.jsonl", cut(**stereo(0, 1), channel=True), "line 1: channel True of"),
            ("m.jsonl", cut(duration=True), "line 1: "),
        ],
    ),
    "`.rttm`": (
        lambda path: list(read_manifest(path)),
        [
            (
                "d/meet[v1].rttm",
                "SPEAKER x 2 0 1.5 <NA> <NA> s <NA> <NA>\n;; note\nLEXEME x 1 0 1 hi lex <NA> <NA>\n",
                lambda p: [Utterance("x-0000000-0001500-s", f"{p.parent}/x.wav", "s", 0.0, 1.5, 2)],
            )
        ],
        [
            ("d/m.rttm", "SPEAKR x 1 0 1 <NA> <NA> s\n", "line 1: 'SPEAKR' is no kind of row"),
            ("d/m.rttm", "SPEAKER x 1 0.5 nan <NA> <NA> s <NA> <NA>\n", "line 1: expected 'SPEAKER"),
            ("d/m.rttm", "SPEAKER y 1 0 1 <NA> <NA> s\n", r"m\.rttm:1: 2 files named y\.\*"),
            ("d/m.rttm", "SPEAKER q 1 0 1 <NA> <NA> s\n", r"m\.rttm:1: 0 files named q\.\*"),
        ],
    ),
    "VoxCeleb, VoxSRC": (
        trials,
        [("t", "1 a b\n0 a c\n", TWO)],
        [("t", "1 a b\n0 a c\n2 a d\n", "line 3: expected 0 or 1")],
    ),
    "Kaldi": (
        trials,
        [("t", "a b target\na c nontarget\n", TWO)],
        [("t", "a b target\na c nontarget\na d maybe\n", "line 3: expected nontarget or target")],
    ),
    "CN-Celeb": (trials, [("t", "a b 1\na c 0\n", TWO)], [("t", "1 0 1\n0 1 0\n", "could be either of two")]),
    "VOiCES": (
        trials,
        [("t", "a b tgt\na c imp\n", TWO)],
        [("t", "a b tgt\na c imp\na d target\n", "line 3: expected imp or tgt")],
    ),
    "NIST SRE keys": (
        trials,
        [
            (
                "t",
                "modelid\tsegmentid\tside\ttargettype\tgender\na\tb\ta\ttarget\tf\na\tc\ta\tnontarget\t\n",
                TWO,
            ),
            ("t.csv", "modelid,segmentid,targettype\na,b,target\na,c,nontarget\n", TWO),
            ("t", "modelid\tsegmentid\tside\na\tb\ta\na\tc\ta\n", (*TWO[:2], None)),
        ],
        [
            ("t", "modelid segmentid side\na b a\na b b\n", ":3: .*another side than 'a'"),
            ("t", "modelid\tsegmentid\n", "no trials in it"),
            ("t.csv", "enroll,test,label\n\n", "no trials in it"),
        ],
    ),
    "without labels": (
        trials,
        [("t", "a b\na c\n", (*TWO[:2], None))],
        [("t", "a\nb\n", "most rows have 1 columns"), ("t", "a b c d\n", "most rows have 4 columns")],
    ),
    "with spaces in ids": (
        trials,
        [
            ("t", "1\ta x\tb\n0\ta x\tc d\n", (["a x"] * 2, ["b", "c d"], [True, False])),
            ("t", "a x\tb\na x\tc\n", (["a x"] * 2, ["b", "c"], None)),
            ("t.csv", '1,"a, x",b\n0,"a, x",c\n', (["a, x"] * 2, ["b", "c"], [True, False])),
        ],
        [
            ("t", "1\ta x\tb\n0\t\tc d\n", "line 2: an empty id"),
            ("t.csv", '1,a,b\n0,"a,c\n', r"t\.csv:2: not a CSV row"),
        ],
    ),
    "three columns": (
        scores,
        [("s", "a c -1\na b 0.5\n", SCORES), ("s", "0.5 a b\n-1 a c\n", SCORES)],
        [
            ("s", "a b nan\na c 1\nb c 2\n", "line 1: the score is not a finite number"),
            ("s", "a b 1\na b 2\na c 1\n", "1 pairs stand there with different scores"),
            ("s", "a b 1\n", "no score for 1 trials"),
        ],
    ),
    "four columns": (
        scores,
        [
            ("s", "a b 0.5 target\na c -1 nontarget\n", SCORES),
            ("s", "0.5 a b 1\n-1 a c 0\n", SCORES),
            ("s", "1 a b 0.5\n0 a c -1\n", SCORES),
        ],
        [("s", "a b 0.5 target\na c -1 target\n", "1 labels differ from those of .*: a c")],
    ),
    "NIST SRE output": (
        scores,
        [("s", "modelid\tsegmentid\tside\tLLR\na\tb\ta\t0.5\na\tc\ta\t-1\n", SCORES)],
        [("s", "modelid\tsegmentid\tside\na\tb\ta\n", "expected one column each for enroll, test and score")],
    ),
    "scores between tabs": (
        scores,
        [("tab", "a 1\tb\t0.5\na 1\tc\t-1\n", SCORES), ("tab.csv", '"a 1",b,0.5\n"a 1",c,-1\n', SCORES)],
        [("tab", "a 1\tb\t0.5\n\tc\t-1\n", "line 2: an empty id")],
    ),
    "`.npz`": (
        table,
        [("e.npz", arrays(notes=np.array([None])), VECTORS)],
        [
            ("e.npz", arrays(ids=np.array(["a", None])), "'ids' is of type object"),
            ("e.npz", arrays(embeddings=np.eye(3)), r"expected embeddings \(N, dim\)"),
            ("e.npz", arrays(embeddings=np.full((2, 2), np.nan)), "holds nan"),
        ],
    ),
    "`.ark`": (
        table,
        [("e.ark", KALDI_ARK, VECTORS), ("e.ark", b"a  [ 1 0 ]\nb  [ 0 1 ]\n", VECTORS)],
        [("e.ark", KALDI_ARK[:-1], "cut off"), ("e.ark", KALDI_ARK * 2, "'a' is repeated: rows 1 and 3")],
    ),
    "`.scp`": (
        table,
        [("e.scp", "a /moved/e.ark:2\nb /moved/e.ark:22[0:1]\n", VECTORS)],
        [
            ("e.scp", "a touch x |\n", r"e\.scp:1: expected 'id archive:offset'"),
            ("e.scp", "a e.ark:2[1:2]\n", r"e\.scp:1: \[1:2\] of a vector of 2"),
        ],
    ),
    "`.parquet`": (
        table,
        [("e.parquet", parquet(id=["a", "b"], embedding=[[1.0, 0.0], [0.0, 1.0]]), VECTORS)],
        [
            ("e.parquet", parquet(id=["a", None], embedding=[[1.0], [1.0]]), "1 rows have no id"),
            ("e.parquet", parquet(id=["a", "a"], embedding=[[1.0], [1.0]]), "'a' is repeated"),
            ("e.parquet", parquet(id=["a", "b"], embedding=[[1.0], [1.0, 2.0]]), "not vectors of one length"),
        ],
    ),
    "`utt2spk`": (
        pairs,
        [("utt2spk", "a s\nb t\n", {"a": "s", "b": "t"}), ("m.tsv", TSV + "a\tx\ts\n", {"a": "s"})],
        [("utt2spk", "a s\nb t\na t\n", r"'s' \(line 1\) and 't' \(line 3\)")],
    ),
    "`--enroll-map`": (
        models,
        [("map", "m a b\nn\tc d\n", {"m": ["a", "b"], "n": ["c d"]})],
        [
            ("map", "m a\n\nm b\n", ":3: model 'm' is repeated, as in line 1"),
            ("map", "m\n", ":1: 'm' has no files"),
        ],
    ),
    "`--columns`": (
        columns,
        [("c.tsv", "id\tgender\ta ge\na\tf\t\nb\t\t9\n", {"gender": {"a": "f"}, "a ge": {"b": "9"}})],
        [
            ("c.tsv", "id\tx\na\t1\t2\n", "line 2: 3 columns"),
            ("c.tsv", "id\tx\na\t1\na\t1\n", "line 3: .*repeated"),
        ],
    ),
}


def beside(path: Path) -> None:
    """Write what the lists of the cases point to."""
    here = path.parent
    whole = shard(a_spk=b"s", a_wav=sound())
    for name, content in {
        "0.tar": whole,
        "c.tar": whole[:2000],
        "e.tar": shard(a_spk=b"s"),
        "z.tar": gzip.compress(whole),
        "e.ark": KALDI_ARK,
    }.items():
        if path.name != name:
            write(here / name, content)
    for name in ("x.wav", "x.txt", "._x.wav", "y.wav", "y.flac"):
        write(here / name, b"-")


def test_every_row_of_the_document_has_cases() -> None:
    assert rows_of_the_document() == set(CASES)
    assert all(good and bad for _, good, bad in CASES.values())


@pytest.mark.parametrize(
    ("row", "i"), [(row, i) for row, (_, good, _) in CASES.items() for i in range(len(good))]
)
def test_what_is_read(tmp_path: Path, row: str, i: int) -> None:
    read, good, _ = CASES[row]
    name, content, expected = good[i]
    path = tmp_path / name
    write(path, content.replace("{here}", str(path.parent)) if isinstance(content, str) else content)
    beside(path)
    assert read(path) == (expected(path) if callable(expected) else expected)


@pytest.mark.parametrize(
    ("row", "i"), [(row, i) for row, (*_, bad) in CASES.items() for i in range(len(bad))]
)
def test_what_is_refused(tmp_path: Path, row: str, i: int) -> None:
    read, _, bad = CASES[row]
    name, content, why = bad[i]
    path = tmp_path / name
    write(path, content.replace("{here}", str(path.parent)) if isinstance(content, str) else content)
    beside(path)
    with pytest.raises(InputError, match=why) as caught:
        read(path)
    told = str(caught.value)
    assert "\n" not in told and str(tmp_path) in told and len(told) < 2000


def test_a_path_in_another_encoding_names_its_file(tmp_path: Path) -> None:
    raw = "René.wav".encode("latin-1")
    (Path(str(tmp_path)) / raw.decode("utf-8", "surrogateescape")).write_bytes(sound())
    (tmp_path / "m.tsv").write_bytes(TSV.encode() + b"a\t" + raw + b"\ts\n")
    (utterance,) = read_manifest(tmp_path / "m.tsv")
    assert Path(utterance.path).is_file() and utterance.id == "a"


def test_one_missing_file_does_not_move_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.wav").write_bytes(sound())
    (tmp_path / "data" / "m.csv").write_text("ID,wav\na,a.wav\nb,b.wav\n")
    monkeypatch.chdir(tmp_path)
    assert [u.path for u in read_manifest("data/m.csv")] == ["data/a.wav", "data/b.wav"]
    (tmp_path / "data" / "b.wav").rename("b.wav")
    assert [u.path for u in read_manifest("data/m.csv")] == ["a.wav", "b.wav"]


def test_every_list_starts_at_the_audio_root(tmp_path: Path) -> None:
    lists = {
        "m.tsv": TSV + "a\ta.wav\ts\n",
        "m.csv": "ID,wav\na,a.wav\n",
        "m.list": '{"key": "a", "wav": "a.wav"}\n',
        "k": {"wav.scp": "a a.wav\n"},
    }
    for name, content in lists.items():
        write(tmp_path / name, content)
        assert read_manifest(tmp_path / name, "/root")[0].path == "/root/a.wav"
        assert read_manifest(tmp_path / name)[0].path == str((tmp_path / name).parent / "a.wav").replace(
            f"{tmp_path}/a.wav", f"{tmp_path / name if name == 'k' else tmp_path}/a.wav"
        )


def test_what_separates_trials_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for text, expected in (
        ("1 a\tb\n0 a\tc\n", TWO),  # blanks of both kinds
        ("1\ta\tb \n0\ta \tc\n", TWO),
        ("\n1\ta\tb\n \n0\ta\tc", TWO),
        ("a b\t0\na c\t1\n", (["a", "a"], ["b", "c"], [False, True])),
    ):
        path.write_text(text)
        assert trials(path) == expected


@pytest.mark.parametrize("name", ["m.tsv", "k/wav.scp", "e.scp", "s.list"])
def test_a_name_too_long_for_any_file(tmp_path: Path, name: str) -> None:
    long = "x" * 300
    text = {"m.tsv": f"{TSV}a\t{long}\ts\n", "e.scp": f"a {long}:0\n", "s.list": f"{long}\n"}
    write(tmp_path / name, text.get(name, f"a {long}\n"))  # found by fuzzing
    if name in ("m.tsv", "k/wav.scp"):
        assert len(read_manifest(tmp_path / name.split("/")[0])) == 1
    else:
        with pytest.raises(InputError, match="name too long"):
            (read_table if name == "e.scp" else read_manifest)(tmp_path / name)
