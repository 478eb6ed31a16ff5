"""What the server has done, for Prometheus."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from alike.serve.guard import App, Message, Receive, Scope, Send
from alike.serve.work import Work

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counts of one server.

    Attributes:
        requests: answers by route, method and status.
        seconds: until an answer was sent, by route.
    """

    def __init__(self, work: Work) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "alike_requests", "Answers.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "alike_request_seconds", "Seconds until an answer was sent.", ["route"],
            buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        service = work.service
        for name in ("searches", "history", "network", "pixels", "files"):
            gate = getattr(work, name)
            _gauge(
                registry, f"alike_{name}_in_use", f"Weight of {gate.name} in use.", gate, "in_use"
            )
            _gauge(registry, f"alike_{name}_waiting", f"Requests that wait for {gate.name}.", gate,
                   "waiting")  # fmt: skip
        for name, cache in (
            ("uploads", service.uploads),
            ("thumbnails", service.thumbnails.memory),
        ):
            _gauge(registry, f"alike_{name}_bytes", f"Bytes of {name} in memory.", cache, "used")
        _gauge(registry, "alike_thumbnails_made", "Pictures that were made.", service.thumbnails,
               "count")  # fmt: skip

    def document(self) -> Response:
        """All counts, as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def counting(self, app: App) -> App:
        """An application whose answers are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began, status = time.perf_counter(), 500

            async def sender(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, sender)
            finally:
                # An address that is none of ours is one route, or anybody could add any number.
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.requests.labels(route, method, str(status)).inc()
                self.seconds.labels(route).observe(time.perf_counter() - began)

        return counted


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


def _gauge(registry: CollectorRegistry, name: str, about: str, holder: Any, field: str) -> None:
    Gauge(name, about, registry=registry).set_function(lambda: float(getattr(holder, field)))
