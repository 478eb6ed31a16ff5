"""The decisions of an output folder: what was retrained, and what follows for the network served.

`decisions.jsonl` is the one place for it, a line a decision. Which network the runs of a folder
use is not kept beside it but read from it: the last one accepted under the present settings.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alike.extract.documents import read_json, read_json_file, seal, unseal
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import file_hash
from alike.flows.memo import Memo, digest
from alike.flows.sections import PROCESSES, Pipeline
from alike.train.trigger import Past


def origin_of(pipeline: Pipeline) -> str:
    """Changes with the settings of the network or of retraining; then all starts anew.

    Which arrays of it are stored changes no network, nor does how many processes train it.
    """
    network = dict(pipeline.written["network"])
    network.pop("taps", None)
    retrain = pipeline.written.get("retrain")
    if retrain is not None:
        retrain = {name: value for name, value in retrain.items() if name not in PROCESSES}
    return digest([network, retrain])


@dataclass(frozen=True)
class Accepted:
    """A retrained network that replaced the one before.

    Attributes:
        weights: its file.
        key: its group in the store.
    """

    weights: str
    key: str


class DecisionLog:
    """The decisions of one output folder, read and written for one network and its settings."""

    def __init__(
        self, memo: Memo, folder: Path, pipeline: Pipeline, parent: str, modules: str = ""
    ) -> None:
        """Open the log.

        Args:
            memo: of the folder; it says where a remembered file is now.
            folder: the output folder.
            pipeline: the settings; decisions under others are not counted.
            parent: weights hash of the settings' own network, whose file may be replaced.
            modules: hash of the modules beside its file, which may change as well.
        """
        self._memo, self._file = memo, folder / "decisions.jsonl"
        self._older = folder / "served.json"
        self._origin, self._parent, self._modules = origin_of(pipeline), parent, modules

    def accepted(self) -> Accepted | None:
        """The retrained network that is served; None for the settings' own, and if it is lost.

        Raises:
            BadInput: the log is damaged.
        """
        for entry in reversed(self._own()):
            network = entry.get("network")
            if entry["about"] == "replace" and entry["decision"] and network:
                return self._if_there(network)
        return self._accepted_by_version_1()

    def lost(self) -> list[str]:
        """Say why `accepted` gives none although there was one; [] if there is no such reason.

        Raises:
            BadInput: the log is damaged.
        """
        if self.accepted() is not None:
            return []
        state = self._state_of_version_1()
        if self._older.is_file() and not state:
            return [f"{self._older} cannot be read: it names no network, the settings' own is used"]
        networks = [entry["network"] for entry in self._own() if entry.get("network")]
        networks = networks or ([state] if self._is_own(state) else [])
        if not networks:
            return []
        gone = self._memo.there(networks[-1]["weights"])
        fault = "is not what was accepted" if gone.is_file() else "is gone"
        return [f"the accepted network {gone} {fault}: the settings' own is used again"]

    def past(self) -> list[Past]:
        """Earlier retrainings of this network, oldest first, up to the one that is served.

        A retraining whose accepted network is gone counts as not done: else nothing could ever
        bring the network back.
        """
        return [_past_of(entry["past"]) for entry in self._own() if self._counts(entry)]

    def _counts(self, entry: dict[str, Any]) -> bool:
        """Whether an entry ends a retraining whose network, if it was accepted, is there."""
        if entry["past"] is None:
            return False
        if entry.get("network"):
            return self._if_there(entry["network"]) is not None
        # Version 0.1 named an accepted network in `served.json` alone.
        return not entry["decision"] or self._accepted_by_version_1() is not None

    def add(
        self,
        about: str,
        decision: bool,
        reason: str,
        scores: dict[str, float],
        *,
        past: Past | None = None,
        network: Accepted | None = None,
    ) -> None:
        """Write a decision down.

        Args:
            about: `retrain` or `replace`.
            decision: yes or no.
            reason: a sentence.
            scores: that it rests on.
            past: the retraining that it ends.
            network: the one that is served from now on.
        """
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "about": about, "decision": decision,
            "reason": reason, "scores": _as_json(scores),
            "past": _as_json(vars(past)) if past else None,
            "origin": self._origin, "parent": self._parent, "modules": self._modules,
        }  # fmt: skip
        if network is not None:
            weights = self._memo.place_of(network.weights)
            held = file_hash(Path(network.weights))
            entry["network"] = {"weights": weights, "key": network.key, "hash": held}
        # Written anew and renamed: a run that is killed here leaves no half line to the next one.
        before = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
        aside = self._file.with_suffix(".part")
        line = json.dumps(seal(entry), ensure_ascii=False, allow_nan=False)
        aside.write_text(f"{before}{line}\n", encoding="utf-8")
        aside.replace(self._file)

    def _own(self) -> list[dict[str, Any]]:
        """Entries of this network under these settings.

        Version 0.1 did not name the parent, nor the modules.
        """
        entries = [entry for entry in self._entries() if entry["origin"] == self._origin]
        own = {"parent": self._parent, "modules": self._modules}
        return [
            entry
            for entry in entries
            if all(entry.get(name, value) == value for name, value in own.items())
        ]

    def _entries(self) -> list[dict[str, Any]]:
        if not self._file.is_file():
            return []
        entries = []
        for number, line in enumerate(self._file.read_bytes().splitlines(), start=1):
            try:
                written = read_json(line, dict[str, Any], str(self._file), "bring it back")
                entries.append(_checked(unseal(written, str(self._file), "bring it back")))
            except (StoreDamaged, ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadInput(
                    f"{self._file} line {number} is damaged ({type(error).__name__}: {error}): "
                    "bring the file back, or delete it to begin with the settings' own network"
                ) from error
        return entries

    def _if_there(self, network: dict[str, str]) -> Accepted | None:
        """The network of an entry if its file is as it was accepted; 0.1 kept no hash of it."""
        weights = self._memo.there(network["weights"])
        if not weights.is_file() or network.get("hash") not in (None, file_hash(weights)):
            return None
        return Accepted(str(weights), network["key"])

    def _accepted_by_version_1(self) -> Accepted | None:
        """What `served.json` says, which 0.1 kept beside its decisions; this version never does."""
        state = self._state_of_version_1()
        return self._if_there(state) if self._is_own(state) else None

    def _is_own(self, state: dict[str, str]) -> bool:
        return (state.get("origin"), state.get("parent")) == (self._origin, self._parent)

    def _state_of_version_1(self) -> dict[str, str]:
        try:
            state = read_json_file(self._older, dict[str, Any], "delete it")
            return {name: str(state[name]) for name in ("weights", "key", "origin", "parent")}
        except (OSError, StoreDamaged, ValueError, TypeError, KeyError):
            return {}


def _checked(entry: Any) -> dict[str, Any]:
    """An entry of the log, its types as they must be."""
    past, network = entry["past"], entry.get("network")
    if past is not None:
        _past_of(past)
    if network is not None and not all(isinstance(network[n], str) for n in ("weights", "key")):
        raise TypeError(f"network {network!r}")
    if not isinstance(entry["decision"], bool):
        raise TypeError(f"decision {entry['decision']!r}")
    return {**entry, "about": str(entry["about"]), "origin": str(entry["origin"])}


def _past_of(past: dict[str, float | None]) -> Past:
    """From JSON, which has no NaN."""
    return Past(**{name: math.nan if v is None else float(v) for name, v in past.items()})


def _as_json(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not defined becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
