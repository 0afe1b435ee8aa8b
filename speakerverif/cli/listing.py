"""The commands `list` and `completion`."""

import argparse
import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import speakerverif
from speakerverif.cli import options
from speakerverif.errors import InputError

PACKAGE = Path(speakerverif.__file__).parent
RECIPES = PACKAGE / "training" / "recipes"
SHELLS = ("bash", "zsh", "tcsh")


def add_list(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    command.add_argument("kind", choices=sorted(KINDS), help="kind of names to list")


def show(arguments: argparse.Namespace) -> int:
    """Print the names of a kind, each with a one-line description."""
    rows = list(KINDS[arguments.kind]())
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        print(f"{name:{width}}  {about}".rstrip())
    return 0


def add_completion(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    command.add_argument("shell", choices=SHELLS, help="shell to complete in")


def completion(arguments: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    from speakerverif._util import extras

    extras.require("completion", "completion")
    import shtab

    parser: argparse.ArgumentParser = arguments.parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # Suppressed before, since the help lists groups; shtab skips actions without help.
            action.help = "command"
    print(shtab.complete(parser, arguments.shell))
    return 0


def recipe_path(given: Path) -> Path:
    """Return the path of a recipe, given as a path or as the name of one of the package's recipes.

    Raises:
        InputError: no such file and no such name, or several recipes with that name.
    """
    from speakerverif._util.messages import nearest

    if given.exists():
        return given
    name = given.as_posix().removesuffix(".toml")
    names = [name for name, _ in _recipes()]
    matching = [known for known in names if name in (known, known.rpartition("/")[2])]
    if len(matching) == 1:
        return RECIPES / f"{matching[0]}.toml"
    if matching:
        raise InputError(f"{given}: no such file; which recipe is meant: {', '.join(matching)}?")
    raise InputError(f"{given}: no such file, and no recipe of that name; {nearest(name, names)}")


def _modules(folder: str) -> Callable[[], Iterator[tuple[str, str]]]:
    def rows() -> Iterator[tuple[str, str]]:
        for path in sorted((PACKAGE / folder).glob("[!_]*.py")):
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            yield path.stem, " ".join(text.partition("\n\n")[0].split())

    return rows


def _recipes() -> Iterator[tuple[str, str]]:
    for path in sorted(RECIPES.rglob("*.toml")):
        about = path.read_text("utf-8").partition("\n")[0]
        yield (
            path.relative_to(RECIPES).with_suffix("").as_posix(),
            about.removeprefix("#").strip() * (about[:1] == "#"),
        )


def _models() -> Iterator[tuple[str, str]]:
    yield "(none named)", f"the built-in starter model, {PACKAGE / 'default_model'}"
    hub = options.hub_cache()
    for path in sorted(hub.glob("models--*--*/snapshots/*/model.safetensors")) if hub else []:
        if (path.parent / "config.toml").is_file():
            _, organisation, name = path.parents[2].name.split("--", 2)
            yield f"{organisation}/{name}", f"from the Hugging Face hub, revision {path.parent.name[:8]}"


KINDS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "heads": _modules("heads"),
    "encoders": _modules("models/encoders"),
    "backends": _modules("scoring/backends"),
    "corpora": _modules("corpora"),
    "models": _models,
    "recipes": _recipes,
}
