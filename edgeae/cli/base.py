"""What every command shares: the app, errors and exit codes, talking to people and to scripts.

Exit codes: 0 fine, 1 failed, 2 called wrongly, 3 a gate was not met. Results go to stdout, talk
to stderr. An error is one line; the traceback comes with ``--debug``.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import typer

from edgeae.errors import ConfigError, DependencyError, EdgeAEError

__all__ = ["ExitCode", "app", "command", "fail", "note", "print_json", "settings"]

Function = TypeVar("Function", bound=Callable[..., None])

_EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "h5py": "train",
    "matplotlib": "train",
    "pooch": "train",
    "PIL": "images",
}


class ExitCode(IntEnum):
    """How the command ended."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    GATE = 3


class _Settings:
    """Switches that hold for the whole command line."""

    debug = False


settings = _Settings()

app = typer.Typer(
    name="edgeae",
    help="Learned codecs for sensor streams on small devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(_version())
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    _version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and stop.",
        is_eager=True,
        callback=_print_version,
    ),
) -> None:
    if debug:
        settings.debug = True


def command(name: str) -> Callable[[Function], Function]:
    """Register a function as a command; its errors become a line on stderr and an exit code."""

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                fail("interrupted")
            except (EdgeAEError, OSError, MemoryError, ModuleNotFoundError) as error:
                if settings.debug:
                    raise
                fail(_sentence(error), _exit_code(error))

        app.command(name)(guarded)
        return function

    return register


def note(text: str) -> None:
    """Tell the user something on stderr."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Say what went wrong and end the command."""
    note(f"edgeae: {text}")
    raise typer.Exit(int(code))


def print_json(value: Any) -> None:
    """Print a result for scripts."""
    print(json.dumps(value, indent=1))


def _exit_code(error: BaseException) -> ExitCode:
    if isinstance(error, ConfigError) and not isinstance(error, DependencyError):
        return ExitCode.USAGE
    return ExitCode.FAILED


def _sentence(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            return str(DependencyError(package, _EXTRAS[package]))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return " ".join(str(error).split()) or type(error).__name__


def _version() -> str:
    import edgeae

    return f"edgeae {edgeae.__version__}"
