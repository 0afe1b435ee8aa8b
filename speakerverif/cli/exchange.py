"""The subcommands that exchange models with the world: import, export, push."""

import argparse
import sys
from pathlib import Path

from speakerverif.errors import InputError


def add_import(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    add = command.add_argument
    add(
        "kind",
        metavar="KIND",
        help="speechbrain, wespeaker, 3dspeaker, pyannote, taoruijie or voxceleb_trainer",
    )
    add("source", metavar="SOURCE", help="the toolkit's file or folder, or org/name on the Hugging Face hub")
    add("--out", type=Path, required=True, metavar="MODEL", help="the model folder to write")
    add(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="say what the files leave open, or something else than they say: features.window=povey",
    )


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add = command.add_argument
    add("model", type=Path, metavar="MODEL")
    add("--onnx", type=Path, metavar="F.onnx", help="for onnxruntime and others")
    add(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the ONNX file: float16 halves the weights, int8 computes with them too (default: float32)",
    )
    add("--pt2", type=Path, metavar="F.pt2", help="an exported program, for torch alone")
    add("--torchscript", type=Path, metavar="F.pt", help="for torch alone, in C++ too")


def add_push(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    add = command.add_argument
    add("model", type=Path, metavar="MODEL")
    add("name", metavar="ORG/NAME")
    add("--license", default="", metavar="ID", help="for the card, such as cc-by-4.0")
    add("--private", action="store_true", help="seen by its owner alone, where the repository is made now")


def import_model(arguments: argparse.Namespace) -> int:
    """Write the model folder of another toolkit's checkpoint."""
    from speakerverif.exchange.importers import assumptions
    from speakerverif.exchange.importers import import_model as convert

    foreign = convert(arguments.kind, arguments.source, arguments.out, arguments.assignments)
    print(
        f"{arguments.out}: {foreign.network.encoder['name']}, {len(foreign.state)} tensors of {foreign.weights_file}"
    )
    print(f"taken to be: {assumptions(foreign)}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model as files that run without this package."""
    wanted = [path for path in (arguments.onnx, arguments.pt2, arguments.torchscript) if path]
    if not wanted:
        raise InputError("export: give --onnx F.onnx, --pt2 F.pt2 or --torchscript F.pt")
    if arguments.precision != "float32" and not arguments.onnx:
        raise InputError("--precision does nothing without --onnx F.onnx")
    from speakerverif.exchange.to_onnx import export_onnx
    from speakerverif.exchange.to_torch import export_program, export_torchscript
    from speakerverif.models.folder import load_model
    from speakerverif.scoring.scorer import Scoring

    folder = load_model(arguments.model)
    scoring = Scoring.load(folder.path, folder.fingerprint).name
    if scoring != "cosine":
        print(
            f"{folder.path} scores by {scoring}; embeddings of what is exported are compared by cosine",
            file=sys.stderr,
        )
    for path in wanted:
        if path == arguments.onnx:
            least = export_onnx(folder, path, arguments.precision)
        else:
            least = (export_program if path == arguments.pt2 else export_torchscript)(folder, path)
        print(f"{path}: embeddings have a cosine of {least:.6f} or more with the model's own")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Upload a model folder to the Hugging Face hub."""
    from speakerverif.exchange.push import push as upload

    print(upload(arguments.model, arguments.name, license=arguments.license, private=arguments.private))
    return 0
