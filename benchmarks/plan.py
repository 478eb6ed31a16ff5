"""What `alike plan` says a run takes, against what the run takes.

    python -m benchmarks.plan [--images 500 2000 5000] [--side 96]

Writes JPEGs into class folders, plans for each number of them, and runs the same settings with a
small network, in a process of its own. Printed, a line for each step: seconds that were planned,
seconds of the run, and their ratio. A plan is made of a sample of the largest set alone, so that
the smaller ones test its scaling.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.extract_again import NETWORK, write_images

SETTINGS = """
[images]
source = "photos"
[network]
name = "net.py:net"
[analyse]
measures = ["gap_cosine"]
untrained = false
[explain]
examples = 0
confused = 0
[output]
folder = "out"
"""
RUN = """
import json, sys
from pathlib import Path
from alike.extract.progress import silent
from alike.flows import retraining
from alike.flows import run as whole
for module in (whole, retraining):
    module.step = lambda function, _: function
done = whole.run_settings_file(Path(sys.argv[1]), silent)
print(json.dumps(done.seconds))
"""
STEPS = ("extract", "index", "analyse")
"""Steps of a plan, and how their names in a run begin; the time of listing is in `extract`."""


def planned(settings: Path, images: int) -> dict[str, float]:
    """Seconds of every step by the plan."""
    command = [sys.executable, "-m", "alike", "plan", str(settings), "--json"]
    done = subprocess.run(
        [*command, "--images", str(images)], capture_output=True, text=True, check=True
    )
    seconds: dict[str, float] = json.loads(done.stdout)["seconds"]
    return seconds


def measured(settings: Path) -> dict[str, float]:
    """Seconds of every step of a run, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(settings)], capture_output=True, text=True, check=True
    )
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Measure, and print a line a step and size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--side", type=int, default=96)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        places = {count: Path(top) / str(count) for count in sorted(asked.images)}
        for count, place in places.items():
            place.mkdir()
            write_images(place / "photos", 0, count, asked.side)
            (place / "net.py").write_text(NETWORK)
            (place / "pipeline.toml").write_text(SETTINGS)
        largest = places[max(places)] / "pipeline.toml"
        for count, place in places.items():
            plan, run = planned(largest, count), measured(place / "pipeline.toml")
            # A run lists and searches twins within the step that extracts.
            plan["extract"] += plan.pop("list") + plan.pop("twins")
            for step in STEPS:
                seconds = sum(one for name, one in run.items() if name.startswith(step))
                ratio = plan[step] / max(seconds, 1e-9)
                print(
                    f"{count} images, {step}: planned {plan[step]:.2f} s, measured "
                    f"{seconds:.2f} s, ratio {ratio:.2f}"
                )


if __name__ == "__main__":
    main()
