"""The commands for models: info, import, export, push."""

import argparse
import logging
from pathlib import Path

from speakerverif.cli import options
from speakerverif.errors import InputError

logger = logging.getLogger(__name__)


def add_info(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    add = command.add_argument
    add("model", type=Path, nargs="?", metavar="MODEL", help=options.BUILT_IN)
    add("--json", type=Path, metavar="FILE", help="write the facts as a record")


def add_import(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    add = command.add_argument
    add(
        "kind",
        metavar="KIND",
        help="toolkit that wrote it: speechbrain, wespeaker, 3dspeaker, pyannote, nemo, redimnet, taoruijie, "
        "transformers or voxceleb_trainer",
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
    add("model", type=Path, metavar="MODEL", help="model folder")
    add("--onnx", type=Path, metavar="F.onnx", help="write a file for onnxruntime and others")
    add(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="precision of the ONNX file: float16 halves the weights, int8 also computes in it (default: float32)",
    )
    add(
        "--features-in",
        action="store_true",
        help="with --onnx: take features in place of waveforms, for sherpa-onnx and WeSpeaker's runtime",
    )
    add("--pt2", type=Path, metavar="F.pt2", help="write an exported program, for torch without this package")
    add("--torchscript", type=Path, metavar="F.pt", help="write TorchScript, for torch in Python or C++")


def add_push(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    add = command.add_argument
    add("model", type=Path, metavar="MODEL", help="model folder")
    add("name", metavar="ORG/NAME", help="repository on the hub, made where absent")
    add("--license", default="", metavar="ID", help="licence that the card names, such as cc-by-4.0")
    add("--private", action="store_true", help="make a new repository private")


def import_model(arguments: argparse.Namespace) -> int:
    """Convert another toolkit's checkpoint to a model folder."""
    from speakerverif.exchange.importers import assumptions
    from speakerverif.exchange.importers import import_model as convert

    foreign = convert(arguments.kind, arguments.source, arguments.out, arguments.assignments)
    print(
        f"{arguments.out}: {foreign.network.encoder['name']}, {len(foreign.state)} tensors of {foreign.weights_file}"
    )
    print(f"taken to be: {assumptions(foreign)}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Export a model to files that run without this package."""
    wanted = [path for path in (arguments.onnx, arguments.pt2, arguments.torchscript) if path]
    if not wanted:
        raise InputError("export: give --onnx F.onnx, --pt2 F.pt2 or --torchscript F.pt")
    if arguments.precision != "float32" and not arguments.onnx:
        raise InputError("--precision does nothing without --onnx F.onnx")
    if arguments.features_in and not arguments.onnx:
        raise InputError("--features-in does nothing without --onnx F.onnx")
    from speakerverif.exchange.to_onnx import export_onnx
    from speakerverif.exchange.to_torch import export_program, export_torchscript
    from speakerverif.models.folder import read_model_folder

    folder = read_model_folder(arguments.model)
    scoring = folder.scoring().name
    for path in wanted:
        if scoring != "cosine" and path != arguments.onnx:
            logger.warning(f"{path} leaves out how {folder.path} scores: {scoring}; compare by cosine")
    for path in wanted:
        if path == arguments.onnx:
            least = export_onnx(folder, path, arguments.precision, arguments.features_in)
        else:
            least = (export_program if path == arguments.pt2 else export_torchscript)(folder, path)
        print(f"{path}: embeddings have a cosine of {least:.6f} or more with the model's own")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Upload a model folder to the Hugging Face hub."""
    from speakerverif.exchange.push import push as upload

    print(upload(arguments.model, arguments.name, license=arguments.license, private=arguments.private))
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print the description of a model folder."""
    from speakerverif._util.files import write_json
    from speakerverif._util.toml import to_dict
    from speakerverif.models.folder import describe

    model = describe(arguments.model)
    facts = {
        "name": model.recipe.name,
        "path": str(model.path),
        "fingerprint": model.fingerprint,
        "sample_rate": model.sample_rate,
        "embedding_dim": model.embedding_dim,
        "parameters": model.parameters,
        "training_data": model.recipe.data.corpus or None,
        "training_classes": len(model.speakers),
        "trained": model.trained,
        "features": to_dict(model.recipe.features),
        "encoder": model.recipe.encoder,
        "head": model.recipe.head,
    }
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        print(f"{name:16} {value}")
    if arguments.json:
        write_json(arguments.json, facts)
    return 0
