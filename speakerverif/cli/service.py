"""The commands that answer while they run: serve, over HTTP, and listen, at the microphone."""

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif.cli import decide, options

if TYPE_CHECKING:
    from speakerverif.api.service.limits import Limits
    from speakerverif.api.service.recognition import Recognition

RATE = 16000  # Hz, of the microphone
LONGEST_S = 3600

log = logging.getLogger(__name__)


def add_serve(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    add, number = command.add_argument, options.whole_number
    add(
        "--store",
        type=Path,
        required=True,
        metavar="DIR",
        help="store of the enrolled; made where there is none",
    )
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add("--host", default="127.0.0.1", metavar="HOST", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=number(0, 65535), default=8000, metavar="PORT", help="0: any (default: 8000)")
    add("--api-key-file", type=Path, metavar="FILE", help="file of the secret that requests must name")
    add("--keep-audio", action="store_true", help="keep enrolled recordings in the store")
    add("--max-mb", type=number(1, 1000), default=25, metavar="N", help="largest body, MB (default: 25)")
    add(
        "--max-s",
        type=number(1, LONGEST_S),
        default=300,
        metavar="S",
        help="longest recording (default: 300 s)",
    )
    add(
        "--concurrent", type=number(1, 1024), metavar="N", help="computations at once (default: one per core)"
    )
    add("--waiting", type=number(0, 100_000), default=64, metavar="N", help="waiting requests (default: 64)")
    add("--request-s", type=number(1, 3600), default=30, metavar="S", help="time per request (default: 30 s)")
    add("--streams", type=number(0, 10_000), default=16, metavar="N", help="open WebSockets (default: 16)")


def serve(arguments: argparse.Namespace) -> int:
    """Answer requests until interrupted."""
    from speakerverif._util import extras
    from speakerverif._util.resources import cores

    extras.require("serve", "serve")
    from speakerverif.api.service.limits import Limits
    from speakerverif.api.service.server import read_key
    from speakerverif.api.service.server import serve as run

    key = None if arguments.api_key_file is None else read_key(arguments.api_key_file)
    concurrent = arguments.concurrent or cores()
    # Recordings side by side keep the cores busy; threads within one would wait for each other.
    arguments.threads = arguments.threads or max(1, cores() // concurrent)
    limits = Limits(
        body_mb=arguments.max_mb,
        audio_s=arguments.max_s,
        concurrent=concurrent,
        waiting=arguments.waiting,
        request_s=arguments.request_s,
        streams=arguments.streams,
    )
    recognition = _recognition(arguments, limits, create=True)
    health = recognition.health()
    if not health["decides"]:
        log.warning("%s has no operating point: requests decide only with a threshold", health["model"])

    def listening(address: str) -> None:
        print(
            f"{address} answers with {health['model']}, people in {arguments.store}; Ctrl-C ends", flush=True
        )

    run(recognition, limits, arguments.host, arguments.port, key, listening)
    return 0


def add_listen(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `listen`."""
    add = command.add_argument
    add("--store", type=Path, required=True, metavar="DIR", help="store of the enrolled people")
    add("--person", metavar="NAME", help="compare with this person (default: identify)")
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add("--threshold", type=decide.finite, metavar="T", help="accept at this score or above")
    add(
        "--llr-threshold",
        type=decide.finite,
        metavar="L",
        help="accept at this log likelihood ratio or above",
    )
    add(
        "--seconds",
        type=options.whole_number(1, LONGEST_S),
        default=LONGEST_S,
        metavar="S",
        help="how long to listen (default: until Ctrl-C)",
    )


def listen(arguments: argparse.Namespace, chunks: "Iterable[Any] | None" = None) -> int:
    """Show who speaks into the microphone, after every second of new speech.

    Args:
        arguments: of the command line.
        chunks: samples at `RATE` instead of the microphone's, int16 (samples,) each.
    """
    from speakerverif.api.service import microphone
    from speakerverif.api.service.limits import Limits
    from speakerverif.api.service.recognition import Thresholds
    from speakerverif.api.service.streaming import Question

    if chunks is None:
        from speakerverif._util import extras

        extras.require("listen", "listen")
        chunks = microphone.microphone(RATE)
    recognition = _recognition(arguments, Limits(audio_s=LONGEST_S), create=False)
    thresholds = Thresholds(arguments.threshold, arguments.llr_threshold)
    question = Question(RATE, arguments.person, thresholds)
    print("listening; Ctrl-C ends", flush=True)
    for heard in microphone.listen(recognition, chunks, question, arguments.seconds):
        end = "  (end)" if heard.final else ""
        print(f"{heard.speech_s:6.1f} s of speech  {_shown(heard.answer, arguments.person)}{end}", flush=True)
    return 0


def _recognition(arguments: argparse.Namespace, limits: "Limits", create: bool) -> "Recognition":
    """Return the model and the store in the arguments."""
    from speakerverif.api.service.recognition import Recognition
    from speakerverif.inference.enrollment import Store

    folder = decide.load(arguments)
    store = Store(arguments.store, folder.fingerprint, create)
    keep_audio = getattr(arguments, "keep_audio", False)
    return Recognition(folder, store, limits, keep_audio, arguments.device)


def _shown(answer: dict[str, Any], person: str | None) -> str:
    """Return one line about an answer: whom it compares, score, likelihood ratio, decision."""
    if person is not None:
        name, score, llr = person, answer["score"], answer["llr"]
        verdict = {None: "", True: "  same speaker", False: "  different speakers"}[answer["same_speaker"]]
    else:
        name, score = answer["candidates"][0]
        llr = None if answer["llrs"] is None else answer["llrs"][0]
        verdict = f"  {answer['name'] or 'nobody enrolled'}" if answer["decided"] else ""
    ratio = "" if llr is None else f"  log likelihood ratio {llr:6.2f}"
    return f"{name}  score {score:.4f}{ratio}{verdict}"
