"""Commands as a user gives them, run in this process, and what of their answers is accepted."""

import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alike.flows.cli import main

SECONDS = 300
"""A command that takes longer hangs, on a machine however busy."""


@dataclass(frozen=True)
class Told:
    """What a command gave.

    Attributes:
        status: of its exit; None for one that hung or raised.
        out: standard output.
        err: standard error.
    """

    status: int | None
    out: str
    err: str


class Hang(BaseException):
    """A command takes too long."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Page(io.StringIO):
    """Standard output of `alike serve`: once the address stands there, it is asked, then Ctrl-C.

    Attributes:
        ASKED: parts of the address, in turn.
    """

    ASKED = (
        "", "api/set", "api/images?n=3", "api/images/3/picture", "api/images/3/seen",
        "api/images/3/neighbours?k=5", "api/images/3/alike/7",
    )  # fmt: skip

    def write(self, text: str) -> int:
        found = re.search(r"http://\S+", text)
        if found is None:
            return super().write(text)
        threading.Thread(target=self._ask, args=(found[0],)).start()
        return len(text)

    def _ask(self, address: str) -> None:
        for place in self.ASKED:
            try:
                with urllib.request.urlopen(f"{address}{place}", timeout=SECONDS / 2) as answer:
                    body = answer.read()
            except urllib.error.HTTPError as error:
                body = error.read()
                # A page says what is wrong as a command does: in one line.
                if error.code >= 500 and b"detail" not in body:
                    body = b"Traceback: " + body
            shown = body.decode(errors="replace") if place.startswith("api") else str(len(body) > 0)
            super().write(f"{place}: {shown}\n")
        os.kill(os.getpid(), signal.SIGINT)


def run(command: tuple[str, ...], names: Mapping[str, object]) -> Told:
    """Run a command, the places in it by their names; in the answer they stand as the names."""
    held: io.StringIO = Page() if command[0] == "serve" else io.StringIO()
    said = io.StringIO()
    before, sys.argv = sys.argv, ["alike", *(part.format(**names) for part in command)]
    status: int | None = None
    try:
        with contextlib.redirect_stdout(held), contextlib.redirect_stderr(said), alarm(SECONDS):
            main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except Hang:
        said.write("it hangs")
    # Whatever is raised is a traceback to the user.
    except BaseException as error:
        said.write(f"Traceback: {type(error).__name__}: {error}")
        if os.environ.get("ALIKE_SHOW"):
            raise
    finally:
        sys.argv = before
    plain = held.getvalue()
    for name, place in sorted(names.items(), key=lambda one: -len(str(one[1]))):
        plain = plain.replace(str(place), name.upper())
    return Told(status, plain, said.getvalue())


def settled(text: str) -> str:
    """An answer without what differs from call to call: seconds, sizes, units to be computed.

    Of an index the names and the checksums of its files: it was built anew if it was damaged.
    """
    if '"schema": "alike-index' in text:
        card = json.loads(text)
        text = json.dumps([card[name] for name in ("key", "measure", "spec", "n_rows", "metric")])
    text = re.sub(r'"(seconds|bytes|gigabytes|pending_units)": [\d.e-]+', r'"\1": 0', text)
    return re.sub(r"[\d.]+ (s|MB)\b", r"0 \1", text)


REASON = re.compile(
    r"not as the last run left it: .+|(extract|index|analyse|explain|retrain|report)[^:]*: .+"
)
"""What `alike run` says before it looks closer, or runs a step: its name, and why."""


def one_line(told: Told) -> bool:
    """Whether a command ended with one clear line; a run says before why it does not reuse."""
    lines = [line for line in told.err.splitlines() if line.strip()]
    ends = bool(lines) and lines[-1].startswith("alike: ")
    return told.status in (1, 2) and ends and all(REASON.fullmatch(line) for line in lines[:-1])


def accepted(told: Told, good: Told, name: str) -> bool:
    """Whether an answer is right, or one clear line, or names the damaged file."""
    if told.status == 0 and "Traceback" not in told.out + told.err:
        file = "valid of" if name.endswith("valid/zarr.json") else Path(name).stem
        answers = [settled(told.out), settled(good.out)]
        if name.startswith("twins/"):
            # An analysis says how many images were not searched for twins; null: it is not known.
            answers = [re.sub(r'"(unsigned|plain)": (\d+|null)', "", text) for text in answers]
        return answers[0] == answers[1] or file in told.out + told.err
    return one_line(told)
