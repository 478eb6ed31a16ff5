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
from alike.extract.identity import network_titles


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
    titles = _titles(record, store)
    stale = [titles.get(key, key) for key in stale]
    where = f", only {record['where']}" if record.get("where") else ""
    best = record["best"]
    lead = (
        f"All networks of the store on the same images ({images}, {record['split']}{where}), by "
        f"{record['measure']}. Differences are to {titles.get(best, best)}, which has the highest "
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
    rows = [
        [_named(str(key), titles), *(_cell(part, name) for name in names)]
        for key, part in ranking.table.groupby("network", sort=False)
    ]
    body = table(heads, rows) + _notes(ranking.table, record.get("left_out", {}), titles)
    of = next((n for n in ("accuracy", "linear_probe") if n in names), None)
    pictures = []
    if of is not None:
        plot = network_figure(ranking.table, of, words(of).label, network, titles)
        title = f"Sameness against {words(of).label.lower()}"
        pictures.append(figure(plot, "networks", title=title, caption=_correlated(ranking)))
    if pairs is not None and len(pairs.places):
        shown = number(pairs.record["shown"], "share")
        pictures.append(figure(
            placed_networks(pairs.places, network, titles), "network-map", title="Map of networks",
            caption=f"Near networks see the images alike: the plane shows {shown} of the squared "
            "Procrustes angles.",
        ))  # fmt: skip
    body += columns(*pictures)
    if pairs is not None:
        body += _matrices(pairs.table, METHODS, titles) + _pairs(pairs.table, METHODS, titles)
    return section("networks", "Networks", lead, body)


def _titles(record: dict[str, Any], store: Any) -> dict[str, str]:
    """Key to network and weights in words; of networks that are gone as the record has them."""
    left_out = (name.partition(" ")[0] for name in record.get("left_out", {}))
    there = set(store.groups()) & {*record["digests"], *left_out}
    attrs = {key: store.features(key).attrs for key in sorted(there)}
    return {**record.get("titles", {}), **network_titles(attrs)}


def _notes(rows: pd.DataFrame, left_out: dict[str, str], titles: dict[str, str]) -> str:
    """What is left out and why, and what is to be said of a score, once for networks alike."""
    lines = []
    for name, reason in left_out.items():
        # A network, a part of what is said of one, or something of all.
        key, _, part = name.partition(" ")
        what = ": ".join(filter(None, [titles[key], part])) if key in titles else name
        lines.append(f"Left out: {what}: {reason}")
    every = rows["network"].nunique()
    for (score, note), part in rows[rows["note"] != ""].groupby(["score", "note"], sort=False):
        named = "; ".join(titles.get(one, one) for one in part["network"])
        of = "" if len(part) == every else f" ({named})"
        lines.append(f"{words(score).label}{of}: {note}")
    items = "".join(f"<li>{prose(line)}</li>" for line in lines)
    return f'<ul class="plain">{items}</ul>' if items else ""


def _named(key: str, titles: dict[str, str]) -> object:
    """Network and weights in words, and under them the key, which commands take."""
    under = f'<span class="sub">{text(key)}</span>' if key in titles else ""
    return Html(text(titles.get(key, key)) + under), titles.get(key, key)


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


def _matrices(pairs: pd.DataFrame, methods: dict[str, str], titles: dict[str, str]) -> str:
    """A matrix of the networks by each method, two side by side, all in one order."""
    order, figures = network_order(pairs), []
    for method, about in methods.items():
        square = network_matrix(pairs, method)
        if np.isfinite(square.to_numpy()).any():
            plot = network_matrix_figure(square, order, method, titles)
            name = method.replace("_", "-")
            figures.append(figure(
                plot, f"networks-by-{name}", title=f"Networks against networks: {method}",
                caption=f"{about[0].upper()}{about[1:]}. Dark is alike.",
            ))  # fmt: skip
    return "".join(columns(*figures[at : at + 2]) for at in range(0, len(figures), 2))


def _pairs(pairs: pd.DataFrame, methods: dict[str, str], titles: dict[str, str]) -> str:
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
        names = [titles.get(key, key) for key in (row.a, row.b)]
        rows.append([*names, (Html(label), row.method), *cells])
    return details(
        "Networks against networks: values and their nulls", table(heads, rows, tall=True)
    )
