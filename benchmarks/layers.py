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
from alike.extract.networks import Network, load_network
from alike.extract.pipeline import TAPS


def passes(network: Network, side: int) -> tuple[Forward, Forward]:
    """The pass that stores the usual taps, and the one that stores the means of all layers too."""
    plain, every = (
        Forward(network, (side, side), network.tap_names(taps), torch.device("cpu"), "float32")
        for taps in (TAPS, (*TAPS, "layers"))
    )
    return plain, every


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="names of torchvision")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    frames = torch.randint(256, (given.batch, 3, given.side, given.side), dtype=torch.uint8)
    for name in given.networks:
        network = load_network(name)
        both, ratios = passes(network, given.side), []
        for _ in range(given.rounds + 1):
            seconds = []
            for forward in both:
                start = time.process_time()
                forward(frames)
                seconds.append(time.process_time() - start)
            ratios.append(seconds[1] / seconds[0])
        # The first round warms up.
        print(f"{name}: {len(network.layers)} layers, {statistics.median(ratios[1:]):.3f}")


if __name__ == "__main__":
    main()
