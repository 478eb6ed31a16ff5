"""The Dask workers of a run: those of `[cluster]`, started when the first step asks for them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from alike.extract.addresses import EXPECTED, MOST_WORKERS, address_fault
from alike.extract.errors import BadInput
from alike.extract.machine import usable_cores

if TYPE_CHECKING:
    from alike.analysis.blocks import Jobs
    from alike.extract.embedding import MapBlocks
    from alike.extract.image_pass import ImagePass, Workload
    from alike.extract.lanes import BatchProgress
    from alike.extract.pipeline import Executor
    from alike.extract.store import Features
    from alike.flows.sections import ClusterSettings

LOG = logging.getLogger(__name__)


def place_of(cluster: str | int | None) -> str | int | None:
    """Where workers are: a number of processes of this machine, or an address; None: nowhere.

    Args:
        cluster: a number, ``local`` for one a core, or an address such as ``tcp://10.0.0.1:8786``.

    Raises:
        BadInput: none of these.
    """
    if cluster is None:
        return None
    if cluster == "local":
        return usable_cores()
    text, fault = str(cluster), ""
    if "://" in text:
        fault = address_fault(text)
        if not fault:
            return text
        fault = f"{fault}; "
    elif text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise BadInput(
        f"cluster {cluster!r}: {fault}expected local, a number of processes from 1 to "
        f"{MOST_WORKERS}, or {EXPECTED}"
    )


@contextmanager
def cluster_jobs(cluster: str | int | None) -> "Iterator[Jobs]":
    """Where blocks are computed: threads of this process, or workers.

    Args:
        cluster: as `place_of` takes it.

    Raises:
        BadInput: no such workers.
    """
    from alike.analysis.blocks import open_jobs

    place = place_of(cluster)
    dask, workers = (place, None) if isinstance(place, str) else (None, place)
    with open_jobs(dask, workers) as jobs:
        yield jobs


@contextmanager
def row_jobs(
    cluster: str | int | None, several: "Sequence[Features]", measure: str
) -> "Iterator[Jobs]":
    """`cluster_jobs` to embed rows of a measure; no worker starts if none would be used.

    Args:
        cluster: as `place_of` takes it.
        several: the extractions.
        measure: its name.

    Raises:
        BadInput: no such workers, or no such measure.
    """
    place = place_of(cluster)
    if place is not None and not any(_saves_reading(one, measure) for one in several):
        LOG.warning(
            "note: workers (%s) are not used: they embed feature maps, and %s reads vectors",
            cluster,
            measure,
        )
        place = None
    with cluster_jobs(place) as jobs:
        yield jobs


def row_mapper(jobs: "Jobs", features: "Features", measure: str, name: str) -> "MapBlocks":
    """What embeds rows of a measure: this process, or the workers of `jobs` if they save reading.

    Args:
        jobs: where blocks run.
        features: the extraction.
        measure: its name.
        name: of the stage.
    """
    return jobs.stage(name) if jobs.remote and _saves_reading(features, measure) else map


def _saves_reading(features: "Features", measure: str) -> bool:
    from alike.extract.embedding import reads_maps
    from alike.extract.measures import ready_measure

    return reads_maps(features, ready_measure(features, measure))


class Workers:
    """Where the steps of a run compute: in this process, or on workers that all steps share.

    A step that is not run again asks for none, so an unchanged run starts none.

    Attributes:
        reached: whether workers answered before: then a scheduler that is gone may come back.
    """

    def __init__(self, settings: "ClusterSettings") -> None:
        self._settings = settings
        self.reached = False
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
            from alike.extract.distributed_client import dask_client

            client = self._started.enter_context(dask_client(self._settings.processes))
            self._address = str(client.scheduler.address)
        return self._address

    def executor(self) -> "Executor":
        """Where images are extracted."""
        from alike.extract.pipeline import in_process

        if self.here:
            return in_process
        from alike.extract.distributed import executor_on

        computed = executor_on(self.address)

        def on_workers(
            images: "ImagePass", workload: "Workload", progress: "BatchProgress"
        ) -> "Mapping[str, float]":
            stages = computed(images, workload, progress)
            self.reached = self.reached or any(workload.values())
            return stages

        return on_workers

    @contextmanager
    def jobs(self) -> "Iterator[Jobs]":
        """Where blocks of pairs are computed.

        Raises:
            NoCluster: no scheduler answers, or it has no worker.
        """
        from alike.analysis.blocks import open_jobs

        with open_jobs(None if self.here else self.address()) as jobs:
            self.reached = self.reached or jobs.remote
            yield jobs

    @contextmanager
    def rows(self, features: "Features", measure: str, name: str) -> "Iterator[MapBlocks]":
        """What embeds rows of a measure: this process, or workers if they save reading maps."""
        if self.here or not _saves_reading(features, measure):
            yield map
            return
        with self.jobs() as jobs:
            yield jobs.stage(name)

    def close(self) -> None:
        """End the processes that were started; a cluster at an address stays.

        A step that asks after that gets new ones.
        """
        self._started.close()
        self._address = self._given()
