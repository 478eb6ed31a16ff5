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
    measure: Annotated[str, typer.Option(help="Measure of the index.")] = "gap_cosine",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0: any free port.")] = 8000,
    trust: TrustOption = False,
) -> None:
    """Serve a page with the neighbours of any image, and the places where two images are alike.

    The page requests nothing from any other server. By default only this machine can reach it.
    There is no password: with another `--host`, everyone who reaches it sees the stored images.

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
