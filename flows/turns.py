"""One run of a store at a time, and one run for all that were late: policies kept on the server.

The slot of a store is a global concurrency limit of the Prefect server, which holds for all
pipelines and machines that use it. It is a lease: the slot of a run that was killed is free again
after `LEASE` seconds. The locks of the store and of the output folder hold without any server.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Cancelled

from alike.extract.errors import StoreBusy
from alike.extract.secrets import masked
from alike.flows.names import store_id

if TYPE_CHECKING:
    from alike.flows.sections import Pipeline

LEASE = 60.0
"""Seconds for which a slot stays taken that nobody renews."""


@contextmanager
def slot_of_store(
    pipeline: "Pipeline", waiting: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold the slot of a store on the server; without a lasting server nothing is held.

    The limit is made with one slot if it is not there. A limit that an administrator changed or
    turned off stays so.

    Args:
        pipeline: the settings.
        waiting: called with a line before another run's end is waited for; None: refuse.

    Raises:
        StoreBusy: another run has the slot, and it is not waited for.
    """
    with ExitStack() as held:
        if os.environ.get("PREFECT_API_URL"):
            name = limit_name(pipeline)
            _make_limit(name)
            try:
                held.enter_context(_slot(name, tries=0))
            except ConcurrencySlotAcquisitionError as error:
                if not _taken(error):
                    raise
                line = f"another run works on the store {masked(pipeline.store_place)}"
                if waiting is None:
                    raise StoreBusy(f"{line}: wait for its end") from None
                waiting(f"{line}: waiting for its end")
                held.enter_context(_slot(name, tries=None))
        yield


def limit_name(pipeline: "Pipeline") -> str:
    """The global concurrency limit of a store."""
    return f"alike-store-{store_id(pipeline.store_place)}"


def _make_limit(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            # Another run may make it at the same time.
            with suppress(ObjectAlreadyExists):
                limit = GlobalConcurrencyLimitCreate(name=name, limit=1)
                client.create_global_concurrency_limit(limit)


@contextmanager
def _slot(name: str, tries: int | None) -> Iterator[None]:
    # A server that is away for a minute must not end a run of hours: the store has its own lock.
    with concurrency(
        name, max_retries=tries, lease_duration=LEASE, raise_on_lease_renewal_failure=False
    ):
        yield


def _taken(error: Exception) -> bool:
    cause = error.__cause__
    locked = httpx.codes.LOCKED
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == locked


def collapse_late_runs(tell: Callable[[str], object]) -> None:
    """Cancel the runs of this deployment whose time has come and that the clock asked for.

    This run does what they would do. Runs that somebody asked for, maybe with other settings, stay.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context else None
    if own is None or own.deployment_id is None:
        return
    late = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[own.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    now, cancelled = datetime.datetime.now(datetime.UTC), 0
    with get_client(sync_client=True) as client:
        for one in client.read_flow_runs(flow_run_filter=late, limit=200):
            due = one.expected_start_time is not None and one.expected_start_time <= now
            if one.id != own.id and one.auto_scheduled and due:
                state: State[None] = Cancelled(message=f"late: the run {own.name} does the same")
                client.set_flow_run_state(one.id, state, force=True)
                cancelled += 1
    if cancelled:
        tell(f"{cancelled} late runs of this schedule are cancelled: this one does the same")
