"""`alike serve`: the page and the HTTP API of a store."""

from typing import Annotated

import typer

from alike.flows.options import FeaturesOption, StoreOption, TrustOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    store: StoreOption,
    features: FeaturesOption = None,
    measure: Annotated[str, typer.Option(help="A measure that has an index.")] = "gap_cosine",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 8000,
    trust: TrustOption = False,
) -> None:
    """Show the neighbours of any image, and where two images are alike, as a page.

    The page reaches nothing but this server. At the default address only this machine can ask;
    there is no password, so any other `--host` shows the stored images to whoever reaches it.

    Examples:
        alike serve --store pets.store

        alike serve --store pets.store --measure map_cosine --port 0

        curl --data-binary @cat.jpg http://127.0.0.1:8000/api/images
    """
    from alike.extract.networks import require_trust
    from alike.serve.run import serve as run
    from alike.serve.service import NeighbourService

    service = NeighbourService(store, features, measure)
    attrs = service.index.features.attrs
    # Now, while somebody can answer: the network itself is loaded for the first image.
    require_trust(str(attrs.get("network")), str(attrs.get("code_hash", "")))
    run(service, host, port, typer.echo)
