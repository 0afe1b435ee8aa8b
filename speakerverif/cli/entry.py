"""The command line: one function a subcommand, each parses, calls one library function and prints.

Imports stand inside the functions, so that `--help` and scoring a score file start at once.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from speakerverif.cli import calibrate, decide, exchange, report, score, sources
from speakerverif.errors import InputError

WRONG_INPUT, FAILURE = 2, 1
LISTS = (
    "our TSV; a Kaldi folder; SpeechBrain's .csv; WeSpeaker's .list, raw or of shards; Lhotse's cuts; .rttm"
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 failure, 2 wrong input."""
    arguments = parser().parse_args(argv)
    arguments.command = shlex.join(["speakerverif", *(sys.argv[1:] if argv is None else argv)])
    if argv is None and arguments.run in (_demo, _run, _train):
        from speakerverif._util.allocator import restart_with_kept_memory

        restart_with_kept_memory()
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(f"speakerverif: {error}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        print("speakerverif: interrupted", file=sys.stderr)
        return FAILURE


def parser() -> argparse.ArgumentParser:
    """Return the parser of every subcommand."""
    top = argparse.ArgumentParser(
        prog="speakerverif", description="Speaker verification: is this the same person speaking?"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    command = add("demo", _demo, "synthesise speech, train, embed, score and report, offline")
    command.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="where to write (default: demo)"
    )
    _add_compute(command)
    _add_seed(command)

    command = add("run", _run, "run the stages of a recipe")
    command.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    command.add_argument(
        "--data", type=Path, metavar="DIR", help="the corpus, or a folder of what `prepare` wrote for it"
    )
    _add_places(command)
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: out/<recipe name>)"
    )
    command.add_argument(
        "--stages", metavar="A,B", help="only these, of: prepare,train,finetune,embed,backend,score,report"
    )
    _add_set(command)
    _add_compute(command)
    _add_seed(command)

    command = add("prepare", _prepare, "check a corpus tree, write manifests and trial lists")
    command.add_argument("corpus", metavar="CORPUS")
    command.add_argument("--root", type=Path, metavar="DIR", help="the corpus")
    _add_places(command)
    command.add_argument("--partial", action="store_true", help="take a corpus that is not whole (voxceleb)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")

    command = add("train", _train, "train a recipe's model; resumes by itself where MODEL/training exists")
    command.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    command.add_argument("--out", type=Path, required=True, metavar="MODEL")
    command.add_argument("--manifest", type=Path, metavar="LIST", help=f"training utterances: {LISTS}")
    command.add_argument("--audio-root", type=Path, metavar="DIR", help="of the paths in LIST")
    command.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the corpus, prepared in MODEL/data where no manifest is given",
    )
    _add_set(command)
    _add_compute(command)
    _add_seed(command)

    command = add("embed", _embed, "embed recordings")
    command.add_argument("files", nargs="*", type=Path, metavar="FILE")
    command.add_argument(
        "--manifest",
        type=Path,
        metavar="LIST",
        help=LISTS,
    )
    command.add_argument("--audio-root", type=Path, metavar="DIR", help="of the paths in LIST")
    command.add_argument("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")
    command.add_argument(
        "--crops", type=int, default=0, metavar="N", help="average N crops (default: the whole utterance)"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="E.npz", help="or .ark (and .scp), .parquet"
    )
    command.add_argument("--json", type=Path, metavar="FILE")
    _add_compute(command)
    sources.add_engine(command)
    _add_batch_size(command)

    command = add("score", score.run, "score a trial list: EER and minDCF with intervals")
    score.add_arguments(command)

    for name, run, add_arguments, summary in (
        ("verify", decide.verify, decide.add_verify, "compare the speakers of two recordings"),
        ("calibrate", calibrate.run, calibrate.add_arguments, "fit and store a calibration"),
        ("enroll", decide.enroll, decide.add_enroll, "add recordings of a speaker to a store"),
        (
            "identify",
            decide.identify,
            decide.add_identify,
            "find the speaker of a recording in a store",
        ),
    ):
        command = add(name, run, summary)
        add_arguments(command)
        _add_compute(command)
        sources.add_engine(command)

    command = add("report", report.run, "write a page on a score file, to look at and to listen to")
    report.add_arguments(command)

    command = add("import", exchange.import_model, "make a model folder of another toolkit's checkpoint")
    exchange.add_import(command)

    command = add("export", exchange.export, "write a model as one file that runs anywhere")
    exchange.add_export(command)

    command = add("push", exchange.push, "upload a model folder to the Hugging Face hub")
    exchange.add_push(command)

    command = add("heads", _heads, "pictures of the heads: spheres, target curves and boundaries")
    command.add_argument("--out", type=Path, default=Path("heads"), metavar="DIR", help="default: heads")
    _add_seed(command)
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: the machine's)"
    )

    command = add("info", _info, "what a model folder holds")
    command.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="default: the built-in one")
    command.add_argument("--json", type=Path, metavar="FILE")
    return top


def _add_places(command: argparse.ArgumentParser) -> None:
    for name in ("vox1", "vox2"):
        command.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"VoxCeleb{name[-1]}'s folder")
    command.add_argument(
        "--trials",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="trial lists that are not in VoxCeleb1's folder",
    )


def _add_compute(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: the machine's)"
    )


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's")


def _add_batch_size(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch-size", type=_positive, metavar="N", help="recordings at once, at most")


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: train.epochs=5",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    _prepare_compute(arguments)
    from speakerverif.demos.demo import demo

    demo(arguments.out, device=arguments.device, seed=arguments.seed)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    _prepare_compute(arguments)
    from speakerverif.training.distributed import processes
    from speakerverif.training.stages import STAGES, run

    recipe = _recipe(arguments)
    stages = tuple(arguments.stages.split(",")) if arguments.stages else STAGES
    out = arguments.out or Path("out") / recipe.name
    with processes(arguments.device) as device:
        run(
            recipe,
            out,
            data_dir=arguments.data,
            stages=stages,
            device=device,
            places=_places(arguments),
        )
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from speakerverif.corpora._prepare import prepare

    options = {**_places(arguments), **({"partial": True} if arguments.partial else {})}
    for note in prepare(arguments.corpus, arguments.root, arguments.out, **options).notes:
        print(note)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    _prepare_compute(arguments)
    from speakerverif.data.formats.manifests import read_training_manifest
    from speakerverif.training.distributed import processes
    from speakerverif.training.stages import train_recipe

    recipe = _recipe(arguments)
    given = arguments.manifest
    manifest = read_training_manifest(given, arguments.audio_root) if given else None
    with processes(arguments.device) as device:
        model = train_recipe(recipe, arguments.out, manifest=manifest, data_dir=arguments.data, device=device)
        print(model)
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    _prepare_compute(arguments)
    from speakerverif._util.files import write_json
    from speakerverif.data.formats.manifests import read_manifest
    from speakerverif.data.formats.tables import write_table
    from speakerverif.data.manifest import Utterance
    from speakerverif.inference.embed import embed, print_failures
    from speakerverif.inference.engines import load_model

    if bool(arguments.files) == bool(arguments.manifest):
        raise InputError("give recordings, or a list of them with --manifest")
    utterances = (
        read_manifest(arguments.manifest, arguments.audio_root)
        if arguments.manifest
        else [Utterance(str(path), str(path), "") for path in arguments.files]
    )
    twice = [str(path) for path, count in Counter(arguments.files).items() if count > 1]
    if twice:
        raise InputError(f"given twice: {', '.join(twice)}")
    folder = load_model(arguments.model, arguments.device, arguments.engine)
    table = embed(
        folder,
        utterances,
        device=arguments.device,
        batch_size=arguments.batch_size,
        crops=arguments.crops,
    )
    print_failures(table)
    if not len(table.ids):
        raise InputError("nothing could be embedded; no file was written")
    write_table(table, arguments.out)
    print(
        f"{arguments.out}: {len(table.ids)} of {len(utterances)} recordings, {table.embeddings.shape[1]} dimensions"
    )
    if arguments.json:
        record = {
            "embedded": len(table.ids),
            "failed": dict(table.failed),
            "dim": int(table.embeddings.shape[1]),
            "model": {"name": folder.name, "fingerprint": folder.fingerprint, "engine": folder.engine},
        }
        write_json(arguments.json, record)
    return FAILURE if table.failed else 0


def _heads(arguments: argparse.Namespace) -> int:
    from speakerverif._util import resources
    from speakerverif.demos.head_gallery import write

    resources.use(arguments.threads)
    print(write(arguments.out, arguments.seed or 0))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from speakerverif._util.files import write_json
    from speakerverif._util.toml import to_dict
    from speakerverif.models.folder import load_model
    from speakerverif.models.model import SpeakerModel

    folder = load_model(arguments.model)
    weights = folder.model.parameters() if isinstance(folder.model, SpeakerModel) else None
    facts = {
        "name": folder.name,
        "path": str(folder.path),
        "fingerprint": folder.fingerprint,
        "sample_rate": folder.model.sample_rate,
        "embedding_dim": folder.model.embedding_dim,
        "parameters": None if weights is None else sum(p.numel() for p in weights),
        "training_data": folder.recipe.data.corpus or None,
        "training_classes": len(folder.speakers),
        "trained": folder.trained,
        "features": to_dict(folder.recipe.features),
        "encoder": folder.recipe.encoder,
        "head": folder.recipe.head,
    }
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        print(f"{name:16} {value}")
    if arguments.json:
        write_json(arguments.json, facts)
    return 0


def _places(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return where the user says that VoxCeleb and its lists are."""
    return {name: value for name in ("vox1", "vox2", "trials") if (value := getattr(arguments, name))}


def _recipe(arguments: argparse.Namespace) -> Any:
    from speakerverif.config import load_recipe

    seed = [] if arguments.seed is None else [f"seed={arguments.seed}"]
    return load_recipe(arguments.recipe, arguments.assignments + seed)


def _prepare_compute(arguments: argparse.Namespace) -> None:
    """Set threads and check the device."""
    import torch

    from speakerverif._util import resources

    resources.use(arguments.threads)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"--device {arguments.device}: no CUDA device is there; leave it out to use the CPU")


if __name__ == "__main__":
    sys.exit(main())
