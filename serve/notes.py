"""What an answer says of itself where it is not all that was asked for, or is something else."""

from collections.abc import Sequence


def fewer(asked: int, given: int, things: str) -> list[str]:
    """Fewer were there than were asked for.

    Examples:
        >>> fewer(200, 19, "images may answer")
        ['200 were asked for: only 19 images may answer']
        >>> fewer(12, 12, "images may answer")
        []
    """
    return [f"{asked} were asked for: only {given} {things}"] if given < asked else []


def beyond(offset: int, of: int, things: str) -> list[str]:
    """The part that was asked for begins after the last.

    Examples:
        >>> beyond(500, 45, "rows")
        ['offset 500 is beyond the last of 45 rows']
        >>> beyond(0, 0, "rows")
        []
    """
    return (
        [f"offset {offset} is beyond the last of {of} {things}"] if offset and offset >= of else []
    )


def other_measure(named: str | None, served: str, answers: str, key: str) -> list[str]:
    """Another measure answers than that of the server, and nobody named it.

    Args:
        named: measure that was asked for; None: that of the server.
        served: that of the server.
        answers: that answers.
        key: of the extraction.
    """
    if named is not None or answers == served:
        return []
    return [f"by {answers}: {key} has no index of {served}, by which this server answers"]


def in_blocks(name: str, shape: Sequence[int], steps: Sequence[int]) -> list[str]:
    """A map is answered with fewer cells than it has.

    Args:
        name: of the map.
        shape: cells of the map.
        steps: cells of a block, along each axis.

    Examples:
        >>> in_blocks("lrp", (224, 224), (4, 4))
        ['lrp: of a map of 224 x 224 cells, each 4 x 4 are summed']
        >>> in_blocks("lrp", (7, 7), (1, 1))
        []
    """
    if max(steps) == 1:
        return []
    cells, block = (" x ".join(map(str, numbers)) for numbers in (shape, steps))
    return [f"{name}: of a map of {cells} cells, each {block} are summed"]


def others_split(measure: str, ordered: str) -> list[str]:
    """The maps are of another measure than that of the index, which is no sum over places."""
    if measure == ordered:
        return []
    return [f"{ordered} cannot be split over places: the maps are of {measure}"]


def too_many_pairs(pairs: int, most: int) -> list[str]:
    """Pairs of places are left out."""
    return [f"{pairs} pairs of places are left out: up to {most} are answered"] * (pairs > most)
