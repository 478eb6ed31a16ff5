"""Texts that people bring: which line of one is not UTF-8."""

from collections.abc import Iterable

from alike.extract.errors import BadInput


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
