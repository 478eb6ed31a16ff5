"""Values of the environment in settings, and what must never be printed.

`${NAME}` in a text of the settings file stands for a variable of the environment, `$${NAME}` for
itself. What is written about settings (records, reports, logs) shows the text of the file, and in
URLs neither user nor password nor the values of a query, whoever wrote them.
"""

import os
import re
from typing import Any

from alike.extract.errors import BadInput

_REFERENCE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# A password may hold slashes; a number before a slash is a port.
_USER = re.compile(r"(?<=://)([^/\s@?#'\":]*:(?!\d+/)[^\s@?#'\"]*|[^/\s@?#'\"]+)@")
# A stop after a URL is of the sentence.
_QUERY = re.compile(r"(://[^\s?#'\"]*\?)([^\s#'\"]+?)(?=[:;,.)\]]*(?:[\s#'\"]|$))")
_ONLY = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_SECRET = re.compile(
    r"TOKEN|KEY|SECRET|PASS|PWD|CRED|AUTH|HOOK|PAGER|DSN|SIG|PRIVATE|SESSION|COOKIE|BEARER", re.I
)
"""Names of variables whose values are hidden wherever they stand."""
_PRIVATE = ("alarm", "cluster")
"""Sections whose variables are hidden whatever their name: they name receivers and machines."""
HIDDEN = "***"
LEAST = 6
"""Shorter values are not looked for in a text: they would be there by chance."""

_values: dict[str, str] = {}
"""Secret values of this process's settings, to the reference that shows in their place."""


def filled(value: Any, place: str = "") -> Any:
    """A value of the settings file with its references replaced by the environment's values.

    Args:
        value: text, list or table; numbers stay as they are.
        place: dotted name, for the error.

    Raises:
        BadInput: a variable is not set.
    """
    if isinstance(value, dict):
        return {key: filled(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, place) for item in value]
    if not isinstance(value, str):
        return value

    def value_of(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in os.environ:
            raise BadInput(
                f"{place} names ${{{name}}}: no such variable in the environment; set it, or write "
                f"$${{{name}}} for the text itself"
            )
        if _SECRET.search(name) or place.partition(".")[0] in _PRIVATE:
            hide(os.environ[name], f"${{{name}}}")
        return os.environ[name]

    return _REFERENCE.sub(value_of, value)


def hide(value: str, shown: str = HIDDEN) -> None:
    """Never print this value from now on; `shown` stands in its place."""
    if len(value) >= LEAST:
        _values[value] = shown


def masked(text: str) -> str:
    """A text without secrets; references to the environment stay, since they tell none.

    Example:
        >>> masked("https://me:pw@host/list.csv?sig=abc")
        'https://***@host/list.csv?***'
        >>> masked("https://me:${PASSWORD}@host/list.csv")
        'https://me:${PASSWORD}@host/list.csv'
        >>> masked("images s3://bucket/a.tar?X-Amz-Signature=abc: it is signed")
        'images s3://bucket/a.tar?***: it is signed'
    """
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, _values[value])
    return _QUERY.sub(_without_values, _USER.sub(_without_password, text))


def shown_place(place: str) -> str:
    """A path or a URL as it may be shown: a path as it is, a URL without its secrets.

    Example:
        >>> shown_place("a?b=c/1.png"), shown_place("https://host/1.png?sig=abc")
        ('a?b=c/1.png', 'https://host/1.png?***')
    """
    return masked(place) if "://" in place else place


def _without_password(match: re.Match[str]) -> str:
    password = match[1].partition(":")[2] or match[1]
    return match[0] if _ONLY.fullmatch(password) else f"{HIDDEN}@"


def _without_values(match: re.Match[str]) -> str:
    values = [pair.partition("=")[2] for pair in match[2].split("&")]
    placeholders = all(_ONLY.fullmatch(value) for value in values)
    return match[0] if placeholders else f"{match[1]}{HIDDEN}"


def check_token(token: str) -> str:
    """A token that fits into a header, a cookie and an address; its refusal does not show it.

    Raises:
        BadInput: it has a space, a line end, or a character beyond ASCII.
    """
    place = next((number for number, one in enumerate(token, 1) if not "!" <= one <= "~"), 0)
    if place:
        raise BadInput(
            f"the token has a space, a line end or a character beyond ASCII at place {place} of "
            f"{len(token)}: give letters, digits and signs alone"
        )
    return token


def masked_all(value: Any) -> Any:
    """A value of JSON in which every text is masked."""
    if isinstance(value, dict):
        return {masked(str(key)): masked_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_all(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names.

    Example:
        >>> flat({"images": {"source": "photos"}})
        {'images.source': 'photos'}
    """
    names: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            names |= flat(value, f"{prefix}{key}.")
        else:
            names[f"{prefix}{key}"] = value
    return names
