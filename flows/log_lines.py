"""Lines about what goes on, on standard error: plain text, or one JSON object a line.

The result of a command goes to standard output and is not a log line. Secrets are masked in both.
"""

import datetime
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, TextIO, cast

from alike.extract.secrets import masked

_STEP: ContextVar[str] = ContextVar("step", default="")
_HERE = "alike.flows.log_lines"

BEGIN = '{"time": "'
"""Of every JSON line."""
ON_STDERR = "on_stderr"
"""Attribute of a record that `say` has written already: it goes to the server alone."""

PREFECT_JSON = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": f"{_HERE}.JsonHandler",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
    "PREFECT_LOGGING_HANDLERS_DEBUG_FORMATTER": "json",
    "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": f"{_HERE}.JsonLines",
}
"""Variables that give Prefect's log the same form, also in the processes that it starts."""


class LogFormat(StrEnum):
    """Form of the lines on standard error."""

    TEXT = "text"
    JSON = "json"


class Tell(Protocol):
    """Takes a line about what goes on, as `say` does."""

    def __call__(self, message: str, /, *, level: str = "info") -> object:
        """Take one line, at level `info`, `warning` or `error`."""


def unsaid(_message: str, /, *, level: str = "info") -> None:
    """Say nothing."""


_chosen: list[LogFormat] = []
"""What was chosen last; empty: plain text."""


def choose(form: str | None, *, by_option: bool = False) -> None:
    """Choose the form of all lines of this process, and of Prefect's in those that it starts.

    Args:
        form: `text` or `json`; None leaves it as it is.
        by_option: an option of the command line goes before a setting.
    """
    if form is None or (_chosen and not by_option):
        return
    _chosen[:] = [LogFormat(form)]
    if is_json():
        logging.basicConfig(handlers=[JsonHandler()], level=logging.WARNING, force=True)
        os.environ.update(PREFECT_JSON)


def forget_choice() -> None:
    """Plain text again, as when the process began."""
    if is_json():
        logging.basicConfig(handlers=[logging.StreamHandler()], force=True)
        logging.captureWarnings(False)
        sys.excepthook = sys.__excepthook__
        with_json: object = sys.stderr
        if isinstance(with_json, JsonStream):
            sys.stderr = with_json.stream
        for name in PREFECT_JSON:
            os.environ.pop(name, None)
    _chosen.clear()


def is_json() -> bool:
    """Whether lines are JSON."""
    return _chosen == [LogFormat.JSON]


@contextmanager
def step_named(name: str) -> Iterator[None]:
    """Lines inside are those of this step."""
    token = _STEP.set(name)
    try:
        yield
    finally:
        _STEP.reset(token)


def say(message: str, *, level: str = "info", step: str | None = None, **facts: Any) -> None:
    """Write a line.

    Args:
        message: one sentence or name; secrets in it are masked.
        level: `info`, `warning` or `error`; of JSON lines only.
        step: whose line it is; None: the step that runs. Of JSON lines only.
        facts: numbers that the message tells in words; of JSON lines only.
    """
    if is_json():
        named = _STEP.get() if step is None else step
        line = json_line(message, level=level, step=named, **facts)
    else:
        line = masked(message)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def json_line(
    message: str, *, level: str, step: str, seconds: float | None = None, **facts: Any
) -> str:
    """One line of JSON with time (UTC), level, step and message, and the facts after them.

    Args:
        message: its secrets are masked.
        level: in lower case.
        step: may be empty.
        seconds: since 1970; None: now.
        facts: of JSON's own types.
    """
    zone = datetime.UTC
    when = datetime.datetime.now(zone) if seconds is None else _at(seconds)
    line = {
        "time": when.isoformat(timespec="milliseconds"),
        "level": level,
        "step": step,
        "message": masked(message),
        **facts,
    }
    return json.dumps(line, ensure_ascii=False)


def _at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


class JsonLines(logging.Formatter):
    """Records of the standard library, and so of Prefect and Dask, as `json_line` has them."""

    def __init__(self, *_given: object, **_named: object) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """One line; the logger's name beside it, and what a traceback says."""
        facts: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            facts["traceback"] = masked("".join(traceback.format_exception(*record.exc_info)))
        step = getattr(record, "task_run_name", "") or _STEP.get()
        return json_line(
            record.getMessage(),
            level=record.levelname.lower(),
            step=str(step),
            seconds=record.created,
            **facts,
        )


class JsonStream:
    """Standard error of which every line is JSON, also what libraries print there as text.

    Args:
        stream: takes the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._begun, self._lock = stream, "", threading.RLock()

    def write(self, text: str) -> int:
        """Write what is complete; text without an end waits for it, for `flush` or for JSON."""
        with self._lock:
            if self._begun and text.startswith(BEGIN):
                self.flush()
            *lines, self._begun = (self._begun + text).split("\n")
            for line in lines:
                self._write_line(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them all."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what has no end yet."""
        with self._lock:
            line, self._begun = self._begun, ""
            self._write_line(line)
            self.stream.flush()

    def _write_line(self, line: str) -> None:
        if line.strip() and not (line.startswith(BEGIN) and line.endswith("}")):
            line = json_line(line.rstrip(), level="warning", step=_STEP.get(), logger="stderr")
        if line.strip():
            self.stream.write(f"{line}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class JsonHandler(logging.StreamHandler[Any]):
    """Writes records as JSON lines; from now on all else on standard error becomes such lines."""

    def __init__(self, _stream: Any = None, **_named: object) -> None:
        if sys.stderr is not None and not isinstance(sys.stderr, JsonStream):
            sys.stderr = cast(TextIO, JsonStream(sys.stderr))
        super().__init__(sys.stderr)
        self.setFormatter(JsonLines())
        self.addFilter(lambda record: not getattr(record, ON_STDERR, False))
        logging.captureWarnings(True)
        sys.excepthook = _say_uncaught


def _say_uncaught(
    kind: type[BaseException], error: BaseException, at: TracebackType | None
) -> None:
    text = masked("".join(traceback.format_exception(kind, error, at)))
    line = json_line(f"{kind.__name__}: {error}", level="error", step="", traceback=text)
    sys.stderr.write(f"{line}\n")
