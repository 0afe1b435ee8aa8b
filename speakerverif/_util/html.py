"""HTML from templates; inserted text is escaped."""

from importlib import resources
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(package: str, folder: str = "") -> Environment:
    """Return a template environment for a folder of a package; it autoescapes, and unknown names are errors."""
    return Environment(
        loader=FileSystemLoader(Path(str(resources.files(package)), folder)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
