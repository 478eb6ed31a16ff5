"""Addresses of Dask schedulers as they are written, checked before anybody is asked there."""

from urllib.parse import urlsplit

PROTOCOLS = ("tcp", "tls", "ws", "wss")
"""That a scheduler speaks."""
MOST_WORKERS = 1024
"""Processes of one machine; more is a slip of the pen that would end the machine."""
EXPECTED = "an address such as tcp://10.0.0.1:8786"


def address_fault(address: str) -> str:
    """Why no scheduler can be at an address; empty if one can.

    Args:
        address: as it was written, with its protocol.

    Example:
        >>> address_fault("tcp://10.0.0.1:8786"), address_fault("tcp://10.0.0.1")
        ('', 'it has no port')
    """
    protocol, _, rest = address.partition("://")
    if protocol not in PROTOCOLS:
        return f"its protocol must be one of {', '.join(PROTOCOLS)}"
    if any(letter.isspace() for letter in address):
        return "it has a blank"
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        return "its port must be a number from 1 to 65535, and an IPv6 host stand in brackets"
    if "@" in parts.netloc:
        return "a scheduler takes no user and no password"
    if not host:
        return "it has no host"
    if port is None:
        return "it has no port"
    if port == 0:
        return "its port must be a number from 1 to 65535"
    if rest != parts.netloc:
        return "nothing may follow the port"
    return ""
