"""Runs as a Prefect server sees them: a real server, a real store, real steps.

`ALIKE_FULL=1` runs a worker of a work pool too.
"""

import datetime
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from changing_set import Place
from scheduled_service import lines_of

from alike.analysis.stored import Analysis
from alike.extract.documents import sealed_json
from alike.extract.errors import BadInput, NoCluster, StoreBusy
from alike.extract.store.store import Store
from alike.flows import steps
from alike.flows.history import History
from alike.flows.log_lines import choose, forget_choice, say
from alike.flows.memo import alone_in
from alike.flows.names import artifact_key, store_id
from alike.flows.orchestration import prepare, step
from alike.flows.prefect_server import start_server, stop_server
from alike.flows.schedule import deployment_name, one_at_a_time, serve_schedule
from alike.flows.settings import Pipeline, read_pipeline
from alike.flows.steps import PipelineRun
from alike.flows.unchanged import FILE, Left, State

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("ALIKE_FULL") == "1"
WAIT = 60.0
"""Seconds in which a log or an event must reach the server."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A client of a server of this module's own; runs in this process go to that server."""
    folder, before, port = tmp_path_factory.mktemp("prefect"), dict(os.environ), free_port()
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        os.environ.pop(name, None)
    prepare(folder)
    process = start_server(port, folder / "server.log")
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    try:
        from prefect.client.orchestration import get_client
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_HOME,
            PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
            temporary_settings,
        )

        settings = {
            PREFECT_API_URL: url,
            PREFECT_HOME: folder / "prefect",
            PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
        }
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client
            # What is sent after the server has ended is waited for.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    finally:
        stop_server(process)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def place(tmp_path):
    """A set of 24 images with settings that try again at once."""
    one = Place(tmp_path)
    one.stores["out"] = "[prefect]\nretry_seconds = 0.0\nretries = 2\ntags = ['nightly']\n"
    return one


@pytest.mark.quick
def test_a_key_is_what_prefect_takes_and_of_one_store(tmp_path):
    one = Place(tmp_path)
    here, there = (read_pipeline(one.write_settings(folder)) for folder in ("out", "other"))
    here = here.model_copy(update={"title": "Night / Zoo, ärger"})
    key = artifact_key(here, "progress extract net.py:small")
    assert re.fullmatch("progress-extract-net-py-small-night-zoo-rger-[0-9a-f]{8}", key)
    assert artifact_key(here, "scores")[-8:] != artifact_key(there, "scores")[-8:]
    assert store_id("s3://bucket/x") == store_id("s3://bucket/x") != store_id("s3://bucket/y")


def runs_of(client, tag):
    """Flow runs with a tag, the newest first, each with its task runs by name."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterTags,
    )

    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
    runs.sort(key=lambda one: one.created, reverse=True)
    found = []
    for run in runs:
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        )
        found.append((run, {one.name: one for one in tasks}))
    return found


def logs_of(client, run, wanted, least=20):
    """Messages of a run's log at INFO (20) or above, once they hold what is wanted."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    by_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        lines = [one.message for one in client.read_logs(log_filter=by_run) if one.level >= least]
        if all(any(part in line for line in lines) for part in wanted):
            return lines
        time.sleep(0.2)
    pytest.fail(f"{wanted} not in {lines}")


def check_artifacts(client, run, pipeline, done):
    """The four artifacts of a run say what its store says, and the event reaches the server."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    by_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    shown = {one.key: one for one in client.read_artifacts(artifact_filter=by_run)}
    store = Store.open(pipeline.store_place)
    suffix = f"-{store_id(pipeline.store_place)[:8]}"
    what = {key.removesuffix(suffix).removesuffix(f"-{slug(pipeline)}"): key for key in shown}
    assert set(what) >= {"summary", "scores", "class-pairs", "report"}
    scores = Analysis.load(store, done.key).tables["scores"]
    (own,) = scores.query("measure == 'gap_cosine' and score == 'sameness'").value
    rows = json.loads(shown[what["scores"]].data)
    assert [
        row["value"] for row in rows if (row["measure"], row["score"]) == ("gap_cosine", "sameness")
    ] == [pytest.approx(own, rel=1e-5)]
    pairs = json.loads(shown[what["class-pairs"]].data)
    table = Analysis.load(store, done.key).tables["class_pairs"]
    table = table[table.measure == "gap_cosine"]
    means = {
        frozenset((a, b)): mean
        for a, b, mean in zip(table.class_a, table.class_b, table["mean"], strict=True)
    }
    nearest = sorted(mean for pair, mean in means.items() if len(pair) == 2)
    assert [row["mean"] for row in pairs] == pytest.approx(nearest)
    assert [means[frozenset((row["class_a"], row["class_b"]))] for row in pairs] == pytest.approx(
        nearest
    )
    assert done.report.resolve().as_uri() in shown[what["report"]].data
    assert "**What ran, and why**" in shown[what["summary"]].data
    record = History(store).records()[-1]
    until, events = time.monotonic() + WAIT, []
    while not events and time.monotonic() < until:
        answer = client._client.post(
            "/events/filter", json={"filter": {"event": {"name": ["alike.run.finished"]}}}
        )
        events = [one for one in answer.json()["events"] if one["payload"]["run"] == record.id]
        time.sleep(0.2)
    assert (
        events[0]["resource"]["prefect.resource.id"]
        == f"alike.store.{store_id(pipeline.store_place)}"
    )
    assert events[0]["payload"]["scores"]["sameness"] == pytest.approx(own, rel=1e-5)


def slug(pipeline):
    return re.sub("[^a-z0-9]+", "-", pipeline.place.name.lower()).strip("-")


def test_a_run_has_tasks_named_for_what_they_do_and_tries_passing_faults_again(
    server, place, monkeypatch, capsys
):
    """Its lines are on standard error once, and in the log of the server."""
    from alike.flows.pipeline import run_pipeline

    build, faults = steps.build, [ConnectionResetError("peer gone"), TimeoutError("slow")]

    def build_at_last(*given):
        if faults:
            raise faults.pop()
        return build(*given)

    monkeypatch.setattr(steps, "build", build_at_last)
    place.stores["out"] += '[alarm]\nwhen = ["images < 1000"]\ncommand = ["no-such-program"]\n'
    choose("json", by_option=True)
    try:
        done = run_pipeline(place.write_settings("out"), tell=say)
    finally:
        forget_choice()
    assert done.report.is_file()
    lines = lines_of(capsys.readouterr().err)
    told = [one["message"] for one in lines if "logger" not in one]
    logged = [one["message"] for one in lines if one.get("logger", "").startswith("prefect")]
    assert not set(told) & set(logged)
    assert set(done.decisions) <= set(logged)
    (delivery,) = [line for line in told if "no-such-program" in line]
    warnings = [delivery, "ALARM: images < 1000: images is 24"]
    assert [one["message"] for one in lines if one["level"] == "warning"] == warnings
    run, tasks = runs_of(server, "nightly")[0]
    network = "net.py:small"
    assert set(tasks) == {
        f"{what} {network}" for what in ("extract", "index", "analyse", "explain")
    } | {"report"}
    assert {name: one.run_count for name, one in tasks.items() if one.run_count > 1} == {
        f"index {network}": 3
    }
    assert "index" in tasks[f"index {network}"].tags
    assert {"alike", "nightly", f"network {network}"} < set(run.tags)
    assert [line for line in told if "tried again" in line] == [
        f"index {network}: TimeoutError slow: tried again, 2 times at most",
        f"index {network}: ConnectionResetError peer gone: tried again, 1 times at most",
    ]
    seconds = f"extract network: {done.seconds['extract network']:.1f} s"
    lines = logs_of(server, run, [seconds, *told])
    assert [line for line in lines if line in told] == told
    assert logs_of(server, run, warnings, least=30) == warnings
    check_artifacts(server, run, read_pipeline(place.folder / "out.toml"), done)


def test_wrong_input_is_never_tried_again(server, place):
    from prefect import flow

    run = PipelineRun(read_pipeline(place.write_settings("out")))
    attempts = []

    def refuse(run):
        attempts.append(1)
        raise BadInput("no such tap") from ConnectionResetError("peer gone")

    @flow(name="alike")
    def whole():
        step(refuse, "refuse")(run)

    with pytest.raises(BadInput, match="no such tap"):
        whole()
    assert len(attempts) == 1


def test_a_scheduler_that_is_gone_is_waited_for_if_it_answered_before(server, place):
    from distributed.comm.core import CommClosedError
    from prefect import flow

    run = PipelineRun(read_pipeline(place.write_settings("out")))

    @flow(name="alike")
    def attempts_with(*faults):
        left, attempts = list(faults), []

        def ask(run):
            attempts.append(1)
            if left:
                raise left.pop(0)

        step(ask, "ask")(run)
        return len(attempts)

    with pytest.raises(NoCluster, match="mistyped"):
        attempts_with(NoCluster("mistyped"))
    assert not run.workers.reached
    assert attempts_with(CommClosedError("killed"), NoCluster("not up yet")) == 3
    assert attempts_with(NoCluster("gone between two steps")) == 2


def test_a_long_step_shows_how_far_it_is(server, place, monkeypatch):
    from prefect import flow
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from alike.flows import progress_artifact

    monkeypatch.setattr(progress_artifact, "FIRST", 0.05)
    monkeypatch.setattr(progress_artifact, "EVERY", 0.05)
    run = PipelineRun(read_pipeline(place.write_settings("out")))
    key = artifact_key(run.pipeline, "progress count sheep")
    by_key = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))

    def count(run):
        run.progress("count", 1, 4, "slow")
        until = time.monotonic() + WAIT
        while not (seen := server.read_artifacts(artifact_filter=by_key)):
            assert time.monotonic() < until
            time.sleep(0.05)
        run.progress("count", 4, 4)
        return seen

    @flow(name="alike")
    def whole():
        return step(count, "count sheep")(run)

    ((before,), (after,)) = whole(), server.read_artifacts(artifact_filter=by_key)
    assert (before.type, float(before.data), before.description) == (
        "progress", 25.0, "count: 1 of 4, slow",
    )  # fmt: skip
    assert (after.id, float(after.data), after.description) == (before.id, 100.0, "count: 4 of 4")


@pytest.fixture
def deployment(server, place):
    """A deployment of the settings, every minute by the clock, as `schedule` makes it."""
    from prefect.types.entrypoint import EntrypointType

    from alike.flows.pipeline import scheduled

    settings = place.write_settings("out")
    made = scheduled.to_deployment(
        name=place.folder.name,
        cron="* * * * *",
        paused=True,
        parameters={"path": str(settings)},
        concurrency_limit=one_at_a_time(read_pipeline(settings)),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return server.read_deployment(made.apply())


def test_every_setting_may_be_overridden_and_the_server_refuses_what_does_not_fit(
    server, place, deployment
):
    from prefect.exceptions import PrefectHTTPStatusError

    from alike.flows.pipeline import scheduled

    schema = deployment.parameter_openapi_schema
    every = schema["definitions"]["Pipeline"]["properties"]
    # Further networks are given as a list of `network`.
    assert set(every) == set(Pipeline.model_fields) - {"others"}
    shown = schema["definitions"]["Analyse"]["properties"]["bootstrap"]
    assert (shown["type"], shown["minimum"]) == ("integer", 0)
    assert "Nothing is resampled" in shown["description"]
    for wrong in ({"index": {"recall": 3}}, {"index": {"recal": 0.5}}, {"indx": {}}):
        with pytest.raises(PrefectHTTPStatusError):
            server.create_flow_run_from_deployment(deployment.id, parameters={"settings": wrong})
    right = {"analyse": {"bootstrap": 0, "measures": ["gap_cosine"]}}
    server.create_flow_run_from_deployment(deployment.id, parameters={"settings": right})
    several = {"network": [{"name": "resnet18"}, {"name": "vgg11"}]}
    server.create_flow_run_from_deployment(deployment.id, parameters={"settings": several})
    path = place.write_settings("out")
    scheduled(str(path), settings=right)
    (record,) = History(Store.open(read_pipeline(path).store_place)).records()
    assert record.settings["analyse.bootstrap"] == 0
    assert record.settings["analyse.measures"] == ["gap_cosine"]
    assert record.settings["explain.continuity_images"] == 0


def test_a_second_run_of_a_store_waits_or_is_skipped(server, place):
    from alike.flows.pipeline import scheduled
    from alike.flows.turns import limit_name, slot_of_store

    path = place.write_settings("out")
    pipeline = read_pipeline(path)
    skip = {"prefect": {"busy": "skip"}}
    with slot_of_store(pipeline):
        assert server.read_global_concurrency_limit_by_name(limit_name(pipeline)).active_slots == 1
        with (
            pytest.raises(StoreBusy, match="another run works on the store"),
            slot_of_store(pipeline),
        ):
            pass
        state = scheduled(str(path), settings=skip, return_state=True)
        assert (state.type.value, state.name) == ("COMPLETED", "Skipped")
        lines, waited = [], threading.Event()

        def tell(line):
            lines.append(line)
            waited.set()

        def second():
            with slot_of_store(pipeline, tell):
                lines.append("begun")

        other = threading.Thread(target=second)
        other.start()
        assert waited.wait(WAIT)
        assert lines == [
            f"another run works on the store {pipeline.store_place}: waiting for its end"
        ]
    other.join(WAIT)
    assert lines[1:] == ["begun"]
    with alone_in(pipeline.output.folder):
        state = scheduled(str(path), settings=skip, return_state=True)
        assert state.name == "Skipped"
        # Nor does one fail that asks first whether anything has changed since the last.
        left = Left(State("", {}, {}), [], "", "", [], 0, [])
        (pipeline.output.folder / FILE).write_bytes(sealed_json(asdict(left)))
        state = scheduled(str(path), settings=skip, return_state=True)
        assert state.name == "Skipped"
    assert server.read_global_concurrency_limit_by_name(limit_name(pipeline)).active_slots == 0


def test_a_scheduled_run_that_is_refused_is_recorded_and_its_alarm_is_logged(server, place):
    from alike.flows.pipeline import scheduled

    place.stores["out"] += '[alarm]\nwhen = ["no good run for 26 h"]\n'
    path = place.write_settings("out")
    history = History(Store.open(read_pipeline(path).store_place, create=True))
    (place.folder / "set").rename(place.folder / "away")
    state = scheduled(str(path), return_state=True)
    assert state.is_failed()
    assert "images set do not exist" in state.message
    (record,) = history.records()
    assert record.error.startswith("BadInput: images set do not exist")
    run = server.read_flow_run(state.state_details.flow_run_id)
    logs_of(server, run, ["ALARM: no good run for 26 h"], least=30)


def test_late_runs_collapse_into_one_and_those_asked_for_stay(server, place, deployment):
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.flow_engine import run_flow

    from alike.flows.pipeline import scheduled

    now = datetime.datetime.now(datetime.UTC)
    times = {"start_time": now - datetime.timedelta(minutes=4), "end_time": now}
    body = {
        **{name: time.isoformat() for name, time in times.items()},
        "min_runs": 4,
        "max_runs": 9,
    }
    server._client.post(f"/deployments/{deployment.id}/schedule", json=body).raise_for_status()
    asked = server.create_flow_run_from_deployment(deployment.id)
    own = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
    late = [one for one in server.read_flow_runs(flow_run_filter=own) if one.auto_scheduled]
    past = [one for one in late if one.expected_start_time <= now]
    assert len(past) >= 3
    first = min(past, key=lambda one: one.expected_start_time)
    run_flow(scheduled, flow_run=first, parameters={"path": str(place.folder / "out.toml")})
    after = {one.id: one.state.type.value for one in server.read_flow_runs(flow_run_filter=own)}
    assert after[first.id] == "COMPLETED"
    assert {after[one.id] for one in past if one.id != first.id} == {"CANCELLED"}
    assert after[asked.id] == "SCHEDULED"
    assert all(after[one.id] == "SCHEDULED" for one in late if one not in past)


@pytest.mark.skipif(not FULL, reason="a minute: set ALIKE_FULL=1")
def test_a_worker_of_a_pool_runs_what_is_registered(server, place):
    """By `alike schedule --work-pool` and by `prefect.yaml`; one worker runs both, one is late."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    settings = place.write_settings("out")
    lines = []
    with pytest.raises(BadInput, match="has none of that name"):
        serve_schedule(settings, "0 2 * * *", timezone="UTC", work_pool="alike", tell=lines.append)
    server.create_work_pool(WorkPoolCreate(name="alike", type="process"))
    serve_schedule(settings, "0 2 * * *", timezone="UTC", work_pool="alike", tell=lines.append)
    assert lines[-1] == "registered; `prefect worker start --pool alike` runs it"
    environment = {**os.environ, "ALIKE_SETTINGS": str(settings)}

    def prefect(*words):
        command = [sys.executable, "-m", "prefect", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("--no-prompt", "deploy", "--all")
    name = deployment_name(settings, read_pipeline(settings))
    runs = []
    for one in ("alike/nightly", f"alike/{name}"):
        deployment = server.read_deployment_by_name(one)
        assert deployment.parameters == {"path": str(settings)}
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.schedules[0].schedule.cron == "0 2 * * *"
        runs.append(server.create_flow_run_from_deployment(deployment.id).id)
    prefect("worker", "start", "--pool", "alike", "--run-once")
    by_id = FlowRunFilter(id=FlowRunFilterId(any_=runs))
    states = {one.id: one.state for one in server.read_flow_runs(flow_run_filter=by_id)}
    assert [states[one].name for one in runs] == ["Completed", "Completed"], states
    records = History(Store.open(read_pipeline(settings).store_place)).records()
    assert [one.state for one in records] == ["good"]
