"""The command ``alike``: every command is a module of `flows.commands`."""

import importlib
import pkgutil
import sys

import typer

import flows.commands
from extract.errors import AlikeError, BadInput

app = typer.Typer(
    name="alike",
    help="Do alike images get alike features? Ask it of any image network and any labelled images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in pkgutil.iter_modules(flows.commands.__path__):
    importlib.import_module(f"flows.commands.{_module.name}").register(app)


def main() -> None:
    """Run the command line; exit 0 on success, 2 for bad input, 1 for a fault of ours."""
    try:
        app()
    except BadInput as error:
        sys.exit(_say(error, 2))
    except AlikeError as error:
        sys.exit(_say(error, 1))


def _say(error: Exception, status: int) -> int:
    line = " ".join(str(error).split())
    sys.stderr.write(f"alike: {line}\n")
    return status
