"""Alarms: raised once when a rule begins to hold, delivered until each receiver has them.

An alarm is a file in `history/alarms/`, written before anybody is told. Whoever looks next, the
same run or a later one, delivers what is not delivered yet: a process that is killed between the
two loses no alarm and doubles none. (One that is killed between the receiver's answer and the
record of it delivers again, with the same id, which the receiver can tell: HTTP's `Idempotency-Key`
and `ALIKE_ALARM` of a command.) While a rule holds there is one alarm; it ends when the rule no
longer holds.
"""

import datetime
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from alike.extract.documents import read_sealed, sealed_json
from alike.extract.errors import AlikeError, StoreDamaged
from alike.extract.secrets import masked
from alike.flows.history import FOLDER, History, now
from alike.flows.log_lines import Tell
from alike.flows.memo import digest
from alike.flows.names import store_resource
from alike.flows.outputs import make_output
from alike.flows.recording import last_good, paired
from alike.flows.rules import Finding, Rule, Situation, findings

if TYPE_CHECKING:
    from pathlib import Path

    from alike.extract.store import Store
    from alike.flows.history import RunRecord, Score
    from alike.flows.sections import AlarmSettings, Pipeline

ALARMS = f"{FOLDER}/alarms"
PAUSES = (1.0, 5.0)
"""Seconds before a webhook is tried again."""
TIMEOUT = 30.0
"""Seconds that a receiver may take."""
_SAID = 1 << 16
"""Bytes that are read of what a command says on standard error."""
STATUS = 3
"""Exit status of a command while an alarm is open."""
_DELETE = "it is left out; delete it"


@dataclass(frozen=True)
class Alarm:
    """A rule that began to hold.

    Attributes:
        id: the same for every delivery.
        rule: as it is written in the settings.
        says: the numbers, one line.
        run: that it was raised for; empty before the first.
        raised: when, ISO 8601.
        owed: names of the receivers that there were then; one that is added later gets later ones.
        delivered: names of those that have it.
        ended: when the rule no longer held; empty while the alarm is open.
    """

    id: str
    rule: str
    says: str
    run: str
    raised: str
    owed: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()
    ended: str = ""

    @property
    def open(self) -> bool:
        """Whether the rule still holds."""
        return not self.ended

    def line(self) -> str:
        """The alarm in one line."""
        return f"{self.rule}: {self.says}"


class Alarms:
    """The alarms of one store."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def all(self) -> list[Alarm]:
        """Every alarm, oldest first; a file that is none is left out, and `verify` names it."""
        alarms = []
        for name in self._store.file_names(ALARMS):
            place = f"{ALARMS}/{name}"
            if not name.endswith(".json"):
                continue
            try:
                alarms.append(read_sealed(self._store.read_file(place), Alarm, place, _DELETE))
            except (FileNotFoundError, StoreDamaged):
                continue
        return sorted(alarms, key=lambda one: (one.raised, one.id))

    def write(self, alarm: Alarm) -> None:
        """Write an alarm as it is now."""
        self._store.write_file(f"{ALARMS}/{alarm.id}.json", sealed_json(asdict(alarm)))

    def update(self, present: Iterable[Finding], settings: "AlarmSettings") -> list[Alarm]:
        """Raise what begins to hold and end what no longer does; returns the open ones.

        Args:
            present: findings of all rules; one that cannot be decided changes nothing.
            settings: alarms of other rules than these end.
        """
        by_rule = {one.rule: one for one in self.all() if one.open}
        owed = tuple(receivers_of(settings))
        present = list(present)
        asked = {" ".join(one.split()) for one in settings.when} | {one.rule for one in present}
        for rule in by_rule.keys() - asked:
            self.write(replace(by_rule.pop(rule), ended=now()))
        for one in present:
            alarm = by_rule.get(one.rule)
            if one.holds and alarm is None:
                # Named by what it is about: two processes that see it raise one alarm.
                name = digest([one.rule, one.run, self._ended(one)])[:16]
                by_rule[one.rule] = Alarm(name, one.rule, one.says, one.run, now(), owed)
                self.write(by_rule[one.rule])
            elif one.holds is False and alarm is not None:
                self.write(replace(by_rule.pop(one.rule), ended=now()))
        return sorted(by_rule.values(), key=lambda one: (one.raised, one.id))

    def _ended(self, of: Finding) -> int:
        """How many alarms of this rule and run have ended: the next one is another."""
        return sum(one.rule == of.rule and one.run == of.run for one in self.all())

    def deliver(self, settings: "AlarmSettings", tell: Tell, folder: "Path | None" = None) -> None:
        """Give every receiver the alarms that it has not got; a failure is a warning, tried again.

        Alarms that ended before they could be delivered are delivered too.

        Args:
            settings: name the receivers.
            tell: called with every failed delivery, as a warning.
            folder: that a command runs in; None: that of this process.
        """
        receivers = receivers_of(settings, folder)
        for alarm in self.all():
            for name, send in receivers.items():
                if name not in alarm.owed or name in alarm.delivered:
                    continue
                try:
                    send(_message(alarm, self._store.place))
                except AlikeError as error:
                    line = f"alarm {alarm.id} was not delivered, the next run tries again: {error}"
                    tell(line, level="warning")
                    continue
                alarm = replace(alarm, delivered=(*alarm.delivered, name))
                self.write(alarm)


def situation_of(store: "Store", history: History) -> Situation:
    """What the rules look at in a store now."""
    records, accepted = history.records(), history.accepted()
    reference = next((one for one in records if accepted and one.id == accepted.run), None)

    def differences(first: "RunRecord", second: "RunRecord") -> "Mapping[str, Score]":
        stored = second.paired.get(first.id)
        return paired(store, first, second) if stored is None else stored

    return Situation(
        last=last_good(records),
        fresh=history.last_good(records),
        now=datetime.datetime.now(datetime.UTC),
        reference=reference,
        images=history.images,
        paired=differences,
        why_none=history.why_no_reference(),
    )


def findings_of(pipeline: "Pipeline", store: "Store") -> list[Finding]:
    """What every rule of the settings says now; nothing is written."""
    if not pipeline.alarm.when:
        return []
    situation = situation_of(store, History(store))
    rules = map(Rule.parse, pipeline.alarm.when)
    return [one for rule in rules for one in findings(rule, situation)]


def watch(pipeline: "Pipeline", store: "Store", tell: Tell) -> tuple[str, ...]:
    """Look at all rules at the end of a run, raise and deliver; returns a line for each open alarm.

    Args:
        pipeline: the settings.
        store: that has the history.
        tell: called with every open alarm and failed delivery, as warnings, and with why a rule
            cannot be decided.
    """
    if not pipeline.alarm.when and not Alarms(store).all():
        return ()
    with alarms_held(pipeline):
        present = findings_of(pipeline, store)
        for one in present:
            if one.holds is None:
                tell(f"rule {one.rule!r} says nothing: {one.says}")
        lines = tuple(one.line() for one in raise_alarms(pipeline, store, present, tell))
    for line in lines:
        tell(f"ALARM: {line}", level="warning")
    return lines


@contextmanager
def alarms_held(pipeline: "Pipeline") -> Iterator[None]:
    """Hold the alarms of an output folder, so that two processes raise and deliver each once.

    Not the folder itself: a run that hangs holds that, and is what `alike status` must tell.

    Args:
        pipeline: the settings.

    Raises:
        BadInput: the folder cannot be written.
    """
    from filelock import FileLock

    make_output(pipeline.output.folder)
    with FileLock(pipeline.output.folder / "alarms.lock"):
        yield


def raise_alarms(
    pipeline: "Pipeline", store: "Store", present: Iterable[Finding], tell: Tell
) -> list[Alarm]:
    """Raise and end alarms by what the rules say, and deliver; returns the open ones.

    Args:
        pipeline: the settings.
        store: that has the history; the caller has `alarms_held`.
        present: what every rule says.
        tell: called with every failed delivery, as a warning.
    """
    alarms = Alarms(store)
    if not pipeline.alarm.when and not alarms.all():
        return []
    opened = alarms.update(present, pipeline.alarm)
    alarms.deliver(pipeline.alarm, tell, pipeline.place)
    return opened


def receivers_of(
    settings: "AlarmSettings", folder: "Path | None" = None
) -> dict[str, Callable[[dict[str, Any]], None]]:
    """The receivers of the settings by name; each raises `AlikeError` if it does not take one."""
    receivers: dict[str, Callable[[dict[str, Any]], None]] = {}
    if settings.webhook:
        url = settings.webhook
        receivers["webhook"] = lambda message: post(url, message)
    if settings.command:
        command = settings.command
        receivers["command"] = lambda message: call(command, message, folder)
    if settings.event:
        receivers["event"] = emit
    return receivers


def post(url: str, message: dict[str, Any]) -> None:
    """Post an alarm as JSON; a server that is busy or gone is asked three times.

    Raises:
        AlikeError: it did not answer, or not with a status of success.
    """
    fault = ""
    for pause in (*PAUSES, None):
        answer = _answer(url, message)
        if isinstance(answer, int):
            if 200 <= answer < 300:
                return
            fault = f"status {answer}"
            if answer < 500 and answer not in (408, 425, 429):
                break
        else:
            fault = answer
        if pause is not None:
            time.sleep(pause)
    raise AlikeError(masked(f"webhook {url}: {fault}"))


def _answer(url: str, message: dict[str, Any]) -> int | str:
    """Status of a server's answer, whose body is not read; or in words why there is none in time.

    A time limit of HTTP's clients is that of each piece: a server that sends one now and then would
    be waited for without end, and its thread is left behind.
    """
    import httpx

    answers: SimpleQueue[int | str] = SimpleQueue()

    def ask() -> None:
        headers = {"Idempotency-Key": message["id"]}
        try:
            with httpx.stream(
                "POST", url, json=message, headers=headers, timeout=TIMEOUT
            ) as answer:
                answers.put(answer.status_code)
        # In a thread nobody else sees it: a name that is none is refused by no error of httpx.
        except Exception as error:
            answers.put(f"{type(error).__name__}: {error}")

    threading.Thread(target=ask, daemon=True, name="webhook").start()
    try:
        return answers.get(timeout=TIMEOUT)
    except Empty:
        return f"no answer after {TIMEOUT:.0f} s"


def call(command: tuple[str, ...], message: dict[str, Any], folder: "Path | None" = None) -> None:
    """Run a program that gets an alarm as JSON on its standard input.

    Args:
        command: the program and its arguments.
        message: the alarm.
        folder: that it runs in, as paths of the settings are relative to it; None: that of this
            process.

    Raises:
        AlikeError: it is not there, takes too long, or ends with another status than 0.
    """
    name = masked(command[0])
    # Whatever the locale is, and whatever the program writes.
    text = json.dumps(message, ensure_ascii=False).encode(errors="backslashreplace")
    try:
        # Files, not pipes: a pipe has no end while a child that the program left behind holds it.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(text)
            given.seek(0)
            ended = subprocess.run(
                list(command),
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, "ALIKE_ALARM": message["id"]},
                cwd=folder,
                timeout=TIMEOUT,
                check=False,
            )
            said.seek(0)
            lines = said.read(_SAID)
    except subprocess.TimeoutExpired:
        # Its own text holds the arguments, which may be secrets.
        raise AlikeError(f"command {name}: no end after {TIMEOUT:.0f} s") from None
    except (OSError, ValueError) as error:
        raise AlikeError(masked(f"command {name}: {error}")) from None
    if ended.returncode:
        stderr = " ".join(lines.decode(errors="backslashreplace").split())[-200:]
        raise AlikeError(masked(f"command {name}: status {ended.returncode} {stderr}".rstrip()))


def emit(message: dict[str, Any]) -> None:
    """Emit an alarm as a Prefect event.

    Raises:
        AlikeError: there is no Prefect server, as where nothing had changed and none was started.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise AlikeError("PREFECT_API_URL names no Prefect server for the event")
    from prefect.events import emit_event

    emitted = emit_event(
        event="alike.alarm",
        resource=store_resource(message["store"]),
        payload=message,
        id=uuid.UUID(digest(message["id"])[:32]),
    )
    if emitted is None:
        raise AlikeError("Prefect took no event")


def _message(alarm: Alarm, store: str) -> dict[str, Any]:
    """What a receiver gets."""
    message = {
        "id": alarm.id, "text": f"Alike: {alarm.line()}", "rule": alarm.rule, "says": alarm.says,
        "run": alarm.run, "raised": alarm.raised, "ended": alarm.ended, "store": store,
        "host": socket.gethostname(),
    }  # fmt: skip
    return {name: masked(value) for name, value in message.items()}
