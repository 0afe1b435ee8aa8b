"""The commands for training: demo, run, prepare, train; and heads, which draws the training losses."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif._util import extras
from speakerverif.cli import listing, options
from speakerverif.cli._compute import prepare_compute
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.config import Recipe

LISTS = (
    "our TSV; a Kaldi folder; SpeechBrain's .csv; WeSpeaker's .list, raw or of shards; Lhotse's cuts; .rttm"
)


def add_demo(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    command.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write to (default: demo)"
    )
    options.add_compute(command)
    options.add_seed(command)


def add_run(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add = command.add_argument
    add(
        "recipe",
        type=Path,
        metavar="RECIPE",
        help="recipe to run: a TOML file, or a name that `speakerverif list recipes` shows",
    )
    add("--data", type=Path, metavar="DIR", help="folder of the corpus, or of what `prepare` wrote for it")
    options.add_places(command)
    add("--out", type=Path, metavar="DIR", help="folder to write to (default: out/ and the recipe's name)")
    add(
        "--stages",
        metavar="A,B",
        help="run only these stages of prepare,train,finetune,embed,backend,calibrate,score,report",
    )
    _add_bad_files(command)
    options.add_assignments(command)
    options.add_compute(command)
    options.add_seed(command)


def add_prepare(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare`."""
    add = command.add_argument
    add("corpus", metavar="CORPUS", help="name of the corpus")
    add("--root", type=Path, metavar="DIR", help="folder of the corpus")
    options.add_places(command)
    add("--partial", action="store_true", help="take a corpus of which parts are missing (voxceleb)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write the lists to")


def add_train(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add = command.add_argument
    add(
        "recipe",
        type=Path,
        metavar="RECIPE",
        help="recipe to train by: a TOML file, or a name that `speakerverif list recipes` shows",
    )
    add("--out", type=Path, required=True, metavar="MODEL", help="model folder to write")
    add(
        "--from",
        dest="start_from",
        type=Path,
        metavar="MODEL",
        help="model folder to fine-tune, or starter: the built-in model",
    )
    add("--manifest", type=Path, metavar="LIST", help=f"training utterances: {LISTS}")
    add("--audio-root", type=Path, metavar="DIR", help="folder that relative paths in LIST start from")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of the corpus; without --manifest its lists are written to MODEL/data",
    )
    options.add_channel(command)
    _add_bad_files(command)
    options.add_assignments(command)
    options.add_compute(command)
    options.add_seed(command)


def _add_bad_files(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--check",
        choices=("headers", "decode"),
        default="headers",
        help="read this of every training recording before training starts (default: headers)",
    )
    command.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out training recordings that can't be read, by name, instead of refusing to start",
    )


def add_heads(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `heads`."""
    command.add_argument(
        "--out", type=Path, default=Path("heads"), metavar="DIR", help="folder to write to (default: heads)"
    )
    options.add_seed(command)
    options.add_threads(command)


def demo(arguments: argparse.Namespace) -> int:
    """Synthesise speech, train on it and evaluate the model, offline."""
    extras.require("report", "the report of the demo")
    prepare_compute(arguments)
    from speakerverif.demos.demo import demo

    demo(arguments.out, device=arguments.device, seed=arguments.seed)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run the stages of a recipe."""
    prepare_compute(arguments)
    from speakerverif.evaluation.describe import format_record
    from speakerverif.training.distributed import processes
    from speakerverif.training.recordings import BadFiles
    from speakerverif.training.stages import run

    recipe = _recipe(arguments)
    stages = tuple(arguments.stages.split(",")) if arguments.stages else None
    if stages is None or "report" in stages:
        extras.require("report", "the stage report")
    out = arguments.out or Path("out") / recipe.name
    with processes(arguments.device) as device:
        records = run(
            recipe,
            out,
            data_dir=arguments.data,
            stages=stages,
            device=device,
            places=options.places(arguments),
            bad_files=BadFiles(arguments.check, arguments.skip_bad),
        )
        if stages is None or "score" in stages:
            for record in records.values():
                print(format_record(record) + "\n")
        page = out / "report" / "index.html"
        if (stages is None or "report" in stages) and page.is_file():
            print(f"report: {page}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """Check a corpus and write its manifests and trial lists."""
    from speakerverif._util import registry
    from speakerverif.corpora._prepare import prepare

    registry.trust([arguments.corpus])
    choices = {**options.places(arguments), **({"partial": True} if arguments.partial else {})}
    for note in prepare(arguments.corpus, arguments.root, arguments.out, **choices).notes:
        print(note)
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train a recipe's model, continuing an interrupted training."""
    prepare_compute(arguments)
    from speakerverif.audio.reading import Files
    from speakerverif.data.formats.manifests import read_training_manifest
    from speakerverif.data.manifest import Manifest
    from speakerverif.inference.channels import each_channel
    from speakerverif.training.distributed import processes
    from speakerverif.training.recordings import BadFiles
    from speakerverif.training.stages import train_recipe

    # As an assignment, so that a recipe without an encoder takes the model's.
    start = arguments.start_from
    recipe = _recipe(arguments, [] if start is None else [f"train.start_from={json.dumps(str(start))}"])
    path = arguments.manifest
    manifest = read_training_manifest(path, arguments.audio_root) if path else None
    source = Files(None if arguments.channel == "each" else arguments.channel)
    if arguments.channel == "each":
        if manifest is None:
            raise InputError("--channel each takes the channels of a list: name it with --manifest")
        manifest = Manifest.from_utterances(each_channel(manifest, source))
    with processes(arguments.device) as device:
        model = train_recipe(
            recipe,
            arguments.out,
            manifest=manifest,
            data_dir=arguments.data,
            device=device,
            source=source,
            bad_files=BadFiles(arguments.check, arguments.skip_bad),
        )
        print(model)
    return 0


def heads(arguments: argparse.Namespace) -> int:
    """Draw the training heads."""
    extras.require("report", "drawing the heads")
    prepare_compute(arguments)
    from speakerverif.demos.head_gallery import write

    print(write(arguments.out, arguments.seed or 0))
    return 0


def _recipe(arguments: argparse.Namespace, further: list[str] | None = None) -> "Recipe":
    from speakerverif.config import load_recipe

    seed = [] if arguments.seed is None else [f"seed={arguments.seed}"]
    assignments = [*arguments.assignments, *seed, *(further or [])]
    return load_recipe(listing.recipe_path(arguments.recipe), assignments)
