"""Serving a deployment: runs start when the server says so, and end with this process.

Prefect's runner waits at its end for the run that goes on, which may take hours, and leaves the
states of killed runs as they are. So it is ended here: runs are asked to end and then killed (what
they had stored is kept), the server is told, and the process leaves.

Import it only after `alike.flows.orchestration.prepare`.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.runner import Runner
from prefect.states import Crashed

from alike.flows.log_lines import say
from alike.flows.parent import GRACE
from alike.flows.prefect_server import stop_server

_ACTIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_ENDED = [StateType.CRASHED, StateType.CANCELLED, StateType.FAILED]
_PAGE = 200
TELL_SECONDS = 20.0
"""For telling the server what became of the runs."""
SETTLE_SECONDS = 30.0
"""Between two looks for steps that are shown as going on in runs that have ended."""


class _Runner(Runner):
    """A runner that leaves signals to us: its own handler waits for ever while a run goes on."""

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        """End all, whatever goes on; by a thread, for a handler may interrupt anything."""
        del args, kwargs
        threading.Thread(target=self.end, daemon=True).start()

    end: Any = None


def serve(
    flow: Any,
    deployed: dict[str, Any],
    limit: Any,
    server: subprocess.Popen[bytes] | None,
    registered: Callable[[], object] = lambda: None,
) -> None:
    """Serve a flow until the process is told to end, or its server ends.

    Args:
        flow: what every run calls.
        deployed: name, schedule, parameters and tags of the deployment.
        limit: how many of its runs go on at a time.
        server: that was started for it; None if it is somebody else's.
        registered: called when the server knows the schedule.
    """
    runner = _Runner(name=deployed["name"], pause_on_shutdown=True)
    served: Any = runner.add_flow(flow, concurrency_limit=limit, **deployed)
    registered()
    deployment: UUID = served
    ending = _Ending(deployment, server)
    runner.end = ending.end
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, runner.handle_sigterm)
    settle(deployment)
    if server is not None:
        threading.Thread(target=ending.watch, daemon=True).start()
    threading.Thread(target=_settle_often, args=(deployment,), daemon=True).start()
    asyncio.run(runner.start())


class _Ending:
    """The end of serving: of the runs, of the server, of the process."""

    def __init__(self, deployment: UUID, server: subprocess.Popen[bytes] | None) -> None:
        self._deployment, self._server = deployment, server
        self._begun = threading.Lock()

    def watch(self) -> None:
        """End with the server, without which no run can tell what it does."""
        if self._server is not None:
            status = self._server.wait()
            self.end(f"the Prefect server ended with status {status}: start the schedule again")

    def end(self, fault: str = "") -> None:
        """End everything; does not return.

        Args:
            fault: why, if nobody asked for it: then the exit status is 1.
        """
        if not self._begun.acquire(blocking=False):
            return
        say(fault or "the schedule ends", level="error" if fault else "info")
        if not fault:
            # No run starts any more.
            _within(TELL_SECONDS, self._pause)
        _end_runs()
        if not fault:
            _within(TELL_SECONDS, lambda: settle(self._deployment))
        if self._server is not None:
            stop_server(self._server)
        # The runner's own end would wait for what is gone.
        os._exit(1 if fault else 0)

    def _pause(self) -> None:
        with get_client(sync_client=True) as client:
            client.pause_deployment(self._deployment)


def _within(seconds: float, tell: Callable[[], object]) -> None:
    """Tell the server something; one that does not answer in time is not waited for."""

    def try_to() -> None:
        try:
            tell()
        except Exception as error:
            say(f"the Prefect server is not told: {type(error).__name__}", level="warning")

    teller = threading.Thread(target=try_to, daemon=True)
    teller.start()
    teller.join(seconds)


def _end_runs() -> None:
    """End the processes of the runs, with all that they started."""
    runs = multiprocessing.active_children()
    for one in runs:
        one.terminate()
    until = time.monotonic() + GRACE
    for one in runs:
        one.join(max(0.0, until - time.monotonic()))
        if one.exitcode is None:
            one.kill()
            one.join()


def settle(deployment: UUID) -> None:
    """Say on the server that runs of a deployment whose processes are gone have crashed.

    Runs of a work pool's workers are left alone.

    Args:
        deployment: which no process serves now but this one, and none of whose runs goes on.
    """
    with get_client(sync_client=True) as client:
        of_ours = FlowRunFilterDeploymentId(any_=[deployment])
        active = FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE))
        left = FlowRunFilter(deployment_id=of_ours, state=active)
        for one in client.read_flow_runs(flow_run_filter=left, limit=_PAGE):
            if one.work_pool_name is None:
                client.set_flow_run_state(one.id, _gone(), force=True)
    settle_tasks(deployment)


def settle_tasks(deployment: UUID) -> None:
    """Say the same of steps: those that go on in runs of a deployment that have ended."""
    with get_client(sync_client=True) as client:
        ended = FlowRunFilterState(type=FlowRunFilterStateType(any_=_ENDED))
        runs = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]), state=ended
        )
        active = TaskRunFilterState(type=TaskRunFilterStateType(any_=_ACTIVE))
        tasks = client.read_task_runs(
            flow_run_filter=runs, task_run_filter=TaskRunFilter(state=active), limit=_PAGE
        )
        for one in tasks:
            client.set_task_run_state(one.id, _gone(), force=True)


def _settle_often(deployment: UUID) -> None:
    """Settle the steps of runs that were killed, for as long as this process serves."""
    while True:
        time.sleep(SETTLE_SECONDS)
        # The runner asks the same server, and says what is wrong with it; here the next turn does.
        with contextlib.suppress(Exception):
            settle_tasks(deployment)


def _gone() -> State[None]:
    return Crashed(message="its process is gone")
