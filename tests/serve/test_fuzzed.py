"""Fuzzed calls of everything that the API describes: no fault, and answers as described."""

import os
import shutil
from collections import Counter

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from .conftest import server

FULL = os.environ.get("ALIKE_FULL")
CALLS = 10_000 if FULL else 120
"""Of all operations together."""
PATHS = (
    "images/{image}/neighbours",
    "images/{image}/alike/{other}",
    "lists/{kind}",
    "map",
    "scores",
)
"""Whose answers need labels, an index or an analysis."""


@pytest.mark.quick
def test_everything_has_a_description(client):
    paths = client.json("/api/v1/openapi.json")["paths"]
    for methods in paths.values():
        for operation in methods.values():
            assert operation["description"]
            assert "422" in operation["responses"]


def test_fuzzed_calls_are_answered_as_described(place, analysed, tmp_path):
    """Those of a folder of its own: calls mark images."""
    shutil.copytree(place, tmp_path / "place")
    with server(tmp_path / "place" / "store") as client:
        fuzz_all(client)


def fuzz_all(client):
    """Schemathesis compares status, headers, content type and body with the description."""
    description = schemathesis.openapi.from_url(f"{client.address}/api/v1/openapi.json")
    operations = [one.ok() for one in description.get_all_operations() if isinstance(one, Ok)]
    assert len(operations) >= 16
    statuses: Counter[int] = Counter()
    for operation in operations:
        fuzz(operation, CALLS // len(operations) + 1, statuses)
    assert not any(status >= 500 for status in statuses)
    assert statuses[200]
    assert sum(statuses.values()) >= 0.8 * CALLS


def test_fuzzed_calls_below_the_name_of_a_store_are_answered_as_described(
    unlabelled, place, tmp_path
):
    """Of one without labels, and one without an index; described once, as those of the first."""
    shutil.copytree(place / "store", tmp_path / "bare.store")
    shutil.rmtree(tmp_path / "bare.store" / "index")
    with server(unlabelled, tmp_path / "bare.store") as client:
        raw = client.json("/api/v1/openapi.json")
        raw["paths"] = {
            f"/api/v1/stores/{name}/{path}": {"get": raw["paths"][f"/api/v1/{path}"]["get"]}
            for name in ("store", "bare") for path in PATHS
        }  # fmt: skip
        description = schemathesis.openapi.from_dict(raw)
        description.config.update(base_url=client.address)
        operations = [one.ok() for one in description.get_all_operations() if isinstance(one, Ok)]
        assert len(operations) == 2 * len(PATHS)
        statuses: Counter[int] = Counter()
        for operation in operations:
            fuzz(operation, max(1, CALLS // 100), statuses)
    assert not any(status >= 500 for status in statuses)
    assert statuses[200]


def fuzz(operation, calls, statuses):
    """Call one operation with values that fit its description, and with some that do not."""
    # OpenAPI has no word for bytes that are an image: most that are none are refused.
    image = "application/octet-stream" in str(operation.definition.raw.get("requestBody"))
    excluded = [positive_data_acceptance] if image else []
    strategy = hypothesis.strategies.one_of(
        operation.as_strategy(),
        operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
    )

    @settings(
        max_examples=calls,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def call(case):
        answer = case.call(timeout=120)
        statuses[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=excluded)

    call()
