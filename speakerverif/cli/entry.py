"""The entry point of the command line: the groups of commands, and exit statuses.

A command parses, calls one library function and prints. Imports are inside the functions, so that `--help` and scoring
a score file start at once.
"""

import logging
import os
import shlex
import sys
from pathlib import Path

from speakerverif._util import environment, extras
from speakerverif.cli import (
    _outputs,
    calibrate,
    decide,
    embedding,
    listing,
    models,
    options,
    report,
    score,
    segments,
    service,
    sources,
    store,
    training,
)
from speakerverif.cli._console import messages_shown, write_what_the_console_can_show
from speakerverif.cli._parser import Command, Group, Parser, parser_of
from speakerverif.errors import InputError

FAILURE, WRONG_INPUT = 1, 2

GROUPS = (
    Group(
        "compare people",
        (
            Command(
                "verify",
                "compare the speakers of two recordings",
                "speakerverif verify a.wav b.wav",
                (decide.add_verify, options.add_channel, options.add_compute, sources.add_engine),
                decide.verify,
            ),
            Command(
                "enroll",
                "add recordings of a speaker to a store",
                "speakerverif enroll ann a.wav b.flac --store people",
                (store.add_enroll, options.add_channel, options.add_compute, sources.add_engine),
                store.enroll,
            ),
            Command(
                "identify",
                "find the speaker of a recording in a store",
                "speakerverif identify who.wav --store people",
                (decide.add_identify, options.add_channel, options.add_compute, sources.add_engine),
                decide.identify,
            ),
            Command(
                "segments",
                "find speech in recordings",
                "speakerverif segments a.wav --out a.rttm",
                (segments.add_segments,),
                segments.segments,
            ),
            Command(
                "store",
                "list, rename, remove, export, import, back up or migrate enrolled speakers",
                "speakerverif store list --store people",
                (store.add_store,),
                store.run_store,
            ),
            Command(
                "serve",
                "answer over HTTP: verify, enrol, identify, stream, and a page to try them",
                "speakerverif serve --store people",
                (service.add_serve, options.add_compute, sources.add_engine),
                service.serve,
            ),
            Command(
                "listen",
                "say who speaks into the microphone",
                "speakerverif listen --store people",
                (service.add_listen, options.add_compute, sources.add_engine),
                service.listen,
            ),
        ),
    ),
    Group(
        "evaluate",
        (
            Command(
                "embed",
                "write the embeddings of recordings as a table",
                "speakerverif embed a.wav b.flac --out e.npz",
                (embedding.add_embed,),
                embedding.embed,
            ),
            Command(
                "score",
                "score a trial list: EER and minDCF with intervals",
                "speakerverif score trials.txt --audio-root corpus --json record.json",
                (score.add_arguments,),
                score.run,
            ),
            Command(
                "calibrate",
                "fit a calibration or a fusion on people's recordings or labelled trials and store it",
                "speakerverif calibrate --folder people --far 0.01",
                (calibrate.add_arguments, options.add_compute, sources.add_engine),
                calibrate.run,
            ),
            Command(
                "report",
                "write an HTML page on a score file",
                "speakerverif report scores.txt --trials trials.txt --out page",
                (report.add_arguments,),
                report.run,
            ),
        ),
    ),
    Group(
        "train",
        (
            Command(
                "demo",
                "synthesise speech, train, embed, score and report, offline",
                "speakerverif demo --out demo",
                (training.add_demo,),
                training.demo,
            ),
            Command(
                "run",
                "run the stages of a recipe, from where they stopped",
                "speakerverif run speechocean762/ecapa --data corpus --set train.epochs=5",
                (training.add_run,),
                training.run,
            ),
            Command(
                "prepare",
                "check a corpus and write its manifests and trial lists",
                "speakerverif prepare speechocean762 --root corpus --out lists",
                (training.add_prepare,),
                training.prepare,
            ),
            Command(
                "train",
                "train a recipe's model, from where a former training stopped",
                "speakerverif train recipe.toml --manifest train.tsv --out MODEL",
                (training.add_train,),
                training.train,
            ),
            Command(
                "heads",
                "draw the training heads: spheres, target curves and boundaries",
                "speakerverif heads --out heads",
                (training.add_heads,),
                training.heads,
            ),
        ),
    ),
    Group(
        "models",
        (
            Command(
                "info",
                "show what a model folder holds",
                "speakerverif info MODEL",
                (models.add_info,),
                models.info,
            ),
            Command(
                "import",
                "make a model folder of another toolkit's checkpoint",
                "speakerverif import wespeaker FOLDER --out MODEL",
                (models.add_import,),
                models.import_model,
            ),
            Command(
                "export",
                "write a model as one file that runs elsewhere",
                "speakerverif export MODEL --onnx model.onnx",
                (models.add_export,),
                models.export,
            ),
            Command(
                "push",
                "upload a model folder to the Hugging Face hub",
                "speakerverif push MODEL org/name --license cc-by-4.0",
                (models.add_push,),
                models.push,
            ),
        ),
    ),
    Group(
        "this program",
        (
            Command(
                "list",
                "list heads, encoders, back ends, corpora, models or recipes by name",
                "speakerverif list recipes",
                (listing.add_list,),
                listing.show,
            ),
            Command(
                "completion",
                "print a shell's completion script",
                "speakerverif completion bash",
                (listing.add_completion,),
                listing.completion,
            ),
        ),
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 failure, 2 wrong input."""
    environment.prepare()
    write_what_the_console_can_show()
    top = parser()
    arguments = top.parse_args(argv)
    arguments.parser = top
    arguments.command = shlex.join(["speakerverif", *(sys.argv[1:] if argv is None else argv)])
    if argv is None and arguments.run in (training.demo, training.run, training.train):
        from speakerverif._util.allocator import restart_with_kept_memory

        restart_with_kept_memory()
    with messages_shown(arguments.verbosity):
        try:
            _check_current_folder()
            _outputs.check(arguments)
            return int(arguments.run(arguments))
        except InputError as error:
            logging.getLogger(__name__).error(f"speakerverif: {error}")
            return WRONG_INPUT
        except ModuleNotFoundError as error:
            if (advice := extras.advice(error.name or "")) is None:
                raise
            logging.getLogger(__name__).error(f"speakerverif: {advice}")
            return FAILURE
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILURE
        except OSError as error:
            # A file or folder that can't be used and that no reader has named, such as one of another user.
            if error.filename is None:
                raise
            logging.getLogger(__name__).error(f"speakerverif: {error.filename}: {error.strerror}")
            return FAILURE
        except KeyboardInterrupt:
            logging.getLogger(__name__).error("speakerverif: interrupted")
            return FAILURE


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder can't be used ({error.strerror}); change to another") from error


def parser() -> Parser:
    """Return the parser of every command."""
    return parser_of(GROUPS)
