"""Model folders to and from the Hugging Face hub: from the local cache where it holds them, else from the network.

What the cache holds is used without asking the hub for newer files: the same name gives the same
embeddings tomorrow, and without a network. A name may carry a revision: `org/name@v2`.

A name whose folder exists here is taken for a mistyped path, and the hub is not asked for it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speakerverif._util import environment, extras
from speakerverif.errors import InputError

NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


def upload(name: str, files: dict[str, bytes], message: str, private: bool = False) -> str:
    """Write files into a repository on the hub, made where absent, as one commit; return its address.

    Args:
        name: `org/name`.
        files: path in the repository -> content.
        message: of the commit.
        private: whether a repository that this call makes is visible to its owner alone.

    Raises:
        InputError: no such name can be, no token or one without the right to write, no network.
    """
    extras.require("hub", "the Hugging Face hub")
    environment.disable_telemetry()
    from huggingface_hub import CommitOperationAdd, HfApi

    parts = NAME.fullmatch(name)
    if parts is None or parts["revision"]:
        raise InputError(f"{name}: expected org/name")
    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, added, commit_message=message)
    except Exception as error:  # the hub's, or of its HTTP client, which differs from version to version
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{name}: not pushed: {reason}; a token comes from `hf auth login` or HF_TOKEN"
        ) from error
    return str(address)


def fetch(name: str, files: Sequence[str]) -> Path:
    """Return the local folder of a repository on the hub, downloading what the cache lacks.

    Args:
        name: `org/name` or `org/name@revision`.
        files: the names that are wanted, and patterns (`*.ckpt`) of which none need exist. Nothing else is fetched.

    Raises:
        InputError: no such name can be, or it is rather a path; no such repository, no access to it, no network, no
            such files in it.
    """
    extras.require("hub", f"{name} is no path here; the Hugging Face hub")
    environment.disable_telemetry()
    from huggingface_hub import snapshot_download

    parts = NAME.fullmatch(name)
    if parts is None:
        raise InputError(f"{name}: no such file or folder")
    org = name.partition("/")[0]
    if parts["revision"] is None and Path(org).is_dir():
        raise InputError(
            f"{name}: no such file or folder, though there is a folder {org} here; "
            f"if the repository of that name on the Hugging Face hub is meant, say {name}@main"
        )
    wanted = [file for file in files if "*" not in file]
    options = {"revision": parts["revision"], "allow_patterns": list(files)}
    for local in (True, False):
        try:
            folder = Path(snapshot_download(parts["repo"], local_files_only=local, **options))  # type: ignore[arg-type]
        except Exception as error:  # as above
            if local:
                continue
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"{name}: no such folder here, and not to be had from the Hugging Face hub: {reason}"
            ) from error
        lacking = [file for file in wanted if not (folder / file).is_file()]
        if not lacking:
            return folder
    raise InputError(f"{name}: the repository on the hub has no {' and no '.join(lacking)}")
