"""The section on all networks of the store: how they rank, and how alike they are to each other."""

from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.figures import (
    network_figure,
    network_matrix,
    network_matrix_figure,
    network_order,
    placed_networks,
)
from alike.analysis.report.older import changed, same_images
from alike.analysis.report.parts import Html, columns, details, figure, prose, section, table, text
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import DASH, interval_words, number, words
from alike.extract.command import command_of


def networks_section(subject: Subject, store: Any) -> str:
    """What `alike compare --all` kept; nothing if it did not run."""
    # Here, for a report of tables alone needs none of it.
    from alike.analysis.ranking import RANKED, Ranking
    from alike.analysis.similarity import METHODS, NetworkPairs

    ranking, pairs = Ranking.load(store), NetworkPairs.load(store)
    network = subject.last.key
    if ranking is None or network not in set(ranking.table["network"]):
        return ""
    record = ranking.record
    images = f"{record['images']} images"
    if record["images"] != record["of"]:
        images = f"a stratified sample of {record['images']} of {record['of']} images"
    stale = [key for key, digest in record["digests"].items() if changed(store, key, digest)]
    if pairs is not None and pairs.record["digests"] != record["digests"]:
        # A run was killed between both, or only one was made again.
        stale += [key for key in pairs.record["digests"] if key not in stale]
    where = f", only {record['where']}" if record.get("where") else ""
    lead = (
        f"All networks of the store on the same images ({images}, {record['split']}{where}), by "
        f"{record['measure']}. Differences are to {record['best']}, which has the highest "
        "sameness. Intervals are 95 % each, not adjusted for the number of networks."
    )
    old = f"These changed since: {', '.join(stale)}." if stale else ""
    if not stale and ranking.other_images(store):
        old = "Images, their labels or sides came or changed since."
    if old:
        options = ("--all", "--measure", str(record["measure"]), *same_images(record))
        lead += f" {old} Run `{command_of('compare', store, '', *options)}` again."
    names = [name for name in RANKED if name in set(ranking.table["score"])]
    heads = [("Network", "t"), *((words(name).label, "n") for name in names)]
    titles = record.get("titles", {})
    rows = [
        [_named(str(key), titles), *(_cell(part, name) for name in names)]
        for key, part in ranking.table.groupby("network", sort=False)
    ]
    body = table(heads, rows) + _notes(ranking.table, record.get("left_out", {}))
    of = next((n for n in ("accuracy", "linear_probe") if n in names), None)
    pictures = []
    if of is not None:
        plot = network_figure(ranking.table, of, words(of).label, network)
        title = f"Sameness against {words(of).label.lower()}"
        pictures.append(figure(plot, "networks", title=title, caption=_correlated(ranking)))
    if pairs is not None and len(pairs.places):
        shown = number(pairs.record["shown"], "share")
        pictures.append(figure(
            placed_networks(pairs.places, network), "network-map", title="Map of networks",
            caption=f"Near networks see the images alike: the plane shows {shown} of the squared "
            "Procrustes angles.",
        ))  # fmt: skip
    body += columns(*pictures)
    if pairs is not None:
        body += _matrices(pairs.table, METHODS) + _pairs(pairs.table, METHODS)
    return section("networks", "Networks", lead, body)


def _notes(rows: pd.DataFrame, left_out: dict[str, str]) -> str:
    """What is left out and why, and what is to be said of a score, once for networks alike."""
    lines = [f"Left out: {key}: {reason}" for key, reason in left_out.items()]
    every = rows["network"].nunique()
    for (score, note), part in rows[rows["note"] != ""].groupby(["score", "note"], sort=False):
        of = "" if len(part) == every else f" ({', '.join(part['network'])})"
        lines.append(f"{words(score).label}{of}: {note}")
    items = "".join(f"<li>{prose(line)}</li>" for line in lines)
    return f'<ul class="plain">{items}</ul>' if items else ""


def _named(key: str, titles: dict[str, str]) -> object:
    """A key, and under it the network and its weights in words."""
    under = f'<span class="sub">{text(titles[key])}</span>' if key in titles else ""
    return Html(text(key) + under), key


def _cell(part: pd.DataFrame, name: str) -> object:
    rows = part[part["score"] == name]
    if rows.empty:
        return ("", "")
    row, form = rows.iloc[0], words(name).form
    span = interval_words(row["low"], row["high"], form)
    apart = interval_words(row["difference_low"], row["difference_high"], form, signed=True)
    lines = [span, f"difference {apart}" if apart else ""]
    under = "".join(f'<span class="sub">{text(line)}</span>' for line in lines if line)
    return (Html(text(number(row["value"], form)) + under), float(row["value"]))


def _correlated(ranking: Any) -> str:
    parts = []
    for row in ranking.correlation.itertuples():
        span = interval_words(row.low, row.high)
        sure = f"95 % interval {span}" if span else row.note
        parts.append(
            f"Rank correlation of sameness with {words(row.of).label.lower()} over "
            f"{row.networks} networks: {number(row.value)} ({sure})."
        )
    return " ".join(parts)


def _matrices(pairs: pd.DataFrame, methods: dict[str, str]) -> str:
    """A matrix of the networks by each method, two side by side, all in one order."""
    order, figures = network_order(pairs), []
    for method, about in methods.items():
        square = network_matrix(pairs, method)
        if np.isfinite(square.to_numpy()).any():
            plot = network_matrix_figure(square, order, method)
            name = method.replace("_", "-")
            figures.append(figure(
                plot, f"networks-by-{name}", title=f"Networks against networks: {method}",
                caption=f"{about[0].upper()}{about[1:]}. Dark is alike.",
            ))  # fmt: skip
    return "".join(columns(*figures[at : at + 2]) for at in range(0, len(figures), 2))


def _pairs(pairs: pd.DataFrame, methods: dict[str, str]) -> str:
    """The same as rows, with what permuted images give."""
    heads = [("Network", "t"), ("and", "t"), ("Comparison", "t"), ("Value", "n")]
    heads += [("If images are permuted", "n"), ("z", "n")]
    rows = []
    for row in pairs.itertuples():
        under = [methods[row.method], *([row.note] if row.note else [])]
        label = text(row.method) + "".join(f'<span class="sub">{text(s)}</span>' for s in under)
        null = f"{number(row.null_mean)} ± {number(row.null_sd)}" if np.isfinite(row.z) else DASH
        z = f"{row.z:.3g}" if np.isfinite(row.z) else DASH
        cells = [(number(row.value), row.value), (null, row.null_mean), (z, row.z)]
        rows.append([row.a, row.b, (Html(label), row.method), *cells])
    return details(
        "Networks against networks: values and their nulls", table(heads, rows, tall=True)
    )
