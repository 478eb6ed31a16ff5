"""The Dask workers of a run: those of `[cluster]`, started when the first step asks for them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alike.analysis.blocks import Jobs
    from alike.extract.pipeline import Executor
    from alike.flows.sections import ClusterSettings


class Workers:
    """Where the steps of a run compute: in this process, or on workers that all steps share.

    A step that is not run again asks for none, so an unchanged run starts none.
    """

    def __init__(self, settings: "ClusterSettings") -> None:
        self._settings = settings
        self._started = ExitStack()
        self._address = self._given()

    def _given(self) -> str:
        return "" if self._settings.processes else self._settings.dask or ""

    @property
    def here(self) -> bool:
        """Whether steps compute in this process."""
        return not self._settings.processes and not self._address

    def address(self) -> str:
        """The scheduler's address; processes of this machine are started if that is the wish."""
        if not self._address:
            from alike.extract.distributed import dask_client

            client = self._started.enter_context(dask_client(self._settings.processes))
            self._address = str(client.scheduler.address)
        return self._address

    def executor(self) -> "Executor":
        """Where images are extracted."""
        from alike.extract.pipeline import in_process

        if self.here:
            return in_process
        from alike.extract.distributed import executor_on

        return executor_on(self.address)

    @contextmanager
    def jobs(self) -> "Iterator[Jobs]":
        """Where blocks of pairs are computed.

        Raises:
            BadInput: no scheduler answers, or it has no worker.
        """
        from alike.analysis.blocks import open_jobs

        with open_jobs(None if self.here else self.address()) as jobs:
            yield jobs

    def close(self) -> None:
        """End the processes that were started; a cluster at an address stays.

        A step that asks after that gets new ones.
        """
        self._started.close()
        self._address = self._given()
