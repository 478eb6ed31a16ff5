"""`alike serve`: the page and the HTTP API of one store or several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import PATH, TrustOption

if TYPE_CHECKING:
    from alike.extract.store import Store
    from alike.serve.stores import ServedStore

NO_TOKEN = "none"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    stores: Annotated[
        list[str] | None,
        typer.Argument(help="Stores: folders or URLs. The page shows the first, and offers all."),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option("--store", help="Store of the features, the same as an argument. Repeatable."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Key of the extraction, of the first store. [default: the only one, or that "
            "served, or the first with an index]"
        ),
    ] = None,
    measure: Annotated[
        str,
        typer.Option(
            help="Measure of the index. Of several stores, one without this index starts with "
            "the first that it has; so does one with several extractions of which none is served. "
            "A store without any index is served too, all but neighbours."
        ),
    ] = "gap_cosine",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0: any free port.")] = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name by which the page may be requested. Repeatable."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ALIKE_TOKEN",
            help="Token that clients must send; none: no token. [default: none if only this "
            "machine can reach the page, else a random one]",
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path at which a reverse proxy serves the page, such as /alike.")
    ] = "",
    thumbnails: Annotated[
        Path | None,
        typer.Option(
            **PATH, help="Folder that keeps thumbnails. [default: ~/.cache/alike/thumbnails]"
        ),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Serve a page with the neighbours of any image, and the places where two images are alike.

    The page requests nothing from any other server. By default only this machine can reach it.
    With another `--host` or an `--allowed-host`, clients need the token that is printed once.

    Examples:
        alike serve --store pets.store

        alike serve --store pets.store --measure map_cosine --port 0

        alike serve before.store after.store

        alike serve --store pets.store --allowed-host pets.example.org --root-path /alike

        curl --data-binary @cat.jpg http://127.0.0.1:8000/api/v1/images
    """
    from alike.extract.errors import BadInput
    from alike.extract.networks import require_trust
    from alike.extract.places import cache_folder
    from alike.extract.secrets import check_token
    from alike.serve.run import allowed_hosts, allowed_name, is_private, new_token
    from alike.serve.run import serve as run

    places = [*(stores or ()), *(store or ())]
    if not places:
        raise typer.BadParameter("name a store: alike serve pets.store")
    names = tuple(map(allowed_name, allowed_host or ()))
    if token == "":
        raise BadInput(
            "an empty --token: give one, or --token none to ask for none, or leave it out"
        )
    if token is None:
        token = "" if is_private(host, names) else new_token()
    token = "" if token == NO_TOKEN else check_token(token)
    folder = thumbnails or cache_folder() / "thumbnails"
    served = _open(places, features, measure, folder)
    for one in served:
        opened = one.service.opened()
        lacking = [f"no neighbours: they need {opened.needs}"] if opened.needs else []
        for note in (*lacking, *opened.notes):
            of = f"{one.name}: " if len(served) > 1 else ""
            say(f"note: {of}{note}")
        attrs = opened.index.features.attrs
        # Now, while somebody can answer: the network itself is loaded for the first image.
        require_trust(str(attrs.get("network")), str(attrs.get("code_hash", "")))
    if not is_private(host, names):
        shown = ", ".join((*allowed_hosts(host), *names))
        say(f"note: others can reach this server, by the names {shown}")
        if not token:
            say("note: without a token they see the stored images")
    run(
        served,
        host,
        port,
        typer.echo,
        token=token,
        hosts=names,
        root_path=root_path,
    )


def _open(
    places: list[str], features: str | None, measure: str, thumbnails: Path
) -> "list[ServedStore]":
    """Open the stores; each further one shares what the first one holds."""
    from alike.extract.store import Store
    from alike.flows.served_runs import StoredRuns
    from alike.index.places import indexed_measures
    from alike.serve.service import NeighbourService
    from alike.serve.stores import ServedStore, store_names

    services: list[NeighbourService] = []
    for place in places:
        store = Store.open(place)
        named = None if services else features
        key, several = _first_key(store) if named is None else (named, False)
        chosen = measure
        if services or several:
            there = indexed_measures(store, key)
            chosen = measure if measure in there or not there else there[0]
        if several and not services:
            keys = "|".join(store.groups())
            say(f"note: {key} answers first; choose another on the page, or by --features {keys}")
        beside = services[0] if services else None
        services.append(NeighbourService(store, key, chosen, thumbnails=thumbnails, beside=beside))
    return [
        ServedStore(name, service, StoredRuns(service.store))
        for name, service in zip(store_names(places), services, strict=True)
    ]


def _first_key(store: "Store") -> tuple[str, bool]:
    """The extraction that answers first: the only one, that served, or the first with an index.

    If none has one, it is the first.

    Returns:
        its key, and whether there are others as good.

    Raises:
        BadInput: there is none.
    """
    from alike.extract.errors import BadInput
    from alike.index.places import indexed_measures

    try:
        return store.features().key, False
    except BadInput:
        groups = store.groups()
        if not groups:
            raise
        first = next((key for key in groups if indexed_measures(store, key)), groups[0])
        return first, True
