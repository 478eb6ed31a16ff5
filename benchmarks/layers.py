"""What the means of all layers cost a forward pass: CPU seconds with them over those without.

    python -m benchmarks.layers resnet50 mobilenet_v2 --rounds 5

Both passes store `last_conv`, `fc` and `logits`, and run in turn; the ratio is the median over
rounds.
"""

import argparse
import statistics
import time

import torch

from alike.extract.forward import Forward
from alike.extract.networks import load_network
from alike.extract.pipeline import TAPS


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="names of torchvision")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    size = (given.side, given.side)
    frames = torch.randint(256, (given.batch, 3, *size), dtype=torch.uint8)
    for name in given.networks:
        network = load_network(name)
        device = torch.device("cpu")
        passes = [
            Forward(network, size, network.tap_names(taps), device, "float32")
            for taps in (TAPS, (*TAPS, "layers"))
        ]
        ratios = []
        for _ in range(given.rounds + 1):
            seconds = []
            for forward in passes:
                start = time.process_time()
                forward(frames)
                seconds.append(time.process_time() - start)
            ratios.append(seconds[1] / seconds[0])
        # The first round warms up.
        print(f"{name}: {len(network.layers)} layers, {statistics.median(ratios[1:]):.3f}")


if __name__ == "__main__":
    main()
