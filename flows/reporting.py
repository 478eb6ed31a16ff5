"""The report of a store, as the command line and `alike.write_report` ask for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from alike.extract.store import Store

VERSIONS = ("alike", "torch", "torchvision", "zarr", "dask", "openTSNE", "plotly", "numpy")


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        path: the HTML file.
        key: of the extraction that it is about.
        notes: what a reader must know: features that changed after the analysis.
    """

    path: Path
    key: str
    notes: tuple[str, ...]


def write_report(
    store: "str | Path | Store",
    features: str | None = None,
    after: str | None = None,
    to: str | Path = "report.html",
    *,
    title: str = "",
    maps: bool = True,
    thumbnails: bool = True,
    progress: Progress = silent,
) -> Written:
    """Write the report of what was analysed of one extraction, or of two side by side.

    The arguments are those of `alike.write_report`.

    Raises:
        BadInput: an extraction that is not there or was not analysed yet, or a place where no
            file can be written.
    """
    from alike.analysis.report import write_report as write
    from alike.analysis.stored import Analysis
    from alike.extract.replacing import HTML, check_target
    from alike.extract.store import Store

    check_target(to, endings=HTML)
    opened = store if isinstance(store, Store) else Store.open(store)
    key = opened.features(features).key
    before = Analysis.load(opened, key)
    second = Analysis.load(opened, opened.features(after).key) if after else None
    analyses = (before, second) if second else (before,)
    notes = [one.outdated(opened.features(one.key)) for one in analyses]
    notes += [note for one in analyses for note in one.sample_notes]
    comparison = _comparison(opened, before, second, progress) if second else None
    record = _record(opened, key, title)
    if second:
        record["likeness"] = _likeness(opened, before, second)
    path = write(
        to,
        before=before,
        after=second,
        comparison=comparison,
        store=opened,
        run=record,
        maps=maps,
        thumbnails=thumbnails,
        progress=progress,
    )
    return Written(path, key, tuple(filter(None, notes)))


def _comparison(store: "Store", before: Any, after: Any, progress: Any) -> "pd.DataFrame":
    from alike.analysis.compare import compare
    from alike.analysis.report import main_measure

    return compare(
        store.features(before.key),
        store.features(after.key),
        split=str(before.settings["split"]),
        seed=int(before.settings["seed"]),
        measure=main_measure(before),
        progress=progress,
    )


def _likeness(store: "Store", before: Any, after: Any) -> dict[str, float]:
    from alike.analysis.networks import network_similarity
    from alike.analysis.report import main_measure

    pair = (store.features(before.key), store.features(after.key))
    split, measure = str(before.settings["split"]), main_measure(before)
    return network_similarity(*pair, split=split, measure=measure)[0]


def _record(store: "Store", key: str, title: str) -> dict[str, Any]:
    """What the store knows about how its features were made."""
    import time
    from importlib.metadata import version

    features = store.features(key)
    view, bad = store.images(), features.bad()
    attrs = dict(features.attrs)
    source = store.source()[0]
    return {
        "title": title or Path(source).name,
        "source": source,
        "network": attrs.get("network"),
        "weights": attrs.get("weights"),
        "settings": {k: v for k, v in attrs.items() if k != "class_names"},
        "versions": {name: version(name) for name in VERSIONS},
        "images": {"listed": len(view), "ok": len(view) - len(bad), "bad": len(bad)},
        "bad": bad.to_dict(orient="records"),
        "created": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
