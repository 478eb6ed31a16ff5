"""Is everything as a run left it? Answered from the stamps of files, before torch or Prefect load.

At its end a run notes the stamps (bytes, times, inode) of all that its result depends on and of all
that it made: the store's files, the report, the network's files and weights, and what it listed.
While these, the settings and the versions are the same, the next run has nothing to do. Images are
compared by the same rule as in a listing (`alike.extract.images.remembered`), and the share of them
that is due is read. Any difference, even one that changes no result, gives the question to the run
itself, which answers by content. What a run read counts only if it was older than two seconds when
the run began: what changed in the meantime has a stamp of which the run made nothing.
"""

import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.documents import read_sealed, sealed_json
from alike.extract.errors import AlikeError, StoreDamaged
from alike.extract.images import settled_before
from alike.flows.finished import Finished
from alike.flows.log_lines import Tell, unsaid
from alike.flows.memo import digest

if TYPE_CHECKING:
    from alike.extract.store import RemoteFiles
    from alike.flows.sections import Pipeline
    from alike.flows.steps import PipelineRun

FILE = "unchanged.json"
NOT_RESULTS = {"cache", "history", "listing", "locks", "log"}
"""Folders of a store on which no result depends."""
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class State:
    """What the next run compares.

    Attributes:
        settings: digest of all settings, resolved.
        programs: versions of Python and of the packages that compute, and the devices.
        files: file to its stamp; [] if it is not there.
        objects: files of a remote store, each with its size and ETag.
    """

    settings: str
    programs: dict[str, str]
    files: dict[str, list[int]]
    objects: dict[str, list[int | str]] = field(default_factory=dict)

    def difference(self, now: "State") -> str:
        """What is not as it was; empty if nothing.

        A local file that is gone comes first: a name in the settings means no file then.
        """
        for one, stamp in sorted(self.files.items()):
            if stamp and not now.files.get(one) and not Path(one).exists():
                return f"{one} is gone"
        if self.settings != now.settings:
            return "the settings changed"
        if self.programs != now.programs:
            return "versions or devices changed"
        gone = sorted(self.objects.keys() - now.objects.keys())
        if gone:
            return f"{gone[0]} is gone"
        before, after = {**self.files, **self.objects}, {**now.files, **now.objects}
        names = before.keys() | after.keys()
        changed = sorted(one for one in names if before.get(one) != after.get(one))
        if changed:
            return f"{changed[0]} changed"
        untold = [name for name, stamp in now.objects.items() if len(stamp) < 2]
        return f"the storage gives no ETag of {untold[0]}" if untold else ""


@dataclass(frozen=True)
class Left:
    """What a run left behind.

    Attributes:
        state: when it ended.
        code: the network's files.
        run: id of the record of the last run that did something.
        key: of the served features.
        decisions: of the report.
        bad: images that could not be used.
        notes: that a run tells each time.
        networks: names of several networks to the keys of their features.
        source: path of the images; empty if they are at no path, as those of a URL.
    """

    state: State
    code: list[str]
    run: str
    key: str
    decisions: list[str]
    bad: int
    notes: list[str]
    networks: dict[str, str] = field(default_factory=dict)
    source: str = ""


def leave(run: "PipelineRun", done: Finished, record: str) -> None:
    """Note how a run leaves everything, for the next one.

    Args:
        run: that ended well.
        done: what came of it.
        record: id of the last record in the history.
    """
    code, source = _loaded_code(), run.pipeline.images.source
    # By both clocks: one of them may have been set while the run went on.
    passed = int((time.monotonic() - run.began) * 1e9)
    state = state_of(run.pipeline, code, min(run.began_ns, time.time_ns() - passed))
    left = Left(
        state, code, record, done.key, run.lasting(done.decisions), done.bad,
        run.lasting(done.notes), dict(done.networks), source if Path(source).exists() else "",
    )  # fmt: skip
    aside = run.folder / f"{FILE}.part"
    aside.write_bytes(sealed_json(asdict(left)))
    aside.replace(run.folder / FILE)


def unchanged_run(pipeline: "Pipeline", tell: Tell = unsaid) -> Finished | None:
    """What the last run gave if nothing changed since; None if a run must look closer.

    Args:
        pipeline: the settings.
        tell: called with why a run must look closer, or as `alike.flows.alarm.watch` does.

    Raises:
        StoreBusy: another run works in the output folder.
    """
    left = _left(pipeline)
    if left is None:
        return None
    from alike.flows.memo import alone_in

    with alone_in(pipeline.output.folder):
        try:
            why = (
                _gone(left)
                or left.state.difference(state_of(pipeline, left.code))
                or _record(pipeline, left)
                or _policy(pipeline)
                or _listing(pipeline, left)
            )
        except (AlikeError, OSError) as error:
            why = " ".join(str(error).split())
        if why:
            tell(f"not as the last run left it: {why}")
            return None
        return _finish(pipeline, left, tell)


def _finish(pipeline: "Pipeline", left: Left, tell: Tell) -> Finished:
    from alike.extract.store import Store
    from alike.flows.alarm import watch
    from alike.flows.history import History

    store = Store.open(pipeline.store_place)
    History(store).again(left.run)
    if pipeline.output.mirror is not None:
        from alike.flows.mirror import mirror

        # An earlier run may have failed to copy.
        mirror(pipeline.output.folder, pipeline.output.mirror, tell)
    return Finished(
        report=pipeline.output.folder / "report.html",
        key=left.key,
        reused=True,
        decisions=tuple(left.decisions),
        seconds={},
        bad=left.bad,
        notes=tuple(left.notes),
        alarms=watch(pipeline, store, tell),
        networks=left.networks,
    )


def _left(pipeline: "Pipeline") -> Left | None:
    file = pipeline.output.folder / FILE
    try:
        return read_sealed(file.read_bytes(), Left, str(file), "it is written anew")
    except (OSError, StoreDamaged):
        return None


def _gone(left: Left) -> str:
    """Says that the images are gone; empty if they are not, or were at no path."""
    return f"{left.source} is gone" if left.source and not Path(left.source).exists() else ""


def _record(pipeline: "Pipeline", left: Left) -> str:
    """Why the history does not hold the run that is still the last; empty if it does."""
    from alike.extract.store import Store
    from alike.flows.history import History

    records = History(Store.open(pipeline.store_place)).records()
    return "" if any(one.id == left.run for one in records) else "the record of that run is gone"


def _policy(pipeline: "Pipeline") -> str:
    """Why `alike store gc` would not do what [keep] says; empty if it would."""
    from alike.extract.store import Store
    from alike.flows.keeping import Policy

    noted = Policy.of(Store.open(pipeline.store_place))
    return "" if noted.is_of(pipeline.keep) else "the settings of [keep] changed"


def _listing(pipeline: "Pipeline", left: Left) -> str:
    """Why the images are not those that were listed; empty if they are."""
    from alike.extract.images import PastListing, notes_of, same_listing
    from alike.extract.listed import past_listing
    from alike.extract.notes import source_notes
    from alike.extract.secrets import masked
    from alike.extract.store import Store
    from alike.flows.history import History
    from alike.flows.steps import source_of

    source, store = source_of(pipeline), Store.open(pipeline.store_place)
    if getattr(source, "stamp", None) is None:
        return "images of this kind of set have no stamps, so all are read"
    with store.files.scratch() as scratch:
        past = past_listing(store, source, scratch)
        if past is None:
            return "no listing is remembered"
        before = History(store).unchanged()
        # Runs that change nothing write no listing: they count on from the last one written.
        turn = past.turn + (before.times if before else 0)
        why = same_listing(source, PastListing(past.table, turn))
    notes = [masked(one) for one in notes_of(source)]
    if not why and notes != source_notes(store.features(left.key).attrs):
        return "what is told of the images changed"
    return why


def state_of(pipeline: "Pipeline", code: list[str], began_ns: int | None = None) -> State:
    """The state of all that a result depends on but the images themselves.

    Args:
        pipeline: the settings.
        code: files of the network.
        began_ns: when the run began that leaves this state: what it read and is younger counts as
            changed. None to compare with such a state.
    """
    from alike.extract.store import remote_files

    folder = pipeline.output.folder
    weights = list(dict.fromkeys(one.weights for one in pipeline.networks))
    places = [Path(one) for one in code]
    # A new module beside them may come before the one that was loaded.
    for home in sorted({one.parent for one in places}):
        places += [*home.glob("*.py"), *home.glob("*/__init__.py")]
    places += [Path(name) for name in (*weights, pipeline.images.source) if "://" not in name]
    settings = [
        pipeline.model_dump(mode="json", exclude={"alarm", "keep", "cluster", "prefect"}),
        pipeline.written,
    ]
    if pipeline.analyse.human is not None:
        places.append(Path(pipeline.analyse.human))
    for retrained in (Path(name) for name in weights if "://" not in name):
        if retrained.is_dir():
            # The folder of a retraining.
            places += sorted(retrained.iterdir())
    files = {str(place): _stamp(place) for place in places if not place.is_dir()}
    if began_ns is not None:
        newest = settled_before(began_ns)
        files = {
            place: stamp if max(stamp[1:3], default=0) <= newest else []
            for place, stamp in files.items()
        }
    for name in ("steps.json", "decisions.jsonl", "served.json", "report.html"):
        files[str(folder / name)] = _stamp(folder / name)
    remote = remote_files(pipeline.store_place)
    store = [] if remote is not None else [Path(pipeline.store_place.removeprefix("file://"))]
    for part in (*store, folder / "weights"):
        files.update((place, _as_stamp(status)) for place, status in _walk(part))
    objects = {} if remote is None else _objects(remote)
    return State(digest(settings), _programs(), files, objects)


def _objects(remote: "RemoteFiles") -> dict[str, list[int | str]]:
    """Files of a remote store on which a result may depend: size and ETag, if it gives one."""
    stamps = remote.listing("")
    for folder in remote.folders(""):
        if folder not in NOT_RESULTS:
            stamps.update(remote.stamps(folder))
    return {
        f"store/{name}": [stamp.size, *(str(tag) for tag in stamp.version[:1] if tag)]
        for name, stamp in stamps.items()
    }


def _programs() -> dict[str, str]:
    from alike.flows.recording import versions

    gpus = sorted(one.name for one in Path("/dev").glob("nvidia[0-9]*"))
    return {
        **versions(),
        "python": platform.python_version(),
        "devices": f"{' '.join(gpus)} {os.environ.get(DEVICES, '')}".strip(),
    }


def _walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Files of a folder on which a result may depend, also those behind links, each once."""
    seen = set()
    for at, folders, files in os.walk(top, followlinks=True):
        here = os.stat(at)  # noqa: PTH116
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        if Path(at) == top:
            folders[:] = [one for one in folders if one not in NOT_RESULTS]
        for name in files:
            place = f"{at}/{name}"
            yield place, os.stat(place)  # noqa: PTH116


def _stamp(place: Path) -> list[int]:
    try:
        return _as_stamp(place.stat())
    except OSError:
        return []


def _as_stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _loaded_code() -> list[str]:
    """Files of the modules that this process loaded and that no installation has put there.

    Also those that the network's factory read.

    Code beside an environment counts: a project may be the folder of its own environment.
    """
    from alike.extract.networks import every_file_read, is_installed

    own = Path(__file__).resolve().parents[1]
    by_folder: dict[Path, list[str]] = {}
    for module in list(sys.modules.values()):
        name: Any = vars(module).get("__file__") if hasattr(module, "__dict__") else None
        if isinstance(name, str):
            by_folder.setdefault(Path(name).parent, []).append(name)
    for name in every_file_read():
        by_folder.setdefault(Path(name).parent, []).append(name)
    files: set[str] = set()
    for folder, inside in by_folder.items():
        real = folder.resolve()
        if not is_installed(real) and not real.is_relative_to(own):
            files.update(str(real / Path(name).name) for name in inside)
    return sorted(file for file in files if Path(file).is_file())
