"""Detection of a file's container and the streams in it."""

from collections.abc import Callable
from typing import BinaryIO

from speakerverif.audio.containers import flac, mpeg, ogg, plain, wav
from speakerverif.audio.containers._bytes import read_at
from speakerverif.audio.streams import TOLERANCE_S, Damaged, Stream

# Greatest number of streams searched for in one file.
MAX_STREAMS = 1_000
Parser = Callable[[BinaryIO, int, int], tuple[Stream | list[Stream], int]]

_PARSERS: tuple[tuple[Callable[[bytes], bool], Parser], ...] = (
    (wav.is_wav, wav.wav),
    (wav.is_wave64, wav.wave64),
    (plain.is_aiff, plain.aiff),
    (plain.is_au, plain.au),
    (plain.is_caf, plain.caf),
    (plain.is_sphere, plain.sphere),
    (flac.is_flac, flac.flac),
    (ogg.is_ogg, ogg.ogg),
    (mpeg.is_amr, mpeg.amr),
)
_FFMPEG = ((b"ftyp", 4, "MP4"), (b"\x1a\x45\xdf\xa3", 0, "Matroska"), (b"0&\xb2u\x8ef\xcf\x11", 0, "ASF"))
_NOT_AUDIO = (
    (b"PK\3\4", "a ZIP archive"),
    (b"FORM", "an IFF file of another kind than AIFF"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"\0\5\x16\7", "a note that macOS keeps about another file (AppleDouble)"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
)


def find_streams(file: BinaryIO, size: int) -> list[Stream]:
    """Return the streams of an open file in order; a single one without a decoder where the format is unknown.

    Raises:
        Damaged: what is wrong with the file.
    """
    streams: list[Stream] = []
    at = 0
    while at < size:
        parser = _parser(file, at, size)
        if parser is None:
            if not streams:
                return [_by_other_signs(file, size)]
            if _may_follow(file, at, size, streams[-1]):
                break
            raise Damaged(
                f"{size - at} bytes follow that its header doesn't announce, and that are nothing known: "
                "the header is damaged, or the file is"
            )
        found, at = parser(file, at, size)
        streams += found if isinstance(found, list) else [found]
        if len(streams) > MAX_STREAMS:
            raise Damaged(f"holds more than {MAX_STREAMS} streams")
    return streams


def _parser(file: BinaryIO, at: int, size: int) -> Parser | None:
    head = read_at(file, at, 16)
    for matches, parser in _PARSERS:
        if matches(head):
            return parser
    tagged = mpeg.after_tags(file, at, size) if head[:3] == b"ID3" else at
    behind = read_at(file, tagged, 16)
    if flac.is_flac(behind):
        return flac.flac
    if mpeg.is_adts(behind):
        return mpeg.adts
    return mpeg.mp3 if mpeg.is_mp3(file, at, size) else None


def _may_follow(file: BinaryIO, at: int, size: int, stream: Stream) -> bool:
    """Return whether the bytes after a stream can't be samples: a tag, zeros, a few bytes."""
    few = 64 if stream.pcm is None else TOLERANCE_S * stream.pcm.sample_rate * stream.pcm.frame_bytes
    if size - at <= few or mpeg.before_tags(file, size) <= at:
        return True
    # A chunk whose size is wrong: a name of four letters, and some text.
    if read_at(file, at, 4) in (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX"):
        return True
    while at < size:
        block = read_at(file, at, 1 << 20)
        if block.strip(b"\0"):
            return False
        at += len(block)
    return True


def _by_other_signs(file: BinaryIO, size: int) -> Stream:
    """Return the stream of a file that no parser knows.

    Raises:
        Damaged: it is certainly not a recording: text, a picture, an archive, only zeros; or damaged MPEG audio.
    """
    head = read_at(file, 0, 4096)
    for magic, at, name in _FFMPEG:
        if head[at : at + len(magic)] == magic:
            return Stream(name, 0, size, "ffmpeg")
    for start, what in _NOT_AUDIO:
        if head.startswith(start):
            raise Damaged(f"is no recording but {what}")
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        raise Damaged("is no recording but an HTML page, as a failed download leaves it")
    if not head.strip(b"\0"):
        raise Damaged(f"is no recording: nothing but zeros{'' if size <= len(head) else ' at its beginning'}")
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        shown = head[:40].decode("utf-8", "replace").splitlines()[0]
        raise Damaged(f"is no recording but text: {shown!r}")
    # libsndfile would take what follows for MP3, and write its complaints to the standard error stream.
    behind = mpeg.after_tags(file, 0, size)
    if mpeg.is_sync(read_at(file, behind, 2)):
        raise Damaged("damaged: begins like MP3, but not with two whole frames")
    if behind:
        return Stream("unknown behind an ID3 tag", 0, size, "ffmpeg")
    return Stream("unknown", 0, size, "libsndfile")
