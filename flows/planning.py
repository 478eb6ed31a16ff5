"""What a run would take before it starts: bytes of its store, memory, and time of every step.

A sample of the images goes through extraction and analysis in a folder of its own, which takes
less than a minute. What that measures (bytes of a feature, busy seconds of a stage) is scaled to
the number of images by the same formulas as the store is laid out by.
"""

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alike.extract.twins import AUTOMATIC
from alike.flows.sampling import Sample, Stored, feature_bytes

if TYPE_CHECKING:
    from alike.flows.sections import Pipeline

LISTED_BYTES = 24
"""Memory of an image while it is listed: hashes of paths, their order, rows; the rest streams."""
JOINED_BYTES, JOINED = 450, 1 << 17
"""Memory of an image whose id is joined, and how many are at a time (`PART` of the manifest)."""
LISTING = 80 << 20
"""Memory of a listing of any size: batches, and the packages that read and write them."""
ANALYSED_BYTES = 550
"""Memory of an image that is analysed: its path, id, label and rows in the tables of the set."""
UNIT_COPIES = 3
"""Copies of a unit's rows in memory: collected, joined, encoded."""
EXACT_NUMBERS = 10_000_000
"""Numbers of an index up to which exact search answers within a millisecond: no other is tried."""
TRIED, TRIED_PAIRS, BUILT_PAIRS = 20_000, 400_000, 8_000
"""Work of choosing an index by trials of so many of its vectors at most, and of building it, in
comparisons of two vectors for each vector."""
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        images: number of images.
        networks: extractions that it stores, the untrained one too.
        store: bytes by part of the store.
        memory: bytes by kind of process: `listing` lists the images, `worker` extracts,
            `analysis` indexes and analyses.
        seconds: of every step, at the first run.
        bound: the step that takes longest, and of extraction its slowest stage.
        free: bytes free on the disk, in the folder for temporary files, and in memory.
        advice: why it cannot fit and what to do; empty if it can.
        notes: what a reader must know.
        temporary: bytes of the file in which candidates of neighbours wait while pairs are counted,
            in the folder for temporary files; 0 where none is made.
    """

    images: int
    networks: int
    store: dict[str, int]
    memory: dict[str, int]
    seconds: dict[str, float]
    bound: str
    free: dict[str, int]
    advice: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    temporary: int = 0

    @property
    def bytes(self) -> int:
        """Of the whole store."""
        return sum(self.store.values())


def listing_bytes(images: int) -> int:
    """Memory that the listing of a folder takes beyond the process that lists.

    Args:
        images: number of images.
    """
    return LISTING + LISTED_BYTES * images + JOINED_BYTES * min(images, JOINED)


def plan(
    pipeline: "Pipeline", sample: Sample, images: int | None = None, gpus: int | None = None
) -> Plan:
    """Scale a sample to a number of images and of devices.

    Args:
        pipeline: the settings.
        sample: from `measure`.
        images: number of images; None: as many as the source lists.
        gpus: devices that extract; None: this machine's, or its processor.
    """
    n = sample.listed if images is None else images
    extracted = _extractions(pipeline, sample)
    store = _store_bytes(pipeline, sample, n, extracted)
    memory = _memory(pipeline, sample, n)
    seconds, stage = _times(pipeline, sample, n, len(extracted), gpus)
    slowest = max(seconds, key=lambda name: seconds[name])
    bound = f"{slowest}, by {stage}" if slowest == "extract" else slowest
    free = _free(pipeline)
    notes = list(sample.notes)
    if gpus and not sample.gpus:
        notes.append("this machine has no GPU: each of them counts as fast as its processor")
    if n > AUTOMATIC and pipeline.images.twins != "ignore":
        notes.append(
            f"a run searches no twins of more than {AUTOMATIC:,} images; what `alike twins` needs "
            "for it is stored"
        )
    temporary = _temporary(pipeline, sample, n)
    if 2 * temporary > free["temporary"]:
        notes.append(
            f"candidates of neighbours take {temporary / 1e9:.3g} GB, and "
            f"{tempfile.gettempdir()} has {free['temporary'] / 1e9:.3g} GB free: with less than "
            "twice as much the analysis takes a pass more; TMPDIR names another folder"
        )
    made = Plan(
        n, len(extracted), store, memory, seconds, bound, free, notes=notes, temporary=temporary
    )
    return Plan(**{**vars(made), "advice": _advice(made, extracted)})


def _extractions(pipeline: "Pipeline", sample: Sample) -> list[Stored]:
    """What is stored: of every network, and of every architecture with random weights."""
    random: dict[str, Stored] = {}
    untrained = set()
    for settings, stored in zip(pipeline.networks, sample.stored, strict=True):
        bare = settings.model_copy(update={"weights": "none", "classes": (), "taps": None})
        random.setdefault(bare.model_dump_json(), stored)
        if settings.weights == "none":
            untrained.add(bare.model_dump_json())
    further = [one for name, one in random.items() if name not in untrained]
    return [*sample.stored, *(further if pipeline.analyse.untrained else [])]


def _store_bytes(
    pipeline: "Pipeline", sample: Sample, n: int, extracted: list[Stored]
) -> dict[str, int]:
    from alike.extract.store import UNIT
    from alike.index.kinds import INDEX_KINDS

    networks = len(extracted)
    chunks = sum(UNIT / spec.chunk_rows for one in extracted for spec in one.arrays.values())
    ledger = sample.parts.get("ledger", 0.0) / len(sample.stored) * networks + 16 / 3 * chunks
    store = {
        "features": sum(one.bytes(n) for one in extracted),
        "ledger": ledger * max(-(-n // UNIT), 1),
        "index": INDEX_KINDS["flat"].bytes(n, _dimension(pipeline, sample)),
    }
    if pipeline.index.memory is not None:
        store["index"] = min(store["index"], pipeline.index.memory)
    for name in ("manifest", "listing", "twins", "tables"):
        grown = sample.per_image.get(name, 0.0)
        fixed = max(sample.parts.get(name, 0.0) - grown * sample.images, 0.0)
        several = networks if name == "tables" else 1
        store[name] = (fixed + grown * n) * several
    named = {"features.zarr", "ledger", "index", "manifest", "listing", "twins", "tables"}
    store["other"] = sum(size for name, size in sample.parts.items() if name not in named)
    return {name: int(size) for name, size in store.items()}


def _dimension(pipeline: "Pipeline", sample: Sample) -> int:
    """Numbers of a vector of the index's measure: of the array that its name begins with."""
    tap = pipeline.index.measure.split("_")[0].split("@")[0]
    spec = sample.arrays.get(tap) or sample.arrays["gap"]
    return math.prod(spec.tail)


def _memory(pipeline: "Pipeline", sample: Sample, n: int) -> dict[str, int]:
    from alike.extract.store import UNIT
    from alike.index.kinds import INDEX_KINDS

    row = sum(spec.row_bytes for one in sample.stored for spec in one.arrays.values())
    more = max(min(n, UNIT) - sample.images, 0)
    worker = sample.memory + UNIT_COPIES * row * more
    dimension = _dimension(pipeline, sample)
    index = INDEX_KINDS["flat"].bytes(n, dimension)
    index = min(index, pipeline.index.memory or index)
    vectors = 4 * dimension * min(n, _evaluated(pipeline, n, dimension))
    return {
        "listing": sample.loaded + listing_bytes(n),
        "worker": worker,
        "analysis": sample.memory + ANALYSED_BYTES * n + max(index, vectors),
    }


def _dims(pipeline: "Pipeline", sample: Sample) -> list[int]:
    """Length of the vectors of every measure; where none was analysed, one stands for all."""
    return list(sample.dims.values()) or [_dimension(pipeline, sample)]


def _largest(sample: Sample, evaluated: int) -> int:
    """Images of the largest class among so many that are evaluated."""
    return sample.largest * evaluated // max(sample.listed, 1)


def _in_one_process(pipeline: "Pipeline") -> bool:
    """Whether the analysis has no workers, which find neighbours in a pass of their own."""
    return not (pipeline.cluster.dask or pipeline.cluster.processes)


def _temporary(pipeline: "Pipeline", sample: Sample, n: int) -> int:
    """Of the measure with the largest file of candidates; one is analysed after the other."""
    from alike.analysis.neighbours import waiting_bytes

    if not _in_one_process(pipeline):
        return 0
    sizes = []
    for dim in _dims(pipeline, sample):
        evaluated = max(_evaluated(pipeline, n, dim), 2)
        sizes.append(waiting_bytes(evaluated, dim, _largest(sample, evaluated)))
    return max(sizes)


def _evaluated(pipeline: "Pipeline", n: int, dimension: int) -> int:
    from alike.analysis.analyse import BUDGET
    from alike.analysis.outlook import most_images

    share = 1.0 - pipeline.train_share - pipeline.validation_share
    return min(round(n * share), most_images(pipeline.analyse.budget or BUDGET, dimension))


def _times(
    pipeline: "Pipeline", sample: Sample, n: int, networks: int, gpus: int | None
) -> tuple[dict[str, float], str]:
    """Seconds of every step of the first run, and the slowest stage of extraction."""
    from alike.extract.machine import usable_cores

    cores, devices = usable_cores(), gpus or max(sample.gpus, 1)
    host = sum(busy for name, busy in sample.stages.items() if name != "forward") / cores
    forward = sample.stages.get("forward", 0.0) / devices
    each = max(host, forward)
    if gpus is None and sample.device == "cpu":
        # All stages share the processor.
        each = max(each, sample.rates["cpu"] / cores)
    stage = max(
        sample.stages,
        key=lambda name: forward if name == "forward" else sample.stages[name] / cores,
    )
    dimension = _dimension(pipeline, sample)
    evaluated = max(_evaluated(pipeline, n, dimension), 2)
    of_measure = [_measure_seconds(pipeline, sample, n, dim) for dim in _dims(pipeline, sample)]
    passes = 1 + (networks > len(sample.stored))
    people = _people_seconds(pipeline, evaluated)
    # All measures evaluate a network, the headline's alone the same one with random weights.
    trained = len(sample.stored)
    analysed = trained * sum(of_measure) + (networks - trained) * of_measure[0]
    several = (
        {"compare": len(sample.stored) * (of_measure[0] / cores + people)} if sample.others else {}
    )
    seconds = {
        "list": n * sample.list_seconds / max(cores, 4),
        "extract": n * each * passes,
        "twins": twins_seconds(sample, n),
        "index": n * sample.rates["vector"] + choosing_seconds(n, dimension),
        "analyse": analysed / cores + len(sample.stored) * people,
        **several,
    }
    return {name: one + sample.fixed.get(name, 0.0) for name, one in seconds.items()}, stage


def _measure_seconds(pipeline: "Pipeline", sample: Sample, n: int, dimension: int) -> float:
    """Of one thread, to evaluate all pairs by vectors of this length."""
    from alike.analysis.outlook import Load

    evaluated = max(_evaluated(pipeline, n, dimension), 2)
    largest = _largest(sample, evaluated) if _in_one_process(pipeline) else 0
    load = Load(evaluated, dimension, evaluated, largest=largest)
    return load.seconds(intervals=pipeline.analyse.bootstrap > 0)


def twins_seconds(sample: Sample, n: int) -> float:
    """Of the search of twins: in pairs, and not by itself in large sets."""
    if n > AUTOMATIC:
        return 0.0
    return n * sample.rates.get("twin", 0.0) + n * (n - 1) / 2 * sample.rates.get("twin_pair", 0.0)


def choosing_seconds(n: int, dimension: int) -> float:
    """Of trying kinds of index, where the exact one does not answer at once."""
    from alike.analysis.outlook import seconds_a_pair
    from alike.extract.machine import usable_cores

    if n * dimension <= EXACT_NUMBERS:
        return 0.0
    pairs = min(n, TRIED) * TRIED_PAIRS + n * BUILT_PAIRS
    return pairs * seconds_a_pair(dimension) / usable_cores()


def _people_seconds(pipeline: "Pipeline", evaluated: int) -> float:
    """Of comparing one network with what people said, if the settings name a file of it."""
    from alike.analysis.people import check_answers, human_seconds

    if pipeline.analyse.human is None:
        return 0.0
    images, matrices = check_answers(pipeline.analyse.human)
    return human_seconds(min(images, evaluated), matrices)


def _free(pipeline: "Pipeline") -> dict[str, int]:
    import psutil

    folder = pipeline.output.folder.absolute()
    above = next(one for one in (folder, *folder.parents) if one.exists())
    memory = psutil.virtual_memory()
    return {
        "disk": shutil.disk_usage(above).free,
        "temporary": shutil.disk_usage(tempfile.gettempdir()).free,
        "memory": int(memory.total),
    }


def _advice(made: Plan, extracted: list[Stored]) -> list[str]:
    """Why it cannot fit here, and what to do."""
    advice = []
    if made.bytes > made.free["disk"]:
        sizes: dict[str, int] = {}
        for one in extracted:
            for name, spec in one.arrays.items():
                size = feature_bytes(spec, one.ratio[name], made.images)
                sizes[name] = sizes.get(name, 0) + size
        largest = max(sizes, key=lambda name: sizes[name])
        others = "leave it out of [extract] taps, " if largest not in ("gap", "pixels") else ""
        advice.append(
            f"the store takes {made.bytes / 1e9:.3g} GB, {made.free['disk'] / 1e9:.3g} GB are "
            f"free: {largest} takes {sizes[largest] / 1e9:.3g} GB of it; {others}free some space, "
            "or name another [output] folder"
        )
    for name, needed in made.memory.items():
        if needed > made.free["memory"]:
            less = (
                "leave out the largest of [extract] taps"
                if name == "worker"
                else "take fewer images, or a machine with more memory"
            )
            advice.append(
                f"{name} takes {needed / GIB:.3g} GiB of memory, this machine has "
                f"{made.free['memory'] / GIB:.3g} GiB: {less}"
            )
    return advice
