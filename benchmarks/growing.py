"""What a whole run costs when 1 % of the images are new, as a share of the first run.

    python -m benchmarks.growing [--images 10000] [--side 32] [--budget 1e9 ...]
    python -m benchmarks.growing --images 5000 --side 256 --network mobilenet_v2 --weights W

Writes JPEGs into class folders and runs `alike run` on them, once without and once with 1 % more,
each in a process of its own: the default measures and explanations, without retraining. Printed,
for every budget of the analysis (the first is the default): processor seconds of both runs and of
the listing of an unchanged set, the share of the second beyond listing, and both runs' seconds by
step.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.extract_again import NETWORK, write_images

SETTINGS = """
[images]
source = "photos"
[network]
name = "{network}"
weights = "{weights}"
[analyse]
{budget}
[output]
folder = "out"
"""


def run(settings: Path) -> float:
    """Processor seconds of a run and of the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "alike", "run", str(settings)], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def steps(out: Path) -> dict[str, float]:
    """Seconds of every step of the latest run."""
    latest = max((out / "store" / "history").glob("2*.json"))
    seconds: dict[str, float] = json.loads(latest.read_text(encoding="utf-8"))["stages"]
    return {name: round(value, 1) for name, value in seconds.items()}


def main() -> None:
    """Measure, and print three lines a budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--network", default="net.py:net")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--budget", type=float, nargs="*", default=[])
    asked = parser.parse_args()
    for budget in (None, *asked.budget):
        with tempfile.TemporaryDirectory() as top:
            place = Path(top)
            write_images(place / "photos", 0, asked.images, asked.side)
            (place / "net.py").write_text(NETWORK)
            settings = place / "pipeline.toml"
            line = "" if budget is None else f"budget = {budget!r}"
            settings.write_text(
                SETTINGS.format(network=asked.network, weights=asked.weights, budget=line)
            )
            first = run(settings)
            of_first = steps(place / "out")
            unchanged = run(settings)
            write_images(place / "photos", asked.images, asked.images // 100, asked.side)
            second = run(settings)
            share = (second - unchanged) / first
            print(
                f"budget {budget or 'unset'}: first run {first:.1f} s, unchanged "
                f"{unchanged:.1f} s, 1 % new {second:.1f} s: {share:.1%} of the first"
            )
            print(f"  first: {of_first}\n  1 % new: {steps(place / 'out')}", flush=True)


if __name__ == "__main__":
    main()
