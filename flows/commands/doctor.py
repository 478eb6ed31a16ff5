"""`alike doctor`: what is installed and what would be used."""

import typer

from alike.flows.options import JsonOption

PACKAGES = (
    "alike", "torch", "torchvision", "zarr", "h5py", "dask", "faiss-gpu", "faiss-cpu", "prefect",
    "fastapi", "pandas", "lightning", "timm", "s3fs", "simplejpeg", "pillow-heif",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(json: JsonOption = False) -> None:
    """Show versions, devices and free disk space, and what a run would use on this machine.

    Example:
        alike doctor
    """
    from alike.flows.console import print_json
    from alike.flows.machine import describe

    parts = describe(PACKAGES)
    if json:
        print_json(parts)
        return
    for part, facts in parts.items():
        typer.echo(part)
        for name, value in facts.items():
            typer.echo(f"  {name:<14} {value}")
