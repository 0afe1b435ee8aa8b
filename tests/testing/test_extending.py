"""The examples of docs/extending.md, run as they stand there, and variants of them that break a promise."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakerverif._util import registry
from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from speakerverif.testing import check_backend, check_corpus, check_encoder, check_head

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text("utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", TEXT, re.S | re.M))
PLAIN_BLOCKS = re.findall(r"(?<!:)\n\n```(\w*)\n(.*?)^```", TEXT, re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the document, in which Python looks for modules; nothing is trusted yet."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted", set())
    monkeypatch.delenv(registry.TRUSTED_MODULES, raising=False)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def change(folder: Path, module: str, *replacements: tuple[str, str]) -> str:
    """Replace text in a module of the document, and return the module's name."""
    path = folder / "my_package" / f"{module}.py"
    text = path.read_text()
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return f"my_package.{module}"


def test_the_document_checks_and_uses_its_parts(
    folder: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(FILES) == {f"my_package/my_{kind}.py" for kind in ("encoder", "head", "backend", "corpus")} | {
        "recipe.toml"
    }
    (checks,) = (text for language, text in PLAIN_BLOCKS if language == "python")
    exec(checks, {"RECORDINGS": tiny_corpus})
    registry._trusted.clear()
    forget()

    (commands,) = (text for language, text in PLAIN_BLOCKS if not language)
    shutil.copytree(tiny_corpus, folder / "RECORDINGS")
    statuses = []
    for line in commands.splitlines():
        word, *arguments = line.split()
        if word == "export":
            name, _, value = arguments[0].partition("=")
            monkeypatch.setenv(name, value)
            registry._trusted.clear()  # the next command is another process
            forget()
        else:
            statuses.append(main(arguments))
    assert statuses == [0, 0]
    assert (folder / "out" / "scores" / "trials.txt").is_file()

    monkeypatch.delenv(registry.TRUSTED_MODULES)
    registry._trusted.clear()
    forget()
    assert main(["info", "out/model"]) == 2
    assert "my_package.my_encoder is a module from outside this package" in capsys.readouterr().err
    assert "my_package.my_encoder" not in sys.modules


POOL, FRAMES = "self.pooling = Stat", "        frames = features.transpose(1, 2)\n"
REMEMBER = """        if not self.training:
            features = features + 0.01 * getattr(self, "before", 0)
            self.before = features[:1, :1].clone()
"""
ENCODERS = {
    "what lies beyond num_frames changes embeddings": [("if num_frames is not None:", "if False:")],
    "in training, what lies beyond num_frames": [("transpose(1, 2), num_frames)", "transpose(1, 2), None)")],
    "mask it in every layer, batch norms too": [
        (POOL, f"self.norm = nn.BatchNorm1d(num_mels)\n        {POOL}"),
        (FRAMES, FRAMES.replace("features.transpose(1, 2)", "self.norm(features.transpose(1, 2))")),
    ],
    "than alone|is random, or remembers": [(FRAMES, REMEMBER + FRAMES)],
    "than alone|is random": [("self.pooling(frames", "self.pooling(nn.functional.dropout(frames, 0.1)")],
    "unused.weight gets no gradient": [(POOL, f"self.unused = nn.Linear(2, 2)\n        {POOL}")],
    "embedding_dim: found None": [("self.embedding_dim = config", "self.width = config")],
    r"TypeError: .*forward\(\)": [(", num_frames: Tensor | None = None", "")],
    r"my_encoder\.py:\d+: RuntimeError|RuntimeError": [
        ("self.embedding(self", "self.embedding.double()(self")
    ],
    "overwrites the features": [
        (FRAMES, "        with torch.no_grad():\n            features.abs_()\n" + FRAMES)
    ],
    r"build\(\) takes 1 positional argument": [("config: Config, num_mels: int) ->", "config: Config) ->")],
}


@pytest.mark.parametrize("message", ENCODERS)
def test_an_encoder_that_breaks_a_promise_is_caught(folder: Path, message: str) -> None:
    name = change(folder, "my_encoder", *ENCODERS[message])
    with pytest.raises(InputError, match=rf"^encoder my_package\.my_encoder: .*({message})"):
        check_encoder(name, {"channels": 8})


METHOD = "    def {}(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:\n"
UNCHECKED = METHOD.format("forward") + "        return self.loss(embeddings, labels)\n\n"
SCALED = METHOD.format("loss") + (
    "        loss, cosines = super().loss(embeddings, labels)\n        return loss, 30 * cosines\n\n"
)
HEADS = {
    "expected a speakerverif.heads.Head": [
        ("return MyHead(config, embedding_dim, num_speakers)", "return object()")
    ],
    "equal to class weights, torch.float32: .*not finite": [
        ("return cosine -", "return cosine.acos().cos() -")
    ],
    "cosines exceed 1": [("    def target", SCALED + "    def target")],
    "not float32|RuntimeError": [("    def target", UNCHECKED + "    def target")],
    "a hundred steps along the gradient": [("return cosine -", "return -cosine -")],
}


@pytest.mark.parametrize("message", HEADS)
def test_a_head_that_breaks_a_promise_is_caught(folder: Path, message: str) -> None:
    name = change(folder, "my_head", *HEADS[message])
    with pytest.raises(InputError, match=rf"^head my_package\.my_head: .*({message})"):
        check_head(name)


SCORE = "\n    def score(self, *arguments):\n        scores = super().score(*arguments)\n        return "


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SCORE + "scores.astype(np.float32)\n", "expected scores float64 of shape"),
        (SCORE + "-scores\n", "targets don't score higher"),
        (SCORE + "scores - scores.mean()\n", "depends on the other trials"),
        ("\n    arrays = ('mean',)\n", "loaded, it scores otherwise|ValueError|AttributeError"),
    ],
)
def test_a_back_end_that_breaks_a_promise_is_caught(folder: Path, method: str, message: str) -> None:
    name = change(folder, "my_backend", ("\n\ndef build", f"{method}\n\ndef build"))
    with pytest.raises(InputError, match=rf"^back end my_package\.my_backend: .*({message})"):
        check_backend(name)


CORPORA = {
    "a second run writes other lists": ("default_rng(0)", "default_rng()"),
    "an empty folder: expected an InputError": (
        "    if not paths:",
        "    if not paths:\n        return None\n    if False:",
    ),
    "[Nn]o such file": ("audio_root=root", "audio_root=out"),
}


@pytest.mark.parametrize("message", CORPORA)
def test_a_corpus_that_breaks_a_promise_is_caught(folder: Path, tiny_corpus: Path, message: str) -> None:
    name = change(folder, "my_corpus", CORPORA[message])
    with pytest.raises(InputError, match=rf"^corpus my_package\.my_corpus: .*({message})"):
        check_corpus(name, tiny_corpus)


def test_a_recipe_is_checked_before_anything_is_prepared(
    folder: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, "my_encoder", ("if num_frames is not None:", "if False:"))
    assert main(["run", "recipe.toml", "--data", str(tiny_corpus), "--out", "out"]) == 2
    assert "what lies beyond num_frames" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert main(["train", "recipe.toml", "--data", str(tiny_corpus), "--out", "model"]) == 2
    assert not (folder / "model").exists()
