"""One pass over the images for one or several extractions: each image is read and decoded once.

Extractions share the frames of their images if they resize and crop alike, whatever mean and
deviation they normalise by. What each of them stores is what it stores alone, to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from alike.extract.lanes import BatchProgress, Lanes, UnitArrays, UnitRows
from alike.extract.loading import FrameLoader
from alike.extract.networks import IMAGENET_MEAN, IMAGENET_STD
from alike.extract.run import ExtractionRun
from alike.extract.stages import StageClock
from alike.extract.twins import keep_signatures

Wanted = tuple[tuple[int, tuple[str, ...]], ...]
"""Numbers of the extractions that miss the same rows, each with the arrays that it misses."""
Workload = Mapping[Wanted, Sequence[UnitRows]]
"""What misses rows, to those rows."""


class ImagePass:
    """Extractions of one set of images into one store.

    Attributes:
        runs: the extractions, which share source and settings.
    """

    def __init__(self, runs: Sequence[ExtractionRun]) -> None:
        """Take extractions together.

        Args:
            runs: one or several.
        """
        self.runs = tuple(runs)

    def missing(self) -> dict[Wanted, list[UnitRows]]:
        """Rows to compute by what misses them: one entry if all extractions miss the same."""
        by_rows: dict[UnitRows, list[tuple[int, tuple[str, ...]]]] = {}
        for number, run in enumerate(self.runs):
            for names, units in run.missing().items():
                for todo in units:
                    by_rows.setdefault(todo, []).append((number, names))
        workload: dict[Wanted, list[UnitRows]] = {}
        for todo in sorted(by_rows, key=lambda one: (one.unit, one.rows.start)):
            for wanted in self._sharing_frames(by_rows[todo]):
                workload.setdefault(wanted, []).append(todo)
        return workload

    def _sharing_frames(self, several: list[tuple[int, tuple[str, ...]]]) -> list[Wanted]:
        groups: dict[object, list[tuple[int, tuple[str, ...]]]] = {}
        for number, names in several:
            transform = self.runs[number].network.transform
            frames = replace(transform, mean=IMAGENET_MEAN, std=IMAGENET_STD)
            groups.setdefault(frames, []).append((number, names))
        return [tuple(group) for group in groups.values()]

    def compute(
        self, wanted: Wanted, units: Sequence[UnitRows], progress: BatchProgress
    ) -> dict[str, float]:
        """Compute and commit rows in this process.

        Args:
            wanted: the extractions, which share their frames, and the arrays to compute.
            units: the rows that miss them.
            progress: told of every batch.

        Returns:
            Busy seconds of each stage.
        """
        runs = [self.runs[number] for number, _ in wanted]
        forwards = [self.runs[number].forward_into(names) for number, names in wanted]
        first, clock = runs[0], StageClock()
        size = first.frame_size(None)
        pinned = forwards[0].device.type == "cuda"
        load = FrameLoader(first.source, first.network.transform, size, pinned, clock)

        def commit(unit: int, parts: Sequence[UnitArrays]) -> None:
            for run, part in zip(runs, parts, strict=True):
                run.commit(unit, part)
            mine = [row for row in first.features.unit_rows(unit) if row in load.thumbnails]
            keep_signatures(first.store, {row: load.thumbnails.pop(row) for row in mine})

        lanes = Lanes(
            load,
            forwards,
            first.images_of,
            commit,
            progress,
            batch_size=first.settings.batch(size),
            threads=first.settings.threads,
        )
        lanes.run(units)
        for run in runs:
            run.n_unturned += len(load.unturned)
        return dict(clock.seconds)
