"""The history of a store: one record a run, in small sealed files that no result is made from.

`history/<time>-<six digits>.json` is a run that did something, or failed; it is never rewritten.
A run that found nothing changed writes no record: it renews `history/unchanged.json`, which says
how often that happened since which record, and when last. So the folder grows with changes, not
with time. `history/images/<digest>.parquet` holds the images of a run with their labels; it is kept
for the last runs and for the accepted reference. A file that is torn or foreign is named, and
counts as absent.
"""

import datetime
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from alike.extract.command import command_at
from alike.extract.documents import INTEGER, TEXT, read_sealed, sealed_json
from alike.extract.errors import BadInput, StoreDamaged

if TYPE_CHECKING:
    import pandas as pd

    from alike.extract.store import Store

FOLDER = "history"
UNCHANGED = f"{FOLDER}/unchanged.json"
ACCEPTED = f"{FOLDER}/accepted.json"
_AHEAD = datetime.timedelta(hours=1)
"""By which the clocks of two machines may differ."""
LAST = re.compile(r"last(?:~(\d{1,9}))?")
IMAGES = f"{FOLDER}/images"
IMAGES_KEPT = 30
"""Tables of images that are kept beside that of the reference."""
NAME = re.compile(r"(\d{8}T\d{12}-[0-9a-f]{6})\.json")
OURS = {UNCHANGED, ACCEPTED}
_DELETE = "it is left out; delete it"
_COLUMNS = {"row": INTEGER, "label": TEXT, "side": TEXT}

Score = list[float | None]
"""Value, low end, high end of the 95 % interval; None if there is none."""


@dataclass(frozen=True)
class FurtherNetwork:
    """What a run says of its second or a further network; each as in `RunRecord`.

    Attributes:
        network: name, weights, and key of the features.
        counts: images at each stage.
        series: of its scores.
        measure: of its headline.
        scores: measure to score to its value with its interval.
        paired: differences from the same network of a reference, if its features were others.
        images: digest of the table of its images.
    """

    network: dict[str, str]
    counts: dict[str, int]
    series: str
    measure: str
    scores: dict[str, dict[str, Score]]
    paired: dict[str, dict[str, Score]] = field(default_factory=dict)
    images: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What one run did.

    Attributes:
        id: of the run; the name of its file.
        time: of its start, ISO 8601.
        seconds: that it took.
        state: `good`, or `failed`.
        who: user that ran it.
        host: machine that it ran on.
        git: revision of the settings file's repository, and whether its files were changed.
        versions: of the packages that compute.
        settings: dotted names to values, secrets masked.
        changed: settings that the good run before had otherwise: name to [before, now].
        network: name, weights, and key of the served features.
        counts: images at each stage.
        changes: images added, removed and relabelled since the good run before.
        reasons: what ran again, and why.
        stages: seconds of every step that ran.
        rates: images a second of every extraction.
        series: scores of one series mean the same, and may be compared.
        measure: of the headline.
        scores: measure to score to its value with its interval.
        recall: of the index: value, low and high end of its interval.
        paired: reference to score to its difference with interval, on the images of both, of
            another network than the reference's.
        decisions: sentences.
        notes: what a reader must know.
        artefacts: file to hash of its bytes.
        images: digest of the table of images.
        question: digest of all that the report depends on.
        error: of a failed run, one line.
        others: the further networks of several, by their labels.
    """

    id: str
    time: str
    seconds: float
    state: str
    who: str = ""
    host: str = ""
    git: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, list[Any]] = field(default_factory=dict)
    network: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    series: str = ""
    measure: str = ""
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    recall: Score = field(default_factory=list)
    paired: dict[str, dict[str, Score]] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    artefacts: dict[str, str] = field(default_factory=dict)
    images: str = ""
    question: str = ""
    error: str = ""
    others: dict[str, FurtherNetwork] = field(default_factory=dict)

    def of(self, label: str) -> "RunRecord | None":
        """The record as that of a further network alone; None if the run had none of that label."""
        if label not in self.others:
            return None
        return replace(self, recall=[], others={}, **vars(self.others[label]))

    @property
    def tables(self) -> list[str]:
        """Digests of the tables of images of all networks, each once."""
        digests = [self.images, *(one.images for one in self.others.values())]
        return [one for one in dict.fromkeys(digests) if one]

    @property
    def good(self) -> bool:
        """Whether the run came to its end."""
        return self.state == "good"

    @property
    def when(self) -> datetime.datetime:
        """Its start."""
        return datetime.datetime.fromisoformat(self.time)

    @property
    def bad_share(self) -> float:
        """Share of the listed images without a feature."""
        listed = self.counts.get("listed", 0)
        return self.counts.get("bad", 0) / listed if listed else 0.0

    def score(self, name: str) -> Score | None:
        """A score of the headline measure, or of the network; None if there is none.

        Example:
            >>> one = RunRecord("a", "2026-01-01T00:00:00+00:00", 1.0, "good",
            ...                 measure="gap_cosine", scores={"gap_cosine": {"auc": [0.9, 0.8, 1]}})
            >>> one.score("auc")
            [0.9, 0.8, 1]
        """
        for measure in (self.measure, "network", ""):
            score = self.scores.get(measure, {}).get(name)
            if score is not None and score[0] is not None:
                return score
        return None


@dataclass(frozen=True)
class Unchanged:
    """How often nothing had changed.

    Attributes:
        since: id of the record that the state is of.
        times: runs that found nothing changed since.
        last: when the last of them was, ISO 8601.
    """

    since: str
    times: int
    last: str


@dataclass(frozen=True)
class Accepted:
    """The reference that later runs are compared with.

    Attributes:
        run: its id.
        time: when it was accepted, ISO 8601.
        who: accepted it.
    """

    run: str
    time: str
    who: str = ""


class History:
    """The records of one store.

    Args:
        store: opened.

    Attributes:
        faults: files that were left out, and why; complete after `records`.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.faults: list[str] = []

    def records(self) -> list[RunRecord]:
        """All records, oldest first; a file that is none is named in `faults`."""
        records, self.faults = [], []
        for name in self._store.file_names(FOLDER):
            place = f"{FOLDER}/{name}"
            if place in OURS:
                continue
            if NAME.fullmatch(name) is None:
                if not name.endswith(".partial"):
                    self.faults.append(f"{place} is no record of a run: it is left out")
                continue
            record = self._read(name.removesuffix(".json"))
            if record is not None:
                records.append(record)
        root = self._store.root_path
        folders = (root / FOLDER).glob("*.json") if root is not None else ()
        self.faults.extend(
            f"{FOLDER}/{one.name} is a folder, no record of a run: {_DELETE}"
            for one in sorted(folders)
            if one.is_dir()
        )
        return records

    def newest(self) -> str:
        """The id that comes last in order; empty if there is none."""
        names = filter(None, map(NAME.fullmatch, self._store.file_names(FOLDER)))
        return max((one.group(1) for one in names), default="")

    def _read(self, run: str) -> RunRecord | None:
        """The record of an id; None if it is gone, or torn, which is named in `faults`."""
        place = f"{FOLDER}/{run}.json"
        try:
            record = read_sealed(self._store.read_file(place), RunRecord, place, _DELETE)
            record.when.timestamp()
            if record.id != run or record.when.tzinfo is None:
                raise ValueError(f"it is the record of {record.id}")
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            self.faults.append(str(error))
            return None
        except ValueError as error:
            self.faults.append(f"{place} is damaged ({error}); {_DELETE}")
            return None
        return record

    def find(self, name: str) -> RunRecord:
        """The record of an id, its beginning or end, of `last`, `last~1` (before it), `accepted`.

        Raises:
            BadInput: none, or several.
        """
        return self.find_all([name])[0]

    def find_all(self, names: Sequence[str]) -> list[RunRecord]:
        """The records of several names, each as in `find`.

        Raises:
            BadInput: none, or several, of a name.
        """
        files = [NAME.fullmatch(name) for name in self._store.file_names(FOLDER)]
        ids = [one.group(1) for one in files if one]
        return [self._named(ids, name) for name in names]

    def _named(self, ids: Sequence[str], name: str) -> RunRecord:
        """The record that a name means, of ids, oldest first; only what may be it is read."""
        if not name.strip():
            # Every id begins with it: that of a variable that is not set.
            raise BadInput(f"run {name!r}: an empty name; name an id, `last` or `accepted`")
        if back := LAST.fullmatch(name):
            before = int(back.group(1) or 0)
            last = next(islice(self._readable(reversed(ids)), before, None), None)
            if last is not None:
                return last
        accepted = self.accepted() if name == "accepted" else None
        if name == "accepted" and accepted is None:
            command = command_at("runs accept", self._store, "last")
            raise BadInput(f"run 'accepted': {self.why_no_reference()}; accept one by `{command}`")
        name_of_one = accepted.run if accepted else name
        matches = list(
            self._readable(
                one for one in ids if one.startswith(name_of_one) or one.endswith(name_of_one)
            )
        )
        if len(matches) != 1:
            newest = list(islice(self._readable(reversed(ids)), 5))
            if not newest:
                raise BadInput(f"run {name!r}: the store has no runs yet")
            recent = ", ".join(one.id for one in reversed(newest))
            how_many = f"{len(matches)} runs match" if matches else "no run has that id"
            raise BadInput(f"run {name!r}: {how_many}; the last are {recent}")
        return matches[0]

    def _readable(self, ids: Iterable[str]) -> Iterator[RunRecord]:
        """The records of ids, without those that are gone or torn."""
        return (record for one in ids if (record := self._read(one)) is not None)

    def write(self, record: RunRecord, images: "Mapping[str, pd.DataFrame] | None" = None) -> None:
        """Write a record, and its images before it.

        Args:
            record: of a run.
            images: tables of row, label, side, under the digests that the record names.
        """
        there = self._store.file_names(IMAGES) if images else []
        for digest, table in (images or {}).items():
            if f"{digest}.parquet" not in there:
                self._store.write_table(f"{IMAGES}/{digest}.parquet", table)
        self._store.write_file(f"{FOLDER}/{record.id}.json", sealed_json(asdict(record)))
        self._drop_images()

    def images(self, record: RunRecord) -> "pd.DataFrame | None":
        """Row, label and side of the images of a run; None if they are not kept any more."""
        if not record.images:
            return None
        try:
            return self._store.read_table(f"{IMAGES}/{record.images}.parquet", _COLUMNS)[0]
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            self.faults.append(str(error))
            return None

    def _drop_images(self) -> None:
        """Delete tables of images that neither one of the last runs nor the reference needs."""
        names = self._store.file_names(IMAGES)
        if len(names) <= IMAGES_KEPT:
            return
        records, reference = self.records(), self.accepted()
        last = [digest for one in reversed(records) for digest in one.tables]
        needed = set(list(dict.fromkeys(last))[:IMAGES_KEPT])
        accepted = [one for one in records if reference and one.id == reference.run]
        needed |= {digest for one in accepted for digest in one.tables}
        for name in names:
            if name.endswith(".parquet") and name.removesuffix(".parquet") not in needed:
                self._store.remove_file(f"{IMAGES}/{name}")

    def unchanged(self) -> Unchanged | None:
        """How often nothing had changed; None if never, or the file is unreadable."""
        small: Unchanged | None = self._small(UNCHANGED, Unchanged)
        return small

    def again(self, since: str) -> None:
        """A run found nothing changed since the record of this id."""
        before = self.unchanged()
        times = before.times + 1 if before and before.since == since else 1
        self._store.write_file(UNCHANGED, sealed_json(asdict(Unchanged(since, times, now()))))

    def accepted(self) -> Accepted | None:
        """The accepted reference; None if none was accepted, or the file is unreadable."""
        small: Accepted | None = self._small(ACCEPTED, Accepted)
        return small

    def why_no_reference(self) -> str:
        """Why no record is the reference, if none is."""
        accepted = self.accepted()
        if accepted is not None:
            return f"the record of {accepted.run}, the reference, is gone or torn"
        torn = [fault for fault in self.faults if fault.startswith(ACCEPTED)]
        return torn[0] if torn else "no reference"

    def accept(self, record: RunRecord, who: str) -> None:
        """Make a good run the reference.

        Raises:
            BadInput: it failed.
        """
        if not record.good:
            command = command_at("runs ls", self._store)
            raise BadInput(f"run {record.id} failed: accept a good one (`{command}`)")
        self._store.write_file(ACCEPTED, sealed_json(asdict(Accepted(record.id, now(), who))))

    def last_good(self, records: list[RunRecord]) -> datetime.datetime | None:
        """When the last run came to its end well, also if it found nothing changed.

        A time that is still to come, of a clock that was ahead, counts only if there is no other.
        """
        times = [one.when for one in records if one.good]
        unchanged = self.unchanged()
        if unchanged is not None:
            times.append(datetime.datetime.fromisoformat(unchanged.last))
        latest = datetime.datetime.now(datetime.UTC) + _AHEAD
        return max((one for one in times if one <= latest), default=min(times, default=None))

    def failed_since(self, records: list[RunRecord]) -> list[RunRecord]:
        """The runs that failed after the last good one, oldest first.

        A run that found nothing changed is a good one, though it left no record.
        """
        unchanged, failed = self.unchanged(), list[RunRecord]()
        over = datetime.datetime.fromisoformat(unchanged.last) if unchanged else None
        if over is not None and over > datetime.datetime.now(datetime.UTC) + _AHEAD:
            over = None
        for one in reversed(records):
            if one.good or (over is not None and one.when <= over):
                break
            failed.insert(0, one)
        return failed

    def _small(self, place: str, kind: Any) -> Any:
        try:
            small = read_sealed(self._store.read_file(place), kind, place, _DELETE)
            time = datetime.datetime.fromisoformat(getattr(small, "last", None) or small.time)
            return small if time.tzinfo is not None else None
        except FileNotFoundError:
            return None
        except (StoreDamaged, ValueError) as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None


def new_id(after: str = "") -> str:
    """Name of a run: its time, and six digits that no other run of that moment has.

    Args:
        after: name of the run before, which comes first in order, though its clock was ahead.

    Example:
        >>> new_id("29991231T235958000000-abcdef")[:21]
        '29991231T235958000001'
    """
    moment = datetime.datetime.now(datetime.UTC)
    with suppress(ValueError, OverflowError):
        last = datetime.datetime.strptime(f"{after[:21]}+0000", "%Y%m%dT%H%M%S%f%z")
        moment = max(moment, last + datetime.timedelta(microseconds=1))
    return f"{moment:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:6]}"


def now() -> str:
    """The time, ISO 8601 with its zone."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def image_changes(before: "pd.DataFrame | None", after: "pd.DataFrame") -> dict[str, int]:
    """Images added, removed and relabelled between two tables of images; {} without the first.

    Args:
        before: row, label.
        after: row, label.
    """
    if before is None:
        return {}
    old = dict(zip(before["row"], before["label"].fillna(""), strict=True))
    new = dict(zip(after["row"], after["label"].fillna(""), strict=True))
    return {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "relabelled": sum(new[row] != old[row] for row in new.keys() & old.keys()),
    }
