"""`alike store …`: is it whole, what is in it, clean it up, upgrade it, move a group."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from alike.flows.console import print_json, print_table, progress_bars
from alike.flows.log_lines import say
from alike.flows.options import PATH, StoreOption

Url = Annotated[str, typer.Argument(help="Store: a folder, or a URL such as s3://bucket/place.")]
Key = Annotated[str | None, typer.Option("--features", help="Key of an extraction. [default: all]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(
        help="Verify, list and clean up a feature store; show its history; move extractions.\n\n"
        "Example: alike store verify pets.store",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    commands.command("verify")(verify)
    commands.command("ls")(ls)
    commands.command("log")(log)
    commands.command("gc")(gc)
    commands.command("forget")(forget)
    commands.command("upgrade")(upgrade)
    commands.command("export")(export)
    commands.command("import")(import_)
    app.add_typer(commands, name="store")


def verify(
    url: Url,
    key: Key = None,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Change nothing. For a read-only store.")
    ] = False,
    json: Json = False,
) -> None:
    """Read and hash all recorded data again, and name what is damaged.

    Damaged rows are removed from the ledger, so that `alike extract` computes them again. The exit
    status is 1 if anything is damaged.

    Example: `alike store verify features --json`
    """
    from dataclasses import asdict

    import pandas as pd

    from alike.extract.store import Store
    from alike.extract.store import verify as check

    with progress_bars() as progress:
        verdict = check(Store.open(url), key, mark=not check_only, progress=progress)
    if json:
        print_json(asdict(verdict))
    elif verdict.damage:
        print_table(pd.DataFrame([asdict(one) for one in verdict.damage]), "damaged")
    if not json:
        sys.stdout.write(
            f"{verdict.units} units, {verdict.rows} rows of arrays, {verdict.gigabytes:.3g} GB "
            f"hashed again: {len(verdict.damage) or 'nothing'} damaged\n"
        )
    for note in verdict.notes if not json else ():
        sys.stdout.write(f"{note}\n")
    if verdict.damage:
        raise typer.Exit(1)


def ls(
    url: Url,
    key: Key = None,
    bad: Annotated[bool, typer.Option("--bad", help="List the images without a feature.")] = False,
    json: Json = False,
) -> None:
    """List the extractions and arrays of a store, or with `--bad` the images without a feature.

    Example: `alike store ls features --bad`
    """
    from alike.extract.store import Store, bad_images, contents, describe

    store = Store.open(url)
    if bad:
        table = bad_images(store, key)
        if json:
            print_json(table)
        else:
            print_table(table, f"{len(table)} images without a feature")
        return
    table = contents(store)
    table = table if key is None else table[table["key"] == store.features(key).key]
    whole = describe(store)
    if json:
        print_json({**whole, "arrays": table})
        return
    print_table(table)
    sys.stdout.write(
        f"{whole['images']} images in {whole['classes']} classes, {whole['rows']} rows, "
        f"{whole['not_read']} could not be read; source: {whole['source']}\n"
    )
    for note in whole["notes"]:
        sys.stdout.write(f"note: {note}\n")
    if whole["repeated"]:
        sys.stdout.write(
            f"{whole['repeated']} files repeat the bytes of another; "
            f"{whole['labels_differ']} images have several labels that way: the first counts\n"
        )


def log(url: Url, json: Json = False) -> None:
    """Show the history of a store, oldest first: runs, growth, damage, clean-ups.

    Example: `alike store log features`
    """
    from alike.extract.store import Store, history

    table = history(Store.open(url))
    if json:
        print_json(table)
    else:
        print_table(table)


def gc(
    url: Url,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Delete this extraction and everything derived from it."),
    ] = None,
    removed_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Delete the features of images that left the set more days ago. [default: as "
            "the \\[keep] of the last run says]",
        ),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            help="Whose features stay: `all`, or `served and compared`. [default: as the "
            "\\[keep] of the last run says]"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be deleted.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete half-written files, locks of dead processes and shards without a record.

    What the settings of the last run no longer keep goes too. It is refused while a process uses
    the store.

    Example: `alike store gc features --dry-run`
    """
    from dataclasses import asdict, replace

    import pandas as pd

    from alike.extract.errors import BadInput
    from alike.extract.store import Store, collect_garbage
    from alike.flows.keeping import SERVED_AND_COMPARED, Policy

    if networks not in (None, "all", SERVED_AND_COMPARED):
        raise BadInput(f"--networks {networks!r}: all, or {SERVED_AND_COMPARED!r}, is expected")
    store = Store.open(url)
    policy = Policy.of(store)
    policy = replace(policy, networks=networks or policy.networks)
    superseded = [key for key in policy.superseded(store) if key not in (drop or ())]
    days = policy.removed_days if removed_days is None else removed_days
    litter = collect_garbage(
        store, drop=(*(drop or ()), *superseded), removed_days=days, dry_run=dry_run
    )
    if json:
        print_json([asdict(one) for one in litter])
        return
    if litter:
        print_table(pd.DataFrame([asdict(one) for one in litter]))
    size = sum(one.size for one in litter) / 1e6
    verb = "would go" if dry_run else "deleted"
    sys.stdout.write(f"{len(litter)} files, {size:.3g} MB {verb}\n")


def forget(
    store: StoreOption,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Images: paths as the store lists them, files, URLs, rows, or SHA-256 of their "
            "bytes. Without any, only a deletion that was cut off is ended.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be deleted.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete images for good: their features, and all that the store says of them.

    Their rows are never used again. Indexes, analyses, maps, explanations and fitted measures are
    deleted too; the commands that made them make them anew. Delete the files of the images first:
    an image that is still in the source comes back as a new one.

    Example: `alike store forget cat/17.jpg --store pets.store`
    """
    from dataclasses import asdict

    from alike.extract.errors import BadInput
    from alike.extract.forgetting import forget_images
    from alike.extract.places import cache_folder
    from alike.extract.store import Store, unfinished
    from alike.serve.pictures import forget_pictures

    opened, thumbnails = Store.open(store), cache_folder() / "thumbnails"
    if not images and unfinished(opened) is None:
        raise BadInput("no IMAGE is named, and no deletion was cut off: name an image")
    done = forget_images(
        opened,
        images or (),
        dry_run=dry_run,
        forget_pictures=lambda ids: forget_pictures(thumbnails, ids),
    )
    if json:
        print_json({"dry_run": dry_run, **asdict(done)})
        return
    for report, end in ((done.finished, ", as was begun earlier"), (done.report, "")):
        if report is None:
            continue
        verb = "would be forgotten" if dry_run else "forgotten"
        made = f"; deleted with them: {', '.join(report.dropped)}" if report.dropped else ""
        sys.stdout.write(
            f"images {verb}: {report.images}{end}; files of features rewritten: "
            f"{report.shards}{made}\n"
        )
    for note in done.notes:
        sys.stdout.write(f"note: {note}\n")


def upgrade(
    url: Url,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which files would be written anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Write what earlier versions wrote as this version does, with all its checks.

    A store of every released version opens as it is. What has no seals or checksums is checked
    less. Features stay as they are, and nothing is computed. The files before are kept until the
    whole store has verified. The command may be killed and run again.

    Example: `alike store upgrade pets.store --dry-run`
    """
    from dataclasses import asdict

    import pandas as pd

    from alike.extract.store import Store
    from alike.extract.store import upgrade as upgrade_store

    with progress_bars() as progress:
        done = upgrade_store(Store.open(url), dry_run=dry_run, progress=progress)
    if json:
        print_json({"dry_run": dry_run, **asdict(done)})
        return
    if done.files:
        table = pd.DataFrame([asdict(one) for one in done.files])
        table["folder"] = table["file"].str.rpartition("/")[0].replace("", ".")
        counted = table.groupby(["folder", "lacks"], sort=False)["file"].count().reset_index()
        print_table(counted.rename(columns={"file": "files"})[["files", "folder", "lacks"]])
    if done.finished:
        sys.stdout.write(f"an upgrade was cut off before: {len(done.finished)} files of it\n")
    if done.elsewhere:
        sys.stdout.write(
            f"another upgrade was at work and wrote {len(done.elsewhere)} files anew\n"
        )
    if done.elsewhere and not (done.files or done.finished):
        sys.stdout.write("nothing is left to upgrade\n")
    elif not (done.files or done.finished):
        sys.stdout.write("nothing to upgrade: all files are as this version writes them\n")
    elif dry_run:
        sys.stdout.write(f"{len(done.files)} files would be written anew\n")
    else:
        sys.stdout.write(
            f"{len(done.files)} files were written anew, and the whole store was verified\n"
        )


def export(
    url: Url,
    to: Annotated[
        Path,
        typer.Option(
            "--to", **PATH, help="Output file. Its ending is the format: .h5 .npz .parquet .nc"
        ),
    ],
    key: Key = None,
    array: Annotated[
        list[str] | None, typer.Option(help="Array to write. Repeatable. [default: all]")
    ] = None,
    json: Json = False,
) -> None:
    """Write one whole extraction to one file, which `alike store import` reads.

    It holds images, features, classifier and provenance. h5py, NumPy, pandas or xarray read it too.

    Example: `alike store export features --to group.h5`
    """
    from alike.extract.store import Store, export_formats, export_group

    features = Store.open(url).features(key)
    written = export_group(features, to, arrays=array)
    size = written.stat().st_size
    if json:
        print_json({"file": str(written), "key": features.key, "bytes": size})
    else:
        reader = export_formats()[written.suffix]
        sys.stdout.write(f"{written}: {features.key}, {size / 1e6:.3g} MB; read it by {reader}\n")


def import_(
    url: Url,
    file: Annotated[str, typer.Argument(help="A file that `alike store export` wrote.")],
    json: Json = False,
) -> None:
    """Add an exported extraction to a store, which is created if it does not exist.

    Images are matched by content. Features that the store already has do not change.

    Example: `alike store import elsewhere group.h5`
    """
    from alike.extract.store import Store, import_group

    with progress_bars() as progress:
        features = import_group(
            Store.open(url, create=True),
            file,
            progress=progress,
            tell=say,
        )
    table = features.table()
    if json:
        print_json({"key": features.key, "images": len(table), "arrays": list(features.arrays)})
    else:
        sys.stdout.write(f"{features.key}: {len(table)} images with features in {url}\n")
