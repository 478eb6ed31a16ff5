"""What this machine has, and what a run would use of it."""

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

GIB = 2**30


def describe(packages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Versions, devices and disk, by part; sizes in GiB."""
    return {
        "Versions": {"python": platform.python_version()} | _versions(packages),
        "Machine": _machine(),
        "A run would use": _choices(),
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    from alike.extract.machine import usable_cores
    from alike.index.bfloat import has_bfloat16

    free = shutil.disk_usage(Path.cwd()).free / GIB
    memory = psutil.virtual_memory()
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "cores": usable_cores(),
        "memory": f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
        "disk": f"{free:.1f} GiB free in {Path.cwd()}",
        "GPUs": ", ".join(gpus) or "none",
        "bfloat16": "multiplied by this processor" if has_bfloat16() else "no units for it here",
    }


def _choices() -> dict[str, Any]:
    import torch

    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch threads": torch.get_num_threads(),
        "prefect": os.environ.get("PREFECT_API_URL") or "embedded (no server needed)",
    }
