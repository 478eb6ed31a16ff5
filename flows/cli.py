"""The command ``alike``: every command is a module of `alike.flows.commands`."""

import errno
import importlib
import os
import pkgutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alike.extract.errors import AlikeError, BadInput, ProcessDone
from alike.flows import commands, log_lines
from alike.flows.log_lines import LogFormat

app = typer.Typer(
    name="alike",
    help="Do alike images get alike features? For any image network and any labelled images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"alike {version('alike')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            "--log-format",
            help="Form of the lines on standard error; json: one object a line, with time, level, "
            "step and message. [default: text, or `[output] logs` of a settings file]",
            show_default=False,
        ),
    ] = None,
) -> None:
    log_lines.forget_choice()
    log_lines.choose(log_format, by_option=True)


for _module in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"alike.flows.commands.{_module.name}").register(app)


_UsageError: Any = typer.BadParameter.__base__
"""What a wrong option or argument raises; Typer gives it no name of its own."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line; exit 0 on success, 2 for bad input, 1 for a fault of ours."""
    _ready_streams()
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        _ask_on_terminal()
    try:
        _check_here()
        status = app(prog_name="alike", standalone_mode=False)
    except ProcessDone:
        raise
    except SystemExit as ended:
        if ended.code:
            raise
        # Of a network that ends the process in its forward pass, or of a library.
        line = "code of the network, or of a library, ended the process by itself: take that out"
        sys.exit(_say(line, 1))
    except _UsageError as error:
        sys.exit(_say_usage(error))
    except BadInput as error:
        sys.exit(_say(error, 2))
    except AlikeError as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        sys.exit(_say(_refusal(error), _NOT_OURS[error.errno]))
    except Exception as error:
        if not _is_of_a_cloud(error):
            raise
        sys.exit(_say(f"{error}; give the credentials and the region of the URL's storage", 2))
    if status == INTERRUPTED:
        _say("interrupted; what was finished is kept: the same command goes on from there", 130)
    sys.exit(status)


def _ready_streams() -> None:
    """Let anything be printed: to a stream that was closed, and of text that it cannot encode.

    A closed descriptor would be that of the next file which is opened, so that what is printed
    would land in it.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            if nowhere != number:
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif getattr(getattr(sys, name), "errors", "") == "strict":
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _check_here() -> None:
    """Refuse a working directory that is gone, and names that no JSON and no Parquet file holds.

    Files within a set of images may have such names: they are listed under names that escape them.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise BadInput("the working directory was deleted: change to one that exists") from None
    for word in (here, *sys.argv[1:]):
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise BadInput(
                f"{shown} is not in UTF-8: rename it, or make a link to it of another name"
            ) from None


def _is_of_a_cloud(error: Exception) -> bool:
    """Whether the client of an object store refused: each has a family of errors of its own."""
    families = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(families & {"botocore", "aiobotocore", "gcsfs", "adlfs", "azure"})


def _ask_on_terminal() -> None:
    """Let a store's network file be asked about; without a terminal the answer is no."""
    from alike.extract.networks.trust import ask_by

    ask_by(lambda question: typer.confirm(f"{question}. Run it?", err=True))


_NOT_OURS = {
    errno.EACCES: 2, errno.EPERM: 2, errno.EROFS: 2, errno.ENOTDIR: 2, errno.EISDIR: 2,
    errno.ENAMETOOLONG: 2, errno.ELOOP: 2, errno.EEXIST: 2, errno.EADDRINUSE: 2, errno.ENXIO: 2,
    errno.ENOSPC: 1, errno.EDQUOT: 1, errno.EFBIG: 1, errno.EIO: 1,
}  # fmt: skip
"""Exit status by what the system refused: a place that the user named, or room on the disk."""
_BROKEN_OFF = (errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.ETIMEDOUT)
"""Of a mount of NFS or FUSE whose other end is gone."""
_ADVICE = {
    **dict.fromkeys(_BROKEN_OFF, "mount it again"),
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.EIO: "look at the disk or its mount, or choose another place",
}
_NOT_OURS |= dict.fromkeys(_ADVICE, 1)


def _refusal(error: OSError) -> str:
    """The system's reason with its file; `--to` and [output] folder are what one would change."""
    place = error.filename or error.filename2
    reason = f"{place}: {error.strerror}" if place else str(error)
    advice = _ADVICE.get(error.errno or 0, "choose another place, or make room there")
    return f"{reason}; {advice}"


def _say_usage(error: Any) -> int:
    """One line about a wrong option or argument; the help if no command was given."""
    if not error.format_message():
        error.show()
        return 2
    command = error.ctx.command_path if error.ctx else "alike"
    if error.ctx:
        # A command that does not exist is told before the options of the program are looked at.
        log_lines.choose(error.ctx.find_root().params.get("log_format"), by_option=True)
    fault = error.format_message().replace("Value error, ", "").rstrip(".")
    return _say(f"{fault}; see {command} --help", 2)


def _say(error: object, status: int) -> int:
    line = " ".join(str(error).split())
    log_lines.say(line if log_lines.is_json() else f"alike: {line}", level="error")
    return status
