"""Extraction by several processes or machines: Dask hands whole units to workers.

Workers get paths and row numbers, never arrays: each opens the store, the source and the network
itself, once, and commits the units that it was given. A worker that dies loses at most a unit,
which another gets. Source, network files and store must be reachable from every worker under the
same names.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch

from alike.extract.addresses import MOST_WORKERS
from alike.extract.distributed_client import dask_client
from alike.extract.errors import BadImage, BadInput
from alike.extract.image_pass import ImagePass, Workload
from alike.extract.images import ImageSource, open_source
from alike.extract.lanes import BatchProgress, UnitRows
from alike.extract.loading import Image, read_checked
from alike.extract.networks import Extraction, network_of
from alike.extract.pipeline import Executor, ExtractionReport, extract
from alike.extract.run import ComputeSettings, ExtractionRun
from alike.extract.stages import STAGES
from alike.extract.store import Store

GPU = "GPU"
"""Resource of a worker that has one: `dask worker --resources GPU=1`."""
AHEAD = 3
"""Units that wait or run for each thread of the workers."""


def extract_distributed(
    source: ImageSource,
    network: Any,
    store: Store,
    *,
    workers: str | int,
    timeout: float = 30.0,
    **settings: Any,
) -> ExtractionReport:
    """`extract` with the work done by Dask workers; the same store comes out.

    Args:
        source: opened by `open_source`, since workers open it again.
        network: from `load_network`.
        store: not in memory.
        workers: a number of processes of this machine, or the address of a scheduler
            (``tcp://host:8786``). Give each worker one GPU by CUDA_VISIBLE_DEVICES.
        timeout: seconds to wait for that scheduler, and for its first worker.
        settings: those of `extract`.

    Raises:
        BadInput: no scheduler or no worker there, and what `extract` raises.
    """
    _check(workers)
    executor = executor_on(lambda: workers, timeout)
    return extract(source, network, store, executor=executor, **settings)


def executor_on(place: Callable[[], str | int], timeout: float = 30.0) -> Executor:
    """What `extract(executor=)` takes to work on Dask workers.

    Args:
        place: gives the workers, as in `extract_distributed`; asked only if anything is missing.
        timeout: as there.
    """

    def on_workers(
        images: ImagePass, workload: Workload, progress: BatchProgress
    ) -> Mapping[str, float]:
        if not any(workload.values()):
            return dict.fromkeys(STAGES, 0.0)
        with dask_client(place(), timeout) as client:
            return _compute(client, images, workload, progress)

    return on_workers


def map_on_workers(
    work: Callable[[Any], Any],
    parts: Sequence[Any],
    *,
    workers: str | int,
    timeout: float = 30.0,
) -> Iterator[Any]:
    """Apply a function to parts on Dask workers; gives the results as they come.

    Args:
        work: found by its module and name on every worker.
        parts: small values, such as file names and row numbers.
        workers: as in `extract_distributed`.
        timeout: as there.
    """
    from distributed import as_completed

    _check(workers)
    with dask_client(workers, timeout) as client:
        for future in as_completed(client.map(work, parts, pure=False)):
            yield future.result()


def _check(workers: str | int) -> None:
    """Refuse a number of processes without which the work never ends, or with which the machine.

    Raises:
        BadInput: none, or more than `MOST_WORKERS`.
    """
    if str(workers).lstrip("-").isdecimal() and not 1 <= int(workers) <= MOST_WORKERS:
        raise BadInput(f"{workers} workers: expected 1 to {MOST_WORKERS}, or tcp://scheduler:port")


def _compute(
    client: Any, images: ImagePass, workload: Workload, progress: BatchProgress
) -> dict[str, float]:
    from distributed import as_completed
    from distributed.client import CancelledError

    able = _able(client)
    threads = max(images.runs[0].settings.threads // max(len(able.slots), 1), 1)
    recipes = [_recipe_of(run, threads) for run in images.runs]
    units = ((wanted, todo) for wanted, units in workload.items() for todo in units)
    stages = dict.fromkeys(STAGES, 0.0)
    running = as_completed(with_results=True, loop=client.loop)
    tasks: dict[str, tuple[list[int], _Asked, UnitRows]] = {}

    def send(
        numbers: list[int],
        asked: _Asked,
        todo: UnitRows,
        resources: dict[str, int] | None,
        look: bool = True,
    ) -> None:
        future = client.submit(_compute_unit, asked, todo, look, pure=False, resources=resources)
        tasks[future.key] = (numbers, asked, todo)
        running.add(future)

    def submit(able: _Able) -> None:
        # All units at once would be gigabytes in the scheduler: a few ahead keep workers busy.
        ahead = AHEAD * max(sum(able.slots), 1) - len(tasks)
        for wanted, todo in islice(units, max(ahead, 0)):
            asked = tuple((recipes[number], names) for number, names in wanted)
            send([number for number, _ in wanted], asked, todo, able.resources)

    submit(able)
    for future, answer in running:
        if isinstance(answer, CancelledError):
            # Given in place of an answer if the scheduler is gone.
            raise answer
        numbers, asked, todo = tasks.pop(future.key)
        if isinstance(answer, _Unseen):
            _check_gone(images.runs[0].source, answer)
            send(numbers, asked, todo, _able(client).resources, look=False)
            continue
        n_images, busy, n_unturned = answer
        for number in numbers:
            images.runs[number].n_unturned += n_unturned
        for stage, seconds in busy.items():
            stages[stage] += seconds
        progress(n_images, stages)
        future.release()
        # Workers come and go.
        submit(_able(client))
    return stages


@dataclass(frozen=True)
class _Able:
    """The workers that extract.

    Attributes:
        slots: of each, the units that it computes at once.
        resources: that a unit asks for; None: none.
    """

    slots: list[int]
    resources: dict[str, int] | None


def _able(client: Any) -> _Able:
    """The workers that say that they have a GPU, or if none does all."""
    workers = client.scheduler_info()["workers"].values()
    gpus = [int(one.get("resources", {}).get(GPU, 0)) for one in workers]
    if any(gpus):
        return _Able([number for number in gpus if number], {GPU: 1})
    return _Able([int(one["nthreads"]) for one in workers], None)


def _recipe_of(run: ExtractionRun, threads: int) -> "_Recipe":
    return _Recipe(
        run.store.place,
        run.source.spec,
        tuple(sorted(run.source.options.items())),
        json.dumps(run.extraction.to_dict(), sort_keys=True),
        ComputeSettings(run.settings.device, run.settings.batch_size, threads),
        run.frame_size(None),
        run.run_id,
    )


@dataclass(frozen=True)
class _Recipe:
    """What a worker needs to open a run: small, hashable values.

    Attributes:
        store: place of the store.
        source: spec of the images.
        options: of the source, sorted pairs.
        extraction: `Extraction.to_dict()` as JSON.
        settings: how to compute.
        size: (height, width) of the frames.
        run_id: of the run.
    """

    store: str
    source: str
    options: tuple[tuple[str, Any], ...]
    extraction: str
    settings: ComputeSettings
    size: tuple[int, int]
    run_id: str


@lru_cache(2)
def _opened(recipes: tuple[_Recipe, ...]) -> ImagePass:
    """The pass as a worker sees it; cached, so that networks are loaded once a process."""
    return ImagePass([_run_of(recipe) for recipe in recipes])


def _run_of(recipe: _Recipe) -> ExtractionRun:
    extraction = Extraction.from_dict(json.loads(recipe.extraction))
    store = Store.open(recipe.store)
    source = open_source(recipe.source, **dict(recipe.options))
    network = network_of(extraction, trusted=True)
    run = ExtractionRun(source, network, store, extraction, recipe.settings)
    run.features = store.features(extraction.key)
    run.fix_size(recipe.size)
    run.run_id = recipe.run_id
    return run


_Asked = tuple[tuple[_Recipe, tuple[str, ...]], ...]


@dataclass(frozen=True)
class _Unseen:
    """An image that a worker cannot read as it was listed, so that it did not begin the unit.

    Attributes:
        image: of the unit.
        worker: its address.
        reason: one line.
    """

    image: Image
    worker: str
    reason: str


def _check_gone(source: ImageSource, unseen: _Unseen) -> None:
    """Refuse a worker that lacks an image which is here; all its images would count as missing.

    Raises:
        BadInput: the image is as it was listed here.
    """
    with suppress(BadImage):
        read_checked(source, unseen.image)
        raise BadInput(
            f"the Dask worker at {unseen.worker} does not have {unseen.image.path} "
            f"({unseen.reason}), which is here: {_THERE}"
        )


_THERE = "images, network, weights and store must be on every worker, under the same names"


def _compute_unit(
    asked: _Asked, todo: UnitRows, look: bool
) -> tuple[int, dict[str, float], int] | _Unseen:
    """One unit, in a worker: (images, busy seconds of each stage, images of no orientation).

    Args:
        asked: the extractions, and the arrays to compute.
        todo: the rows.
        look: first, whether an image of the unit is here.
    """
    from distributed import get_worker

    address = str(get_worker().address)
    try:
        images = _opened(tuple(recipe for recipe, _ in asked))
        first = images.runs[0]
        image = next((one for one in first.images_of(todo) if one.path is not None), None)
    except BadInput as error:
        raise BadInput(f"on the Dask worker at {address}: {error} ({_THERE})") from error
    if look and image is not None:
        try:
            read_checked(first.source, image)
        except BadImage as error:
            return _Unseen(image, address, error.reason)
    first.n_unturned = 0
    torch.set_num_threads(first.settings.threads)
    wanted = tuple((number, names) for number, (_, names) in enumerate(asked))
    busy = images.compute(wanted, [todo], lambda _images, _busy: None)
    return len(todo.rows), busy, first.n_unturned
