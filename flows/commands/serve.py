"""`alike serve`: the page and the HTTP API of a store."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import FeaturesOption, StoreOption, TrustOption

NO_TOKEN = "none"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    store: StoreOption,
    features: FeaturesOption = None,
    measure: Annotated[str, typer.Option(help="Measure of the index.")] = "gap_cosine",
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
        typer.Option(help="Folder that keeps thumbnails. [default: ~/.cache/alike/thumbnails]"),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Serve a page with the neighbours of any image, and the places where two images are alike.

    The page requests nothing from any other server. By default only this machine can reach it.
    With another `--host` or an `--allowed-host`, clients need the token that is printed once.

    Examples:
        alike serve --store pets.store

        alike serve --store pets.store --measure map_cosine --port 0

        alike serve --store pets.store --allowed-host pets.example.org --root-path /alike

        curl --data-binary @cat.jpg http://127.0.0.1:8000/api/v1/images
    """
    from alike.extract.networks import require_trust
    from alike.extract.places import cache_folder
    from alike.flows.history import History
    from alike.flows.recording import over_time
    from alike.serve.run import allowed_hosts, is_private, new_token
    from alike.serve.run import serve as run
    from alike.serve.service import NeighbourService

    names = tuple(allowed_host or ())
    if token is None:
        token = "" if is_private(host, names) else new_token()
    token = "" if token == NO_TOKEN else token
    folder = thumbnails or cache_folder() / "thumbnails"
    service = NeighbourService(store, features, measure, thumbnails=folder)
    for note in service.opened().notes:
        say(f"note: {note}")
    attrs = service.opened().index.features.attrs
    # Now, while somebody can answer: the network itself is loaded for the first image.
    require_trust(str(attrs.get("network")), str(attrs.get("code_hash", "")))
    if not is_private(host, names):
        shown = ", ".join((*allowed_hosts(host), *names))
        say(f"note: others can reach this server, by the names {shown}")
        if not token:
            say("note: without a token they see the stored images")
    run(
        service,
        host,
        port,
        typer.echo,
        token=token,
        hosts=names,
        root_path=root_path,
        runs=lambda: over_time(History(service.store).records())["runs"],
    )
