"""A statistic is data: what one block gives, how two answers join, what they say in the end.

One definition runs on a block, on the threads of a machine and on a cluster: a way to map (see
`jobs`) applies `chunk` to the items, and the answers are joined here, in the order of the items, as
they come. Only answers travel; `chunk` reads its block where it runs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Part = TypeVar("Part")
State = TypeVar("State")
Answer = TypeVar("Answer")


def append_part(parts: list[Any], part: Any) -> list[Any]:
    """The `combine` of a statistic that keeps its parts apart, in order; it starts as a list."""
    return [*parts, part]


class MapBlocks(Protocol):
    """Maps a function over items and gives the answers in their order; `map` is one."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Yield function(item) for each item."""


@runtime_checkable
class FoldBlocks(Protocol):
    """A `MapBlocks` that also joins the answers, since it keeps what they were joined to."""

    def fold(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        start: Callable[[], Any],
        combine: Callable[[Any, Any], Any],
        /,
    ) -> Any:
        """Give the state after `combine` of `start` and function(item) for each item, in order."""


def _as_it_is(state: Any) -> Any:
    return state


@dataclass(frozen=True)
class Statistic(Generic[Item, Part, State, Answer]):
    """How something is computed block by block.

    Attributes:
        items: what is to be done; together all of it, none twice.
        chunk: item to its part. It travels to workers, so it must be picklable by cloudpickle.
        start: the state before any part.
        combine: (state, part) to the state with the part; it may change and return the state.
        finalize: state to the answer; left out: the state is the answer.

    Examples:
        >>> import operator
        >>> squares = Statistic(
        ...     items=[(0, 3), (3, 5)],
        ...     chunk=lambda block: sum(i * i for i in range(*block)),
        ...     start=int,
        ...     combine=operator.add,
        ... )
        >>> squares.compute()
        30
        >>> from alike.analysis.blocks import Jobs
        >>> squares.compute(Jobs(workers=2).stage("squares"))
        30
    """

    items: Sequence[Item]
    chunk: Callable[[Item], Part]
    start: Callable[[], State]
    combine: Callable[[State, Part], State]
    finalize: Callable[[State], Answer] = _as_it_is

    def compute(self, map_blocks: MapBlocks = map) -> Answer:
        """The answer, its blocks mapped in this way; `map` does them here, one after the other."""
        # Parts that stay apart are kept one by one; sums are kept as they are, which is less.
        if isinstance(map_blocks, FoldBlocks) and self.combine is not append_part:
            return self.finalize(map_blocks.fold(self.chunk, self.items, self.start, self.combine))
        state = self.start()
        for part in map_blocks(self.chunk, self.items):
            state = self.combine(state, part)
        return self.finalize(state)
