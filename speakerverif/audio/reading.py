"""Read audio files: any format, rate and channel count in, mono float32 at the rate asked for out.

WAV, FLAC, Ogg, Opus and MP3 are read with soundfile; what it can't open (m4a/AAC, say) goes through an
`ffmpeg` process. A file that holds less than it claims is an error, never a shorter waveform. A path may name
a file inside a tar archive (`archives.py`).
"""

import math
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from speakerverif._util.tar import part_of
from speakerverif.errors import InputError

# soxr against torchaudio's default resampling: faster, errors of 1e-6 in mid band where that one's are 2e-3,
# flat up to 0.9 of the Nyquist frequency, a stream bit for bit equal to the whole, and no torch to import.
QUALITY = "HQ"
# Decoded around a part that is resampled; the filters reach 0.02 s.
CONTEXT_S = 0.1
# A list rounded to centiseconds may ask for this much more than the file holds; any more is an error.
SLACK_S = 0.01
CHUNK_FRAMES = 1 << 20  # decoded at a time, so that an hour of 48 kHz stereo needs 8 MB


class _NotForSoundfile(Exception):
    """Why ffmpeg must read a file."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate: int
    channels: int
    duration_s: float


def info(path: str | Path) -> AudioInfo:
    """Return what the header says, without decoding.

    Raises:
        InputError: missing, empty or a folder; not audio; cut off, where that shows (WAV, Ogg); ffmpeg needed
            and not there.
    """
    _check_file(path)
    try:
        with _soundfile(path) as sound:
            return AudioInfo(sound.samplerate, sound.channels, sound.frames / sound.samplerate)
    except _NotForSoundfile as reason:
        return _ffmpeg_info(path, reason)


def read(
    path: str | Path, start_s: float = 0.0, duration_s: float | None = None, sample_rate: int = 16000
) -> np.ndarray:
    """Return a file, or the part of it from `start_s` on, as mono samples; only that part is decoded.

    Channels are averaged. A part equals the same samples of the whole file (where resampled, to about 1e-6).

    Args:
        path: any file that soundfile or ffmpeg reads.
        start_s: seconds from the beginning.
        duration_s: seconds; None reads to the end.
        sample_rate: Hz, of the result.

    Returns:
        float32 (samples,), in [-1, 1] for integer formats; NaN and infinity in float files are passed on
        (`quality.assess` names them).

    Raises:
        InputError: as `info`; and where the file has no samples, ends before the part does, or is damaged
            (decodes to fewer samples than its header says, or its decoder fails).
    """
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise InputError(
            f"{path}: asked for {duration_s} s from {start_s} s on; expected a part of positive length"
        )
    stop_s = None if duration_s is None else start_s + duration_s
    with _open(path, start_s, stop_s, sample_rate) as (sound, begin_s):
        same_rate = sound.samplerate == sample_rate
        margin_s = 0.0 if same_rate else CONTEXT_S
        frames = None if stop_s is None else round((stop_s + margin_s - begin_s) * sound.samplerate)
        waveform = np.concatenate(list(_mono_chunks(sound, path, frames)))
        if not same_rate:
            waveform = soxr.resample(waveform, sound.samplerate, sample_rate, quality=QUALITY)
    waveform = waveform[round(start_s * sample_rate) - round(begin_s * sample_rate) :]
    if not len(waveform):
        found = "holds no samples" if start_s == 0 else f"ends before {start_s:g} s"
        raise InputError(f"{path}: {found}")
    if duration_s is None:
        return waveform
    missing_s = duration_s - len(waveform) / sample_rate
    if missing_s > SLACK_S:
        raise InputError(
            f"{path}: ends at {start_s + duration_s - missing_s:g} s; "
            f"asked for {duration_s:g} s from {start_s:g} s on"
        )
    return waveform[: round(duration_s * sample_rate)]


def blocks(path: str | Path, block_s: float, sample_rate: int = 16000) -> Iterator[np.ndarray]:
    """Yield a file of any length in blocks of `block_s` seconds (the last may be shorter), in bounded memory.

    Put together the blocks are exactly `read(path, sample_rate=sample_rate)`.

    Raises:
        InputError: as `read`; damage is found when it is reached.
    """
    size = round(block_s * sample_rate)
    if size < 1:
        raise InputError(f"blocks of {block_s} s at {sample_rate} Hz hold no sample")
    waiting = np.empty(0, np.float32)
    empty = True
    with _open(path, 0.0, None, sample_rate) as (sound, _):
        stream = soxr.ResampleStream(sound.samplerate, sample_rate, 1, dtype="float32", quality=QUALITY)
        for chunk in _mono_chunks(sound, path, None):
            last = len(chunk) < CHUNK_FRAMES
            if sound.samplerate != sample_rate:
                chunk = stream.resample_chunk(chunk, last=last)
            waiting = np.concatenate([waiting, chunk])
            while len(waiting) >= size or (last and len(waiting)):
                yield waiting[:size]
                waiting, empty = waiting[size:], False
    if empty:
        raise InputError(f"{path}: holds no samples")


@contextmanager
def _open(
    path: str | Path, start_s: float, stop_s: float | None, sample_rate: int
) -> Iterator[tuple[sf.SoundFile, float]]:
    """Yield an open sound that stands at or a little before `start_s`, and the second it stands at.

    Where samples will be resampled it stands at a whole second: there the grids of any two rates meet.
    """
    _check_file(path)
    with ExitStack() as stack:
        try:
            sound = stack.enter_context(_soundfile(path))
        except _NotForSoundfile as reason:
            sound = stack.enter_context(_ffmpeg(path, stop_s, reason))
        whole_s = float(max(0, math.floor(start_s - CONTEXT_S)))
        begin_s = start_s if sound.samplerate == sample_rate else whole_s
        first = round(begin_s * sound.samplerate)
        if not sound.seekable():
            for _ in _mono_chunks(sound, path, first):
                pass
        elif first == 0 or first < sound.frames:
            sound.seek(first)
        else:
            raise InputError(f"{path}: ends at {sound.frames / sound.samplerate:g} s, before {start_s:g} s")
        yield sound, begin_s


def _mono_chunks(sound: sf.SoundFile, path: str | Path, frames: int | None) -> Iterator[np.ndarray]:
    """Yield the next `frames` samples (None: all that follow); the last chunk alone is short, maybe empty."""
    seekable = sound.seekable()
    left = sound.frames - sound.tell() if seekable else math.inf
    wanted = left if frames is None else min(frames, left)
    # NumPy scales 16-bit samples in a tenth of libsndfile's time, to the same bits.
    stored = "int16" if sound.subtype == "PCM_16" else "float32"
    done = 0
    while True:
        ask = int(min(CHUNK_FRAMES, wanted - done))
        try:
            chunk = sound.read(ask, dtype=stored, always_2d=True)
        except sf.LibsndfileError as error:
            raise InputError(f"{path}: damaged: {error.error_string}") from error
        done += len(chunk)
        if len(chunk) < ask and seekable:
            raise InputError(
                f"{path}: damaged or cut off: {wanted - done} of {wanted} samples can't be decoded"
            )
        if stored == "int16":
            chunk = chunk * np.float32(1 / 32768)
        yield chunk[:, 0] if chunk.shape[1] == 1 else chunk.mean(axis=1)
        if len(chunk) < CHUNK_FRAMES:
            return


def _check_file(path: str | Path) -> None:
    """Raise `InputError` unless there is a file with something in it."""
    part = part_of(path)
    try:
        found = Path(part.archive if part else path).stat()
    except (OSError, ValueError):
        raise InputError(f"{path}: no such file, or none that may be read") from None
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: is a folder; expected an audio file")
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise InputError(f"{path}: empty file (0 bytes)")


def _soundfile(path: str | Path) -> sf.SoundFile:
    """Return a file opened with soundfile, where its header can be believed about its length.

    Raises:
        _NotForSoundfile: another format; or an MP3 file without a length, which libsndfile then guesses from
            the first frame's bit rate, cutting off what lies beyond.
        InputError: a WAV file shorter than its header says, or an Ogg file that ends within a page, which
            libsndfile only notes in its log. Programs that write WAV to a pipe don't know the size and leave
            0 or a number near 2^31 or 2^32; those pass.
    """
    try:
        sound = sf.SoundFile(_opened(path))
    except sf.LibsndfileError as error:
        raise _NotForSoundfile(error.error_string.rstrip(".")) from error
    if sound.format == "MP3" and not _mp3_has_length(path):
        sound.close()
        raise _NotForSoundfile("an MP3 file whose header tells no length")
    if sound.format == "OGG" and "Junk after the last page" in sound.extra_info:
        sound.close()
        raise InputError(f"{path}: cut off: its last Ogg page is not whole")
    noted = re.search(r"^data\s*: (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if noted and sound.format.startswith("WAV") and int(noted[2]) < int(noted[1]) < 0x7FFF0000:
        sound.close()
        raise InputError(
            f"{path}: cut off: header announces {noted[1]} bytes of samples, {noted[2]} are there"
        )
    return sound


def _opened(path: str | Path) -> str | Path | BytesIO:
    """Return what soundfile opens: the path, or the bytes of a file inside an archive."""
    part = part_of(path)
    return part.open() if part else path


def _mp3_has_length(path: str | Path) -> bool:
    """Return whether the first frame tells how many follow, as nearly all encoders write it."""
    part = part_of(path)
    with part.open() if part else open(path, "rb") as file:
        head = file.read(10)
        tag = (
            sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:10]))) + 10
            if head[:3] == b"ID3"
            else 0
        )
        file.seek(tag)
        first_frame = file.read(2048)
    return any(name in first_frame for name in (b"Xing", b"Info", b"VBRI"))


def _ffmpeg_command(path: str | Path, reason: Exception, options: list[str]) -> list[str]:
    """Return the command that opens `path` with ffmpeg; `reason` is why soundfile didn't."""
    executable = shutil.which("ffmpeg")
    if executable is None:
        raise InputError(
            f"{path}: soundfile can't read it ({reason}) and ffmpeg, which reads m4a and more, "
            "is not installed: install ffmpeg, or convert the file to WAV or FLAC"
        )
    # The whitelist keeps a playlist that poses as audio from reaching for the network.
    quiet = [executable, "-nostdin", "-hide_banner", "-protocol_whitelist", "file,subfile"]
    part = part_of(path)
    where = f"file:{path}"
    if part:
        where = f"subfile,,start,{part.offset},end,{part.offset + part.length},,:file:{part.archive}"
    return [*quiet, *options, "-i", where]


@contextmanager
def _ffmpeg(path: str | Path, stop_s: float | None, reason: Exception) -> Iterator[sf.SoundFile]:
    """Yield what ffmpeg decodes, up to a little past `stop_s`, as an open sound that can't be sought in.

    Decoding starts at the beginning and the reader drops what it doesn't want: ffmpeg's own seeking lands up
    to 1,024 samples off in m4a, and decodes the frames there differently.
    """
    cut = [] if stop_s is None else ["-t", f"{stop_s + CONTEXT_S:.6f}"]
    command = _ffmpeg_command(path, reason, ["-v", "error", "-xerror"])
    command += ["-map", "0:a:0", *cut, "-c:a", "pcm_f32le", "-f", "wav", "-"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        refused = None
        try:
            try:
                with sf.SoundFile(process.stdout.fileno(), closefd=False) as sound:
                    yield sound
            except sf.LibsndfileError as error:
                refused = error
            while process.stdout.read(1 << 16):
                pass
            if process.wait() or refused:
                log.seek(0)
                said = " | ".join(log.read().decode(errors="replace").strip().splitlines())
                raise InputError(f"{path}: ffmpeg can't decode it: {said or refused or process.returncode}")
        finally:
            process.kill()


def _ffmpeg_info(path: str | Path, reason: Exception) -> AudioInfo:
    """Return what ffmpeg says about the first audio stream."""
    # Without an output ffmpeg describes the input and exits with an error.
    done = subprocess.run(_ffmpeg_command(path, reason, []), capture_output=True, text=True, errors="replace")
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", done.stderr)
    stream = re.search(r"Audio: .*?(\d+) Hz, (\w[\w.]*)(?: channels)?", done.stderr)
    if not duration or not stream:
        lines = [line for line in done.stderr.splitlines() if "At least one output file" not in line]
        raise InputError(
            f"{path}: ffmpeg finds no audio in it: {lines[-1].strip() if lines else 'it says nothing'}"
        )
    hours, minutes, seconds = (float(part) for part in duration.groups())
    names = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}
    channels = names.get(stream[2]) or sum(int(part) for part in re.findall(r"\d+", stream[2]))
    return AudioInfo(int(stream[1]), channels, 3600 * hours + 60 * minutes + seconds)
