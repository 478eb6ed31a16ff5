"""What a run would take before it starts: bytes of its store, memory, and time of every step.

A sample of the images goes through extraction and analysis in a folder of its own, which takes
less than a minute. What that measures (bytes of a feature, busy seconds of a stage) is scaled to
the number of images by the same formulas as the store is laid out by.
"""

import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.flows.steps import load_one, source_of, taps_of

if TYPE_CHECKING:
    from alike.extract.images import ImageSource
    from alike.extract.store import ArraySpec, Features, Store
    from alike.flows.sections import Pipeline

SECONDS = 15.0
"""Of extraction of the sample."""
LEAST, MOST = 24, 256
"""Images of the sample."""
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
GIB = 2**30


@dataclass(frozen=True)
class Sample:
    """What a sample of the images measured.

    Attributes:
        images: that were computed.
        listed: images of the source.
        arrays: name to shape and type of what is stored of the first network.
        ratio: name of a map to its stored bytes over its decoded ones.
        stages: busy seconds an image of read, decode, forward and write, over all threads; of a
            pass by all networks.
        list_seconds: to read and hash one image.
        parts: bytes below the store by folder, of the sample.
        per_image: bytes below the store an image, features left out, by folder.
        memory: largest memory of this process, bytes.
        device: that the forward pass ran on.
        gpus: that this machine has.
        notes: what could not be measured.
        others: what is stored of the second and further networks.
        fixed: seconds of a step that a few images take too: checks, first passes, compiling.
    """

    images: int
    listed: int
    arrays: "Mapping[str, ArraySpec]"
    ratio: Mapping[str, float]
    stages: Mapping[str, float]
    list_seconds: float
    parts: Mapping[str, float]
    per_image: Mapping[str, float]
    memory: int
    device: str
    gpus: int
    notes: tuple[str, ...] = ()
    others: tuple["Stored", ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def stored(self) -> tuple["Stored", ...]:
        """What is stored of every network, in their order."""
        return Stored(self.arrays, self.ratio), *self.others


@dataclass(frozen=True)
class Stored:
    """Arrays of one network.

    Attributes:
        arrays: name to shape and type.
        ratio: name of a map to its stored bytes over its decoded ones.
    """

    arrays: "Mapping[str, ArraySpec]"
    ratio: Mapping[str, float]

    def bytes(self, images: int) -> int:
        """Of so many images; beside them one byte a row: whether it has a feature."""
        from alike.extract.store import VALID_ROWS

        arrays = sum(
            feature_bytes(spec, self.ratio[name], images) for name, spec in self.arrays.items()
        )
        return arrays + -(-images // VALID_ROWS) * (VALID_ROWS + 4)


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
        free: bytes free on the disk and in memory.
        advice: why it cannot fit and what to do; empty if it can.
        notes: what a reader must know.
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

    @property
    def bytes(self) -> int:
        """Of the whole store."""
        return sum(self.store.values())


class _Part:
    """Some images of a source."""

    def __init__(self, source: "ImageSource", paths: set[str]) -> None:
        self.spec, self.options = source.spec, source.options
        self._source, self._paths = source, paths

    def __iter__(self) -> Iterator[Any]:
        return (one for one in self._source if one.path in self._paths)

    def read(self, path: str) -> bytes:
        return self._source.read(path)


def measure(pipeline: "Pipeline", seconds: float = SECONDS) -> Sample:
    """Extract and analyse a sample of the images, in a folder that is deleted afterwards.

    Raises:
        BadInput: no image can be used.
    """
    import torch

    from alike.extract.forward import choose_device
    from alike.extract.images import image_id
    from alike.extract.pipeline import extract_networks
    from alike.extract.preview import spread
    from alike.extract.store import Store

    source = source_of(pipeline)
    listed = sum(1 for _ in source)
    paths = [path for path, _ in spread(source, listed, MOST)]
    started = time.perf_counter()
    for path in paths[:LEAST]:
        image_id(source.read(path))
    list_seconds = (time.perf_counter() - started) / max(len(paths[:LEAST]), 1)
    networks = [(load_one(one, one.weights), taps_of(pipeline, one)) for one in pipeline.networks]
    settings: dict[str, Any] = {
        "device": pipeline.extract.device, "precision": pipeline.extract.precision,
        "batch_size": pipeline.extract.batch_size,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="alike-plan-") as folder:
        store = Store.open(f"{folder}/store", create=True)
        store.set_split(pipeline.train_share, pipeline.images.salt, pipeline.validation_share)
        few = _Part(source, set(paths[:: max(len(paths) // 8, 1)]))
        began = time.perf_counter()
        first, *_ = extract_networks(few, networks, store, **settings)
        fixed = {"extract": time.perf_counter() - began}
        if not first.n_rows:
            raise BadInput(f"none of {first.n_listed} images of {source.spec} can be used")
        one = max(sum(first.stages.values()) / first.n_computed, 1e-4)
        count = min(max(int(seconds / one), LEAST), len(paths))
        chosen = set(paths[:: max(len(paths) // count, 1)])
        report, *others = extract_networks(_Part(source, chosen), networks, store, **settings)
        computed = report if report.n_computed else first
        stages = {name: busy / computed.n_computed for name, busy in computed.stages.items()}
        features = store.features(report.key)
        began = time.perf_counter()
        notes = _analyse(pipeline, features)
        fixed["analyse"] = time.perf_counter() - began
        parts = _bytes_below(Path(folder) / "store")
        return Sample(
            images=report.n_rows,
            listed=listed,
            arrays=features.arrays,
            ratio=_ratios(features),
            stages=stages,
            list_seconds=list_seconds,
            parts=parts,
            per_image=_per_image(store, features, parts),
            memory=_peak(),
            device=str(choose_device(pipeline.extract.device)),
            gpus=torch.cuda.device_count(),
            notes=tuple(notes),
            others=tuple(_stored_of(store.features(one.key)) for one in others),
            fixed=fixed,
        )


def _stored_of(features: "Features") -> Stored:
    return Stored(features.arrays, _ratios(features))


def _analyse(pipeline: "Pipeline", features: "Features") -> list[str]:
    """Analyse the sample, for the bytes of its tables."""
    from alike.analysis.analyse import AnalysisSettings, analyse

    measures = pipeline.analyse.measures or None
    try:
        analyse(features, AnalysisSettings(measures=measures, bootstrap=pipeline.analyse.bootstrap))
    except BadInput as error:
        return [f"the sample cannot be analysed, so its tables are left out: {error}"]
    return []


def _bytes_below(folder: Path) -> dict[str, float]:
    """Bytes of every folder of a store, and of the files beside them."""
    parts: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts
            name = top[0] if len(top) > 1 else "settings"
            parts[name] = parts.get(name, 0.0) + path.stat().st_size
    return parts


def _ratios(features: "Features") -> dict[str, float]:
    from alike.extract.store import shard_bytes

    rows = features.table()["row"].to_numpy()
    ratios = {}
    for name, spec in features.arrays.items():
        values = features.read(name, rows)
        index = _index_bytes(spec)
        ratios[name] = (len(shard_bytes(spec, values)) - index) / max(values.nbytes, 1)
    return ratios


def _per_image(
    store: "Store", features: "Features", parts: Mapping[str, float]
) -> dict[str, float]:
    """Bytes an image of what grows with the images: columns compress alike at any length."""
    from alike.extract.documents import parquet_bytes

    view = store.images()
    empty = len(parquet_bytes(view.head(0), "x"))
    names = {"manifest": 2, "listing": 1}
    each = (len(parquet_bytes(view, "x")) - empty) / max(len(view), 1)
    grown = {name: files * each for name, files in names.items()}
    grown["twins"] = parts.get("twins", 0.0) / max(len(view), 1)
    tables = 0.0
    for name in store.file_names(f"tables/{features.key}"):
        table, _ = store.read_table(f"tables/{features.key}/{name}")
        if {"row", "row_a"} & set(table.columns) and len(table) >= len(view) / 4:
            without = len(parquet_bytes(table.head(0), "x"))
            tables += (len(parquet_bytes(table, "x")) - without) / max(len(view), 1)
    return {**grown, "tables": tables}


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _index_bytes(spec: "ArraySpec") -> int:
    from alike.extract.store import UNIT

    return UNIT // spec.chunk_rows * 16 + 4


def listing_bytes(images: int) -> int:
    """Memory that the listing of a folder takes beyond the process that lists.

    Args:
        images: number of images.
    """
    return LISTING + LISTED_BYTES * images + JOINED_BYTES * min(images, JOINED)


def feature_bytes(spec: "ArraySpec", ratio: float, images: int) -> int:
    """Bytes of an array of so many images: whole chunks of vectors, compressed maps, indexes.

    Args:
        spec: the array.
        ratio: of maps, stored over decoded bytes.
        images: number of rows.
    """
    from alike.extract.store import UNIT

    units = -(-images // UNIT)
    if spec.compressed:
        return int(images * spec.row_bytes * ratio) + units * _index_bytes(spec)
    chunks = -(-images // spec.chunk_rows)
    return chunks * (spec.chunk_rows * spec.row_bytes + 4) + units * _index_bytes(spec)


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
    made = Plan(n, len(extracted), store, memory, seconds, bound, free, notes=notes)
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
    named = {"features.zarr", "ledger", "manifest", "listing", "twins", "tables"}
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
        # The sample was listed too: what every listing takes is in its memory.
        "listing": sample.memory + listing_bytes(n) - LISTING,
        "worker": worker,
        "analysis": sample.memory + ANALYSED_BYTES * n + max(index, vectors),
    }


def _evaluated(pipeline: "Pipeline", n: int, dimension: int) -> int:
    from alike.analysis.analyse import BUDGET
    from alike.analysis.outlook import most_images

    share = 1.0 - pipeline.train_share - pipeline.validation_share
    return min(round(n * share), most_images(BUDGET, dimension))


def _times(
    pipeline: "Pipeline", sample: Sample, n: int, networks: int, gpus: int | None
) -> tuple[dict[str, float], str]:
    """Seconds of every step of the first run, and the slowest stage of extraction."""
    from alike.analysis.analyse import DEFAULT_MEASURES
    from alike.analysis.outlook import Load
    from alike.extract.machine import usable_cores

    cores, devices = usable_cores(), gpus or max(sample.gpus, 1)
    stages = {
        name: busy / (devices if name == "forward" else cores)
        for name, busy in sample.stages.items()
    }
    stage = max(stages, key=lambda name: stages[name])
    dimension = _dimension(pipeline, sample)
    evaluated = max(_evaluated(pipeline, n, dimension), 2)
    measures = len(pipeline.analyse.measures or DEFAULT_MEASURES)
    of_measure = Load(evaluated, dimension, evaluated).seconds(
        intervals=pipeline.analyse.bootstrap > 0
    )
    embedding = n * sample.stages["write"] / len(sample.stored) / cores
    passes = 1 + (networks > len(sample.stored))
    people = _people_seconds(pipeline, evaluated)
    several = (
        {"compare": len(sample.stored) * (of_measure / cores + people)} if sample.others else {}
    )
    seconds = {
        "list": n * sample.list_seconds / max(cores, 4),
        "extract": n * stages[stage] * passes,
        "index": embedding + n * dimension * 4 / 1e9,
        "analyse": measures * networks * of_measure / cores + len(sample.stored) * people,
        **several,
    }
    return {name: one + sample.fixed.get(name, 0.0) for name, one in seconds.items()}, stage


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
    return {"disk": shutil.disk_usage(above).free, "memory": int(memory.total)}


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
