"""What a run gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alike.extract.display import Displayed, Summary


@dataclass(frozen=True, repr=False)
class Finished(Displayed):
    """What a run leaves behind.

    Attributes:
        report: the HTML file.
        key: group of the network that is served from now on.
        reused: true if nothing had changed and nothing was computed.
        decisions: what was decided, each with its reason.
        seconds: time of each step that ran.
        bad: images that could not be used.
        notes: what a reader must know, as `PipelineRun` has it.
        alarms: what somebody must look at, a line each.
        networks: names of several networks to the keys of their features, the first one first: it
            is that of the settings or one that was retrained from it before; empty for one network.
    """

    report: Path
    key: str
    reused: bool
    decisions: tuple[str, ...]
    seconds: dict[str, float]
    bad: int = 0
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)

    def _summary(self) -> Summary:
        facts = {
            "report": str(self.report), "bad images": self.bad,
            "seconds": "nothing was computed" if self.reused else float(sum(self.seconds.values())),
        }  # fmt: skip
        return Summary(f"run of {self.key}", facts, (*self.alarms, *self.notes, *self.decisions))
