"""What a sample of the images takes: extracted and analysed in a folder that is deleted."""

import importlib
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
GROUP = 16
"""Images of the groups whose twins are searched apart."""


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
        rates: processor seconds that an image takes of extraction (`cpu`), and seconds that one
            takes to embed (`vector`), an image and a pair of images in the search of twins
            (`twin`, `twin_pair`).
        memory: largest memory of this process, bytes.
        loaded: the same before any image went through a network.
        device: that the forward pass ran on.
        gpus: that this machine has.
        notes: what could not be measured.
        others: what is stored of the second and further networks.
        fixed: seconds of a step that a few images take too: imports, checks, first passes.
        dims: length of the vectors of every measure that evaluates the first network, the
            headline's first.
        largest: images of the largest class.
    """

    images: int
    listed: int
    arrays: "Mapping[str, ArraySpec]"
    ratio: Mapping[str, float]
    stages: Mapping[str, float]
    list_seconds: float
    rates: Mapping[str, float]
    parts: Mapping[str, float]
    per_image: Mapping[str, float]
    memory: int
    loaded: int
    device: str
    gpus: int
    notes: tuple[str, ...] = ()
    others: tuple["Stored", ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    largest: int = 0

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
    began = time.perf_counter()
    import torch

    from alike.extract.forward import choose_device
    from alike.extract.images import image_id
    from alike.extract.pipeline import extract_networks
    from alike.extract.preview import spread
    from alike.extract.store import Store

    importlib.import_module("alike.analysis.analyse")
    start = time.perf_counter() - began
    source = source_of(pipeline)
    classes = Counter(one.label for one in source)
    listed = classes.total()
    paths = [path for path, _ in spread(source, listed, MOST)]
    started = time.perf_counter()
    for path in paths[:LEAST]:
        image_id(source.read(path))
    list_seconds = (time.perf_counter() - started) / max(len(paths[:LEAST]), 1)
    began = time.perf_counter()
    networks = [(load_one(one, one.weights), taps_of(pipeline, one)) for one in pipeline.networks]
    start += time.perf_counter() - began
    loaded = _peak()
    settings: dict[str, Any] = {
        "device": pipeline.extract.device, "precision": pipeline.extract.precision,
        "batch_size": pipeline.extract.batch_size,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="alike-plan-") as folder:
        store = Store.open(f"{folder}/store", create=True)
        store.set_split(pipeline.train_share, pipeline.images.salt, pipeline.validation_share)
        store.set_twins(pipeline.images.twins or "together")
        few = _Part(source, set(paths[:: max(len(paths) // 8, 1)]))
        began = time.perf_counter()
        first, *others = extract_networks(few, networks, store, **settings)
        alone = time.perf_counter() - began
        if not first.n_rows:
            raise BadInput(f"none of {first.n_listed} images of {source.spec} can be used")
        passes = list[_Pass]()
        count = LEAST
        for _ in range(2):
            part = _Part(source, set(paths[:: max(len(paths) // count, 1)]))
            busy = time.process_time()
            report, *others = extract_networks(part, networks, store, **settings)
            busy = time.process_time() - busy
            if not report.n_computed:
                break
            passes.append(_Pass(report.n_computed, dict(report.stages), busy))
            one = max(sum(report.stages.values()) / report.n_computed, 1e-4)
            count = min(max(int(seconds / one), 2 * LEAST), len(paths))
        passes = passes or [_Pass(first.n_computed, dict(first.stages), 0.0)]
        began = time.perf_counter()
        extract_networks(part, networks, store, **settings)
        each = rates_of(passes)
        # The first pass of a process imports, prepares the network and warms up; a run has one.
        alone -= first.n_computed * sum(each.stages.values())
        fixed = {"extract": start + max(alone, time.perf_counter() - began)}
        features = store.features(report.key)
        fixed["index"], vector = index_seconds(features, pipeline.index.measure)
        rates = {"vector": vector, "cpu": each.busy}
        if store.twins() != "ignore":
            rates["twin"], rates["twin_pair"] = twin_seconds(store)
        began = time.perf_counter()
        notes, dims = _analyse(pipeline, features)
        fixed["analyse"] = time.perf_counter() - began
        parts = _bytes_below(Path(folder) / "store")
        return Sample(
            images=report.n_rows,
            listed=listed,
            arrays=features.arrays,
            ratio=_ratios(features),
            stages=each.stages,
            list_seconds=list_seconds,
            rates=rates,
            parts=parts,
            per_image=_per_image(store, features, parts),
            memory=_peak(),
            loaded=loaded,
            device=str(choose_device(pipeline.extract.device)),
            gpus=torch.cuda.device_count(),
            notes=tuple(notes),
            others=tuple(_stored_of(store.features(one.key)) for one in others),
            fixed=fixed,
            dims=dims,
            largest=max(n for label, n in classes.items() if label is not None or n == listed),
        )


@dataclass(frozen=True)
class _Pass:
    """What a pass over some images took, or an image.

    Attributes:
        images: that were computed.
        stages: busy seconds of each, over all threads.
        busy: processor seconds.
    """

    images: int
    stages: dict[str, float]
    busy: float


def rates_of(passes: Sequence[_Pass]) -> _Pass:
    """What an image takes, beside what any pass takes: seconds.

    A pass prepares the network and warms up. Of few images of a small network that is nearly all
    of the time, so an image takes what the larger of two passes took more, by the images more.

    Examples:
        >>> few = _Pass(10, {"forward": 1.5}, 2.0)
        >>> rates_of([few, _Pass(110, {"forward": 2.5}, 4.0)])
        _Pass(images=1, stages={'forward': 0.01}, busy=0.02)
        >>> rates_of([few])
        _Pass(images=1, stages={'forward': 0.15}, busy=0.2)
    """
    last = passes[-1]
    few = passes[0] if len(passes) > 1 and last.images > passes[0].images else None
    apart = last.images - (few.images if few else 0)

    def one(long: float, short: float) -> float:
        # Where another program held up the smaller pass, the whole of the larger one counts.
        return (long - short) / apart if long > short else long / last.images

    before = few.stages if few else {}
    stages = {name: one(spent, before.get(name, 0.0)) for name, spent in last.stages.items()}
    return _Pass(1, stages, one(last.busy, few.busy if few else 0.0))


def index_seconds(features: "Features", measure: str) -> tuple[float, float]:
    """What the exact index of a measure takes.

    Args:
        features: the extraction.
        measure: its name.

    Returns:
        Seconds of any index, and seconds an image: read, embedded.
    """
    from alike.extract.measures import embed_rows, ready_measure
    from alike.index.build import build_index

    rows = features.table()["row"].to_numpy()
    try:
        ready = ready_measure(features, measure)
        each = shortest(lambda: embed_rows(features, ready, rows)) / max(len(rows), 1)
        whole = shortest(lambda: build_index(features, measure), 1)
    except BadInput:
        # The run says what is wrong with it.
        return 0.0, 0.0
    return max(whole - each * len(rows), 0.0), each


def twin_seconds(store: "Store") -> tuple[float, float]:
    """What the search of twins takes, on all cores.

    Args:
        store: whose images have signatures.

    Returns:
        Seconds an image, and seconds a pair of images.
    """
    from alike.extract.machine import usable_cores
    from alike.extract.twins.links import find_links

    _, _, thumbnails, hashes = store.signatures.read()
    n = len(thumbnails)
    if n <= GROUP:
        return 0.0, 0.0
    order = np.random.default_rng(0).permutation(n)
    groups = np.array_split(order, -(-n // GROUP))

    def search(parts: list[NDArray[np.int64]]) -> None:
        for part in parts:
            find_links(thumbnails[part], hashes[part])

    search(groups[:1])
    whole = shortest(lambda: search([order]), clock=time.process_time)
    apart = shortest(lambda: search(groups), clock=time.process_time)
    call = shortest(lambda: search([order[:1]]), clock=time.process_time)
    apart -= (len(groups) - 1) * call
    # Now both search every image once; the groups leave out the pairs between them.
    within = sum(len(group) * (len(group) - 1) for group in groups) / 2
    pairs = n * (n - 1) / 2
    pair = max(whole - apart, 0.0) / (pairs - within)
    cores = usable_cores()
    return max(whole - pair * pairs, 0.0) / n / cores, pair / cores


def shortest(
    work: Callable[[], object], turns: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the fastest of some turns."""
    times = []
    for _ in range(turns):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


def _stored_of(features: "Features") -> Stored:
    return Stored(features.arrays, _ratios(features))


def _analyse(pipeline: "Pipeline", features: "Features") -> tuple[list[str], dict[str, int]]:
    """Analyse the sample, for the bytes of its tables; why not, and the length of its vectors."""
    from alike.analysis.analyse import AnalysisSettings, analyse
    from alike.analysis.blocks import measured_rows
    from alike.extract.measures import SET_MEASURES, ready_measure

    measures = pipeline.analyse.measures or None
    try:
        found = analyse(
            features, AnalysisSettings(measures=measures, bootstrap=pipeline.analyse.bootstrap)
        )
    except BadInput as error:
        return [f"the sample cannot be analysed, so its tables are left out: {error}"], {}
    few = features.table()["row"].to_numpy()[:1]
    names = [name for name in found.settings["measures"] if name not in SET_MEASURES]
    ready = {name: ready_measure(features, name) for name in names}
    return [], {name: measured_rows(features, one, few).dim for name, one in ready.items()}


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
