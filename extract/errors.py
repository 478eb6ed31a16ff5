"""Errors, grouped by what the caller would do about them."""

from collections.abc import Iterable


class AlikeError(Exception):
    """A fault that is ours or the machine's; the command line ends with status 1."""


class BadInput(AlikeError):
    """Something the user gave cannot work; status 2.

    The message names the value, what was expected and what to do next, in one line.
    """


class NoStore(BadInput):
    """There is no store at the place that was named."""


class NoCluster(BadInput):
    """No Dask scheduler answers at the address that was named, or it has no worker."""


class ClusterLost(AlikeError):
    """The scheduler or the workers went away while they worked; what was stored is kept."""


class StoreBusy(BadInput):
    """Another living process holds the lock; the message names its host and process."""


class StoreDamaged(AlikeError):
    """A stored file is not what was written; `alike store verify` names all that are not.

    Attributes:
        file: name of the file, or nothing.
        fault: what is wrong with it, or nothing.
    """

    def __init__(self, message: str, *, file: str = "", fault: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.fault = fault or message


class StoreUnreachable(AlikeError):
    """The storage of a URL did not answer, or let nobody in: nothing is known of the store."""


class StoreFull(AlikeError):
    """No room for more on the store's disk; what was committed is kept, so run again later."""


class ProcessDone(SystemExit):
    """Ends a process that has done its part for another one; any other end by itself is a fault."""


class BadImage(AlikeError):
    """One image that cannot become a feature: it is recorded and left out.

    Attributes:
        state: `unreadable`, `truncated`, `damaged`, `too large` or `wrong mode`.
        reason: one line, for the manifest.
    """

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(f"{state}: {reason}")
        self.state = state
        self.reason = reason


def not_utf8(what: str, lines: Iterable[bytes]) -> BadInput:
    r"""The refusal of a text that is not UTF-8: it names the line, the byte and the way out.

    Args:
        what: the text, such as ``manifest set.csv``.
        lines: of it, such as a file that is open for bytes.

    Example:
        >>> print(not_utf8("manifest a.csv", [b"path\n", b"B\xe4r\n"]))
        manifest a.csv is not UTF-8: line 2 has the byte 0xe4 after 'B'; save it as UTF-8
    """
    place = "it ends within a letter"
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            before = line[max(error.start - 20, 0) : error.start].decode(errors="replace")
            place = f"line {number} has the byte 0x{line[error.start]:02x} after {before!r}"
            break
    return BadInput(f"{what} is not UTF-8: {place}; save it as UTF-8")
