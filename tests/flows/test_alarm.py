"""Alarms: raised once, delivered once though a process is killed between, raised anew later."""

import datetime
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from lines import Lines
from typer.testing import CliRunner

from alike import api
from alike.extract.documents import sealed_json
from alike.extract.errors import AlikeError, BadInput
from alike.extract.store.store import Store
from alike.flows import alarm
from alike.flows.alarm import Alarms, findings_of, watch
from alike.flows.cli import app
from alike.flows.history import History, RunRecord, new_id
from alike.flows.memo import alone_in
from alike.flows.recording import failure
from alike.flows.rules import Finding, Rule
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun

ROOT = Path(__file__).parents[2]
SETTINGS = """
[images]
source = "set"
[network]
name = "resnet18"
[alarm]
when = ["bad > 1 %", "recall < 0.93", "no good run for 26 h"]
command = ["{python}", "receiver.py", "log"]
"""
RECEIVER = """
import json, os, pathlib, sys
message = json.load(sys.stdin)
assert os.environ["ALIKE_ALARM"] == message["id"]
with pathlib.Path(sys.argv[1]).open("a") as log:
    log.write(f"{message['rule']}\\n")
"""


@pytest.fixture
def place(tmp_path):
    """Settings whose alarms a program writes into a log, and a store."""
    (tmp_path / "receiver.py").write_text(RECEIVER)
    (tmp_path / "p.toml").write_text(SETTINGS.format(python=sys.executable))
    Store.open(tmp_path / "alike-out" / "store", create=True)
    return tmp_path


def parts(place):
    return read_pipeline(place / "p.toml"), Store.open(place / "alike-out" / "store")


def write(store, *, bad=0, recall=1.0, hours=0.0, state="good", name=""):
    time = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    one = RunRecord(
        id=name or new_id(), time=time.isoformat(), seconds=1.0, state=state,
        recall=[recall, recall, 1.0],
        counts={"listed": 100, "bad": bad, "ok": 100 - bad},
    )  # fmt: skip
    History(store).write(one)
    return one


def log(place):
    file = place / "log"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def test_an_alarm_is_raised_once_while_it_lasts_and_anew_when_it_returns(place):
    pipeline, store = parts(place)
    for bad, raised in ((0, 0), (1, 0), (2, 1), (3, 1), (0, 1), (5, 2), (5, 2)):
        write(store, bad=bad)
        lines = Lines()
        opened = watch(pipeline, store, lines.say)
        assert [one.split(":")[0] for one in opened] == (["bad > 1 %"] if bad > 1 else [])
        assert log(place) == ["bad > 1 %"] * raised
        # The log has every open alarm, also one that was delivered before.
        assert lines == [f"ALARM: {one}" for one in opened]
        assert lines.levels == ["warning"] * (bad > 1)


KILLED = """
import os, sys
from pathlib import Path
from alike.flows import alarm
from alike.extract.store.store import Store
from alike.flows.log_lines import say
from alike.flows.settings import read_pipeline

if sys.argv[2] == "kill":
    alarm.Alarms.deliver = lambda *_: os._exit(9)
place = Path(sys.argv[1])
alarm.watch(read_pipeline(place / "p.toml"), Store.open(place / "alike-out" / "store"), say)
"""


def test_a_process_killed_between_the_alarm_and_its_delivery_gives_one(place):
    """Another process finds it, though the rule no longer holds by then; a third one finds none."""
    _, store = parts(place)
    write(store, recall=0.9)

    def look(how):
        command = [sys.executable, "-c", KILLED, str(place), how]
        return subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False).returncode

    assert look("kill") == 9
    assert (log(place), len(Alarms(store).all())) == ([], 1)
    write(store, recall=0.95)
    pipeline = read_pipeline(place / "p.toml")
    watch(pipeline, store, Lines().say)
    assert log(place) == ["recall < 0.93"]
    watch(pipeline, store, Lines().say)
    assert log(place) == ["recall < 0.93"]


def test_a_receiver_that_fails_is_told_and_asked_again(place):
    pipeline, store = parts(place)
    script = (place / "receiver.py").read_text()
    (place / "receiver.py").write_text(
        r"import os; os.write(1, b'\xfe'); os.write(2, b'no room \xff'); os._exit(1)"
    )
    write(store, bad=9)
    lines = Lines()
    watch(pipeline, store, lines.say)
    assert r"status 1 no room \xff" in lines[0]
    assert lines.levels == ["warning", "warning"]
    (place / "receiver.py").write_text(script)
    watch(pipeline, store, lines.say)
    assert log(place) == ["bad > 1 %"]
    assert lines[1:] == ["ALARM: bad > 1 %: bad is 0.09"] * 2


def test_no_good_run_for_hours(place):
    pipeline, store = parts(place)

    def stale():
        return findings_of(pipeline, store)[2]

    assert stale().holds is True
    last = write(store, hours=30)
    assert stale().holds is True
    write(store, hours=1, state="failed")
    assert stale().holds is True
    History(store).again(last.id)
    assert stale().holds is False


@pytest.mark.quick
def test_a_clock_that_was_ahead_hides_no_later_run(place):
    pipeline, store = parts(place)
    history = History(store)
    ahead = write(store, hours=-24 * 365, name="20991231T000000000000-abcdef")
    history.again(ahead.id)
    (history_file,) = store.path("history").glob("unchanged.json")
    last = replace(history.unchanged(), last="2099-12-31T00:00:00+00:00")
    history_file.write_bytes(sealed_json(asdict(last)))
    (stale,) = [one for one in findings_of(pipeline, store) if "26 h" in one.rule]
    assert (stale.holds, stale.says.split(" dated ")[0]) == (None, "the last good run is")
    for hours, bad, raised in ((30, 0, {"no good run for 26 h"}), (0, 5, {"bad > 1 %"})):
        write(store, hours=hours, bad=bad, name=new_id(history.newest()))
        assert {one.rule for one in findings_of(pipeline, store) if one.holds} == raised
    failed = failure(PipelineRun(pipeline), BadInput("no images"), history.newest())
    history.write(failed)
    assert history.records()[-1] == failed
    assert history.failed_since(history.records()) == [failed]


def command(place, *words):
    return CliRunner().invoke(app, [words[0], str(place / "p.toml"), *words[1:]])


def test_failures_before_a_good_run_without_a_record_are_over(place):
    _, store = parts(place)
    last = write(store, hours=3)
    for hours in (2, 1):
        write(store, hours=hours, state="failed")
    assert "2 runs failed since" in command(place, "status").output
    History(store).again(last.id)
    assert json.loads(command(place, "status", "--json").output)["failed_since"] == 0
    assert "failed" not in command(place, "status").output
    write(store, hours=-1, state="failed")
    assert "1 run failed since" in command(place, "status").output


def without_images(place):
    return "images set do not exist"


def without_code(place):
    (place / "set").mkdir()
    (place / "net.py").write_text("def net(:")
    text = (place / "p.toml").read_text()
    (place / "p.toml").write_text(text.replace("resnet18", "net.py:net"))
    return "net.py"


@pytest.mark.parametrize("fault", [without_images, without_code])
def test_a_run_that_is_refused_is_recorded_and_looks_at_the_rules(place, fault):
    says = fault(place)
    write(parts(place)[1], hours=30)
    refused = command(place, "run")
    assert isinstance(refused.exception, BadInput)
    assert says in str(refused.exception)
    _, record = History(parts(place)[1]).records()
    assert record.state == "failed"
    assert says in record.error
    assert log(place) == ["no good run for 26 h"]
    assert "ALARM: no good run for 26 h" in refused.output
    with pytest.raises(BadInput) as error:
        api.run_pipeline(place / "p.toml")
    assert str(error.value) == str(refused.exception)
    assert json.loads(command(place, "status", "--json").output)["failed_since"] == 2
    assert log(place) == ["no good run for 26 h"]


def test_a_first_run_that_is_refused_makes_nothing(place):
    text = (place / "p.toml").read_text()
    (place / "p.toml").write_text(f'{text}[output]\nfolder = "new"\n')
    assert isinstance(command(place, "run").exception, BadInput)
    assert not (place / "new").exists()


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with the next of some statuses, and keeps what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(self.server.statuses.pop(0))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(alarm, "PAUSES", (0.0, 0.0))
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    server.got, server.statuses = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/services/verysecret"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("statuses", "asked", "fails"),
    [([200], 1, False), ([503, 429, 204], 3, False), ([500] * 3, 3, True), ([404], 1, True)],
)
def test_a_webhook_is_tried_again_only_where_that_can_help(hook, statuses, asked, fails):
    server, url = hook
    server.statuses = list(statuses)
    message = {"id": "abc", "text": "bad"}
    if fails:
        with pytest.raises(AlikeError, match=f"status {statuses[-1]}"):
            alarm.post(url, message)
    else:
        alarm.post(url, message)
    assert server.got == [("abc", message)] * asked


@pytest.mark.quick
@pytest.mark.parametrize(
    ("begins", "piece", "fails"),
    [(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", True), (b"HTTP/1.1 200 OK\r\n\r\n", b"x", False)],
)
def test_a_webhook_that_answers_without_end_is_not_waited_for(monkeypatch, begins, piece, fails):
    """Its headers have a time limit as a whole, and its body is not read."""
    monkeypatch.setattr(alarm, "PAUSES", ())
    monkeypatch.setattr(alarm, "TIMEOUT", 1.0)
    over = threading.Event()

    def drip(server):
        with server.accept()[0] as connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(begins)
            while not over.wait(0.05):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/services/verysecret"
        with pytest.raises(AlikeError) if fails else nullcontext() as error:
            alarm.post(url, {"id": "abc"})
    over.set()
    if fails:
        assert str(error.value).endswith(": no answer after 1 s")


def test_a_webhook_that_is_not_there_is_named_without_its_secret(monkeypatch, place):
    monkeypatch.setattr(alarm, "PAUSES", ())
    text = (place / "p.toml").read_text().replace("command", "#")
    (place / "p.toml").write_text(f'{text}webhook = "http://127.0.0.1:1/services/verysecret"\n')
    pipeline, store = parts(place)
    write(store, bad=50)
    lines = Lines()
    watch(pipeline, store, lines.say)
    assert "http://127.0.0.1:1/***" in lines[0]
    assert "verysecret" not in lines[0]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "kind", "name", "number"),
    [
        ("sameness  fell", "fell", "sameness", None),
        ("eer rose", "rose", "eer", None),
        ("bad > 1 %", "compared", "bad", 0.01),
        ("one_nn<=.9", "compared", "one_nn", 0.9),
        ("no good run for 2 d", "stale", "", 48.0),
    ],
)
def test_rules_are_read(text, kind, name, number):
    rule = Rule.parse(text)
    assert (rule.kind, rule.name) == (kind, name)
    assert number is None or rule.number == number


@pytest.mark.quick
@pytest.mark.parametrize(
    "text", ["", "sameness", "samenes < 1", "bad > 1..2", "one_nn fell", "no good run for ever"]
)
def test_a_rule_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match=r"expected|compare another score"):
        Rule.parse(text)


def test_an_alarm_of_a_rule_that_was_taken_out_ends(place):
    pipeline, store = parts(place)
    alarms = Alarms(store)
    gone = Finding("images < 5", True, "images is 2", "r")
    alarms.update([gone], pipeline.alarm.model_copy(update={"when": ("images < 5",)}))
    assert [one.open for one in alarms.all()] == [True]
    alarms.update([], pipeline.alarm)
    assert [one.open for one in alarms.all()] == [False]


@pytest.mark.quick
def test_a_command_is_over_when_it_ends_though_its_child_goes_on(monkeypatch):
    """A child that the program left behind has its outputs open; what it does is not waited for."""
    monkeypatch.setattr(alarm, "TIMEOUT", 5.0)
    left = "import subprocess; subprocess.Popen(['sleep', '6'])"
    began = time.monotonic()
    alarm.call((sys.executable, "-c", left), {"id": "abc"})
    assert time.monotonic() - began < 5.0
    monkeypatch.setattr(alarm, "TIMEOUT", 0.2)
    with pytest.raises(AlikeError) as error:
        alarm.call(("sh", "-c", "sleep 3", "verysecret"), {"id": "abc"})
    assert str(error.value) == "command sh: no end after 0 s"


def test_status_tells_of_a_run_that_hangs(place):
    """Such a run holds the output folder; what is delivered meanwhile is not delivered again."""
    pipeline, store = parts(place)
    write(store, hours=30)
    with alone_in(pipeline.output.folder):
        assert command(place, "status", "--notify").exit_code == alarm.STATUS
        assert log(place) == ["no good run for 26 h"]
    watch(pipeline, store, Lines().say)
    assert log(place) == ["no good run for 26 h"]


@pytest.mark.quick
def test_a_store_without_runs_is_no_state_of_all_is_well(place):
    """As one that `alike extract` made."""
    assert command(place, "status").exit_code == alarm.STATUS
    text = (place / "p.toml").read_text().replace(', "no good run for 26 h"', "")
    (place / "p.toml").write_text(text)
    assert "has no runs yet" in str(command(place, "status", "--json").exception)
    write(parts(place)[1])
    assert command(place, "status").exit_code == 0
