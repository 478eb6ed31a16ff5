"""`alike runs …`: the history of a store: list, show, compare, plot, and accept a reference."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from alike.flows.console import print_json, print_table
from alike.flows.options import PATH

Place = Annotated[str, typer.Argument(help="Settings file (.toml), or a store.")]
Run = Annotated[
    str,
    typer.Argument(
        help="Id of a run, the end or beginning of one, last, last~1 (before it), or accepted."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(
        help="List, show, compare and plot past runs; accept one as the reference of alarms.\n\n"
        "Example: alike runs ls pipeline.toml",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    commands.command("ls")(ls)
    commands.command("show")(show)
    commands.command("diff")(diff)
    commands.command("plot")(plot)
    commands.command("accept")(accept)
    app.add_typer(commands, name="runs")


def ls(place: Place, json: Json = False) -> None:
    """List the runs that did something or failed, oldest first, and how often nothing had changed.

    Scores are those of the first network; `alike runs show` has those of all.

    Example: `alike runs ls pipeline.toml`
    """
    from alike.flows.history import History
    from alike.flows.runs import runs_document, store_of

    document = runs_document(History(store_of(place)))
    if json:
        print_json(document)
        return
    table, unchanged = document["runs"], document["unchanged"]
    print_table(table.astype(object).where(table.notna(), ""))
    if unchanged is not None:
        times = f"{unchanged['times']} {'run' if unchanged['times'] == 1 else 'runs'}"
        sys.stdout.write(
            f"nothing had changed in {times} since {unchanged['since']}, the "
            f"last at {unchanged['last'][:16]}\n"
        )
    for fault in document["faults"]:
        sys.stdout.write(f"note: {fault}\n")


def show(place: Place, run: Run = "last", json: Json = False) -> None:
    """Show all that is recorded of a run.

    Example: `alike runs show pipeline.toml last`
    """
    from dataclasses import asdict

    import pandas as pd

    from alike.flows.history import History
    from alike.flows.runs import network_titles_of, run_document, store_of

    store = store_of(place)
    record = History(store).find(run)
    titles = network_titles_of(record, store)
    if json:
        print_json(run_document(record, store))
        return
    for title in titles.values():
        sys.stdout.write(f"{title}\n")
    hidden = ("scores", "settings", "paired", "others")
    plain = {name: value for name, value in asdict(record).items() if name not in hidden}
    rows = [(name, value) for name, value in plain.items() if value not in ("", {}, [])]
    print_table(pd.DataFrame(rows, columns=["what", "value"]))
    by_network = {"": record.scores}
    by_network |= {label: one.scores for label, one in record.others.items()}
    for label, by_measure in by_network.items():
        scores = [
            (measure, name, *score)
            for measure, of in by_measure.items()
            for name, score in of.items()
            if score[0] is not None
        ]
        table = pd.DataFrame(scores, columns=["measure", "score", "value", "low", "high"])
        numbers = table.astype(dict.fromkeys(("value", "low", "high"), float))
        print_table(numbers, titles.get(label, label))


def diff(
    place: Place,
    before: Run,
    after: Annotated[
        list[str] | None,
        typer.Argument(help="Further runs, the last one last. [default: last]"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is the same in all of the runs.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what two runs or more differ in: settings, versions, networks, images and scores.

    Examples:
        alike runs diff pipeline.toml 3f2a1b last

        alike runs diff pipeline.toml 3f2a1b 9c0d4e last --all
    """
    from alike.flows.history import History
    from alike.flows.runs import difference, store_of

    records = History(store_of(place)).find_all([before, *(after or ["last"])])
    document = difference(records, everything=everything)
    if json:
        print_json(document)
        return
    heads = ["before", "after"] if len(records) == 2 else [one.id[-6:] for one in records]
    named = {name: document[name] for name in ("settings", "versions", "network")}
    for title, part in (named | document["further"]).items():
        rows = [(name, *values) for name, values in part.items()]
        if rows:
            _print_rows(rows, [title, *heads])
    for part, names in (("counts", ["count"]), ("scores", ["measure", "score"])):
        rows = [
            (*(row[name] for name in names), *row["values"], row["difference"], row["network"])
            for row in document[part]
        ]
        if rows:
            _print_rows(rows, [*names, *heads, "difference", "network"])
    if not any(document[name] for name in (*named, "further", "counts", "scores")):
        sys.stdout.write(f"{' and '.join(one.id for one in records)} differ in nothing\n")
    if document["series"]:
        sys.stdout.write(f"note: {document['series']}\n")


def _print_rows(rows: list[tuple[Any, ...]], columns: list[str]) -> None:
    """Print rows; what a run has not is left empty."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=columns).convert_dtypes()
    print_table(table.astype(object).where(table.notna(), "") if table.isna().any(axis=None)
                else table)  # fmt: skip


def plot(
    place: Place,
    to: Annotated[Path, typer.Option("--to", **PATH, help="HTML file to write.")] = Path(
        "runs.html"
    ),
    json: Json = False,
) -> None:
    """Write a figure of the scores, the images and the share of bad ones over all good runs.

    One figure for each network of the last run; the first is that which is served.

    Example: `alike runs plot pipeline.toml --to runs.html`
    """
    from dataclasses import asdict

    from alike.analysis.figures import over_time
    from alike.analysis.report import runs_of, series_table
    from alike.extract.errors import BadInput
    from alike.extract.replacing import HTML, aside, check_target
    from alike.flows.history import History
    from alike.flows.runs import store_of

    records = [one for one in History(store_of(place)).records() if one.good]
    if not records:
        raise BadInput(f"{place} has no good run yet: run `alike run` first")
    check_target(to, endings=HTML)
    runs = [asdict(one) for one in records]
    figures = {"": over_time(series_table(runs))}
    for label in records[-1].others:
        figures[label] = over_time(series_table(runs_of(runs, label)))
    with aside(to) as part:
        part.write_text(_page(figures), encoding="utf-8")
    if json:
        networks = list(records[-1].others)
        print_json({"file": str(to), "runs": len(records), "further_networks": networks})
    else:
        sys.stdout.write(f"{to}: {len(records)} runs\n")


def _page(figures: Mapping[str, Any]) -> str:
    """A page of figures, each below the label of its network; one without a label comes first."""
    import html

    parts = [
        f"<h2>{html.escape(label)}</h2>" * bool(label)
        + figure.to_html(full_html=False, include_plotlyjs=not label)
        for label, figure in figures.items()
    ]
    return f'<!DOCTYPE html><html><meta charset="utf-8"><body>{"".join(parts)}</body></html>'


def accept(place: Place, run: Run = "last", json: Json = False) -> None:
    """Accept a good run as the reference: alarms tell of scores that fell since it.

    Example: `alike runs accept pipeline.toml last`
    """
    from alike.flows.history import History
    from alike.flows.recording import user
    from alike.flows.runs import store_of

    history = History(store_of(place))
    record = history.find(run)
    history.accept(record, user())
    if json:
        print_json({"run": record.id})
    else:
        sys.stdout.write(f"{record.id} is the reference from now on\n")
