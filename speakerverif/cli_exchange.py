"""The subcommands that exchange models with the world: import, export, push."""

import argparse
import sys
from pathlib import Path


def add_import(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    add = command.add_argument
    add("kind", metavar="KIND", help="speechbrain, wespeaker, 3dspeaker, taoruijie or voxceleb_trainer")
    add("source", metavar="SOURCE", help="the toolkit's file or folder, or org/name on the Hugging Face hub")
    add("--out", type=Path, required=True, metavar="MODEL", help="the model folder to write")


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    command.add_argument("model", type=Path, metavar="MODEL")
    command.add_argument(
        "--onnx", type=Path, required=True, metavar="FILE", help="waveform in, embedding out"
    )


def add_push(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    add = command.add_argument
    add("model", type=Path, metavar="MODEL")
    add("name", metavar="ORG/NAME")
    add("--license", default="", metavar="ID", help="for the card, such as cc-by-4.0")
    add("--private", action="store_true", help="seen by its owner alone, where the repository is made now")


def import_model(arguments: argparse.Namespace) -> int:
    """Write the model folder of another toolkit's checkpoint."""
    from speakerverif.importers import import_model as convert

    foreign = convert(arguments.kind, arguments.source, arguments.out)
    print(
        f"{arguments.out}: {foreign.network.encoder['name']}, {len(foreign.state)} tensors of {foreign.weights_file}"
    )
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model as an ONNX file."""
    from speakerverif.checkpoint import load_model
    from speakerverif.export import export_onnx
    from speakerverif.scoring import Scoring

    folder = load_model(arguments.model)
    least = export_onnx(folder, arguments.onnx)
    scoring = Scoring.load(folder.path, folder.fingerprint).name
    if scoring != "cosine":
        print(
            f"{folder.path} scores by {scoring}; the file's embeddings are compared by cosine",
            file=sys.stderr,
        )
    print(f"{arguments.onnx}: embeddings have a cosine of {least:.6f} or more with the model's own")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Upload a model folder to the Hugging Face hub."""
    from speakerverif.push import push as upload

    print(upload(arguments.model, arguments.name, license=arguments.license, private=arguments.private))
    return 0
