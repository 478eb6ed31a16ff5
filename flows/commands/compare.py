"""`alike compare`: two networks or two weights on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import (
    ClusterOption,
    HumanOption,
    JsonOption,
    OldDaskOption,
    OldWorkersOption,
    Split,
    SplitOption,
    StoreOption,
    WhereOption,
)

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.people import HumanAnswers
    from alike.extract.store import Store

INTERVALS = "95 % intervals stand under the numbers, not adjusted for the number of networks"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("compare")
    def compare(
        store: StoreOption,
        a: Annotated[
            str | None, typer.Argument(help="Key of the first extraction.", show_default=False)
        ] = None,
        b: Annotated[
            str | None, typer.Argument(help="Key of the second extraction.", show_default=False)
        ] = None,
        every: Annotated[
            bool,
            typer.Option(
                "--all", help="Every extraction of the store, ranked, and kept for the report."
            ),
        ] = False,
        store_b: Annotated[
            str | None, typer.Option(help="Store of the second one. [default: --store]")
        ] = None,
        measure: Annotated[str, typer.Option(help="Measure of distance, for both.")] = "gap_cosine",
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        bootstrap: Annotated[
            int, typer.Option(min=0, help="Not used since 0.2.0: nothing is resampled.")
        ] = 1000,
        seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the draws.")] = 0,
        human: HumanOption = None,
        cluster: ClusterOption = None,
        dask: OldDaskOption = None,
        workers: OldWorkersOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare two extractions on the same images. Intervals are of the paired difference.

        `alike compare resnet20-5c1a… resnet32-91bd… --store cifar.store`

        `alike compare --all --store cifar.store`

        `alike compare --all --store cifar.store --human votes.csv`
        """
        from alike.extract.errors import BadInput

        if every and (a or b or store_b):
            raise BadInput("--all takes every extraction of --store: give no keys and no --store-b")
        cluster = cluster or dask or workers
        if every:
            _compare_all(store, measure, split, where, seed, human, cluster, as_json=as_json)
            return
        if a is None or b is None:
            raise BadInput("give the keys of two extractions (see `alike store ls`), or --all")
        import pandas as pd

        from alike.analysis.compare import compare as set_side_by_side
        from alike.analysis.compare import compared_images, comparison_notes
        from alike.analysis.networks import SIMILARITY, network_similarity
        from alike.extract.identity import network_titles
        from alike.extract.store import Store
        from alike.flows.cluster import cluster_jobs
        from alike.flows.console import print_json, print_table, progress_bars
        from alike.flows.trained_images import check_held_out

        first = Store.open(store).features(a).only(where)
        second = Store.open(store_b or store).features(b).only(where)
        if split in (Split.HELD_OUT, Split.VALIDATION):
            for side in (first, second):
                for note in check_held_out(side, split.value):
                    say(f"note: {note}")
        titles = network_titles({"a": first.attrs, "b": second.attrs})
        answers = _answers(human, first.whole.table("all"))
        with cluster_jobs(cluster) as jobs, progress_bars() as progress:
            if jobs.dashboard:
                say(f"dask dashboard: {jobs.dashboard}")
            table = set_side_by_side(
                first,
                second,
                split=split.value,
                measure=measure,
                bootstrap=bootstrap,
                seed=seed,
                human=answers,
                jobs=jobs,
                progress=progress,
            )
        for note in comparison_notes(table, measure):
            say(f"note: {note}")
        if not as_json:
            of_what = compared_images(table) + (f" of {where}" if where else "")
            for name, key in (("a", a), ("b", b)):
                typer.echo(f"{name}: {key}, {titles[name]}")
            print_table(table, f"{measure}, {of_what}")
        alike, _ = network_similarity(first, second, split=split.value, measure=measure, seed=seed)
        if as_json:
            print_json({
                "a": a, "b": b, "titles": titles, "measure": measure, "split": split.value,
                "where": where, "scores": table, "likeness": alike,
                "n_images": table.attrs["images"],
                "n_images_before_sampling": table.attrs["of"], "lost": table.attrs["lost"],
                "influence_of": table.attrs["influence_of"], "at_end": table.attrs["at_end"],
                "human": answers.record if answers else {},
            })  # fmt: skip
        else:
            rows = [(name, value, SIMILARITY[name]) for name, value in alike.items()]
            print_table(
                pd.DataFrame(rows, columns=["likeness", "value", "meaning"]),
                "how alike the two see these images",
            )


def _answers(human: Path | None, images: "pd.DataFrame") -> "HumanAnswers | None":
    """What people said of the images of a store; notes are printed."""
    from alike.analysis.people import read_answers

    answers = None if human is None else read_answers(human, images)
    for note in answers.notes if answers else ():
        say(f"note: {note}")
    return answers


def _ranked_with_people(store: "Store") -> bool:
    """Whether the table that there is has scores against people."""
    from alike.analysis.ranking import Ranking
    from alike.extract.errors import StoreDamaged

    try:
        before = Ranking.load(store)
    except StoreDamaged:
        return False  # The new one repairs it.
    return before is not None and bool(before.record.get("human"))


def _compare_all(
    store: str,
    measure: str,
    split: Split,
    where: str | None,
    seed: int,
    human: Path | None,
    cluster: str | None,
    *,
    as_json: bool,
) -> None:
    from alike.analysis.people import human_notes
    from alike.analysis.ranking import OF_PEOPLE
    from alike.analysis.similarity import METHODS
    from alike.extract.store import Store
    from alike.flows.cluster import cluster_jobs
    from alike.flows.comparing import compare_all
    from alike.flows.console import print_json, print_table, progress_bars
    from alike.flows.trained_images import check_held_out

    opened = Store.open(store)
    if split in (Split.HELD_OUT, Split.VALIDATION):
        for key in opened.groups():
            for note in check_held_out(opened.features(key), split.value):
                say(f"note: {key}: {note}")
    answers = _answers(human, opened.images())
    had_people = _ranked_with_people(opened)
    with cluster_jobs(cluster) as jobs, progress_bars() as progress:
        ranking, pairs = compare_all(
            opened, measure=measure, split=split.value, where=where, seed=seed, human=answers,
            jobs=jobs, progress=progress,
        )  # fmt: skip
    record = ranking.record
    # Only now: what fails leaves the table as it was.
    if had_people and not record["human"]:
        say("note: this replaces the table with what people said: give --human to have it again")
    for key, reason in record["left_out"].items():
        say(f"note: left out: {key}: {reason}")
    if as_json:
        shown = {"networks": ranking.table, "rank_correlation": ranking.correlation}
        print_json({**record, "where": where, **shown, "pairs": pairs.table, "map": pairs.places})
        return
    n, of = record["images"], record["of"]
    images = f"{n} images" if n == of else f"a stratified sample of {n} of {of} images"
    of_what = f"{images} of {where}" if where else images
    number = {key: str(at) for at, key in enumerate(ranking.keys, 1)}
    for key, at in number.items():
        typer.echo(f"{at}: {key}, {record['titles'][key]}")
    typer.echo(INTERVALS)
    for of, title in (
        ("value", f"{measure}, {of_what}, {split.value}"),
        ("difference", "difference to network 1"),
    ):
        shown = ranking.with_intervals(of)
        people = [name for name in OF_PEOPLE if name in shown]
        # The longest name would fold every column of 120 characters.
        own = shown.drop(columns=people).rename(
            columns=lambda name: name.replace("class_", "class\n")
        )
        print_table(own, title)
        if people:
            print_table(shown[["network", *people]], f"alike to people: {title}")
    of_people = ranking.table["score"].isin(OF_PEOPLE)
    noted = ranking.table[~of_people & (ranking.table["note"] != "")]
    for (score, note), rows in noted.groupby(["score", "note"], sort=False):
        typer.echo(f"note: {score} ({', '.join(rows['network'].map(number))}): {note}")
    for note in human_notes(ranking.table[of_people]):
        typer.echo(f"note: alike to people: {note}")
    if len(ranking.correlation):
        print_table(ranking.correlation, "rank correlation of sameness over networks")
    shown = pairs.table.drop(columns="note").replace({"a": number, "b": number})
    print_table(shown, "networks against networks, and permuted images")
    for method, about in METHODS.items():
        typer.echo(f"{method}: {about}")
    noted = pairs.table[pairs.table["note"] != ""]
    for (method, note), rows in noted.groupby(["method", "note"], sort=False):
        of = len(pairs.table) // len(METHODS)
        typer.echo(f"note: {method}, {len(rows)} of {of} pairs: {note}")
    typer.echo("kept for the report of any of these networks")
