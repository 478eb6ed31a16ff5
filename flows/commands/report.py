"""`alike report`: one self-contained HTML page about an extraction, or about two."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alike.flows.options import FeaturesOption, JsonOption, StoreOption

if TYPE_CHECKING:
    import pandas as pd

    from alike.extract.store import Store

VERSIONS = ("alike", "torch", "torchvision", "zarr", "dask", "openTSNE", "plotly", "numpy")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("report")
    def report(
        store: StoreOption,
        features: FeaturesOption = None,
        after: Annotated[
            str | None, typer.Option(help="A second extraction, set beside the first.")
        ] = None,
        to: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
        title: Annotated[str, typer.Option(help="In the first line.")] = "",
        maps: Annotated[bool, typer.Option(help="Show the map of the images.")] = True,
        thumbnails: Annotated[bool, typer.Option(help="Show the images.")] = True,
        as_json: JsonOption = False,
    ) -> None:
        """Write the report of what `alike analyse` found; it loads nothing from anywhere.

        `alike report --store pets.store --to pets.html`

        `alike report --store pets.store --features resnet18-aa… --after resnet18-bb…`
        """
        from alike.analysis.analyse import Analysis
        from alike.analysis.report import write_report
        from alike.extract.store import Store
        from alike.flows.console import print_json, progress_bars

        opened = Store.open(store)
        key = opened.features(features).key
        before = Analysis.load(opened, key)
        second = Analysis.load(opened, opened.features(after).key) if after else None
        for analysis in (before, *([second] if second else [])):
            if warning := analysis.outdated(opened.features(analysis.key).digest):
                typer.echo(f"note: {warning}", err=True)
        with progress_bars() as progress:
            comparison = _comparison(opened, before, second, progress) if second else None
            record = _record(opened, key, title)
            if second:
                record["likeness"] = _likeness(opened, before, second)
            path = write_report(
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
        if as_json:
            print_json({"report": str(path.resolve()), "before": key, "after": after})
        else:
            typer.echo(f"report: {path.resolve()}")


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
    from alike.analysis.networks import likeness
    from alike.analysis.report import main_measure

    pair = (store.features(before.key), store.features(after.key))
    split, measure = str(before.settings["split"]), main_measure(before)
    return likeness(*pair, split=split, measure=measure)[0]


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
