"""The questions of the API: each route is one question to the service."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from alike.extract.errors import BadInput
from alike.serve import models
from alike.serve.metrics import Metrics
from alike.serve.network import NeedsNetwork, Vectors
from alike.serve.notes import other_measure
from alike.serve.opened import OpenIndex, check_measure
from alike.serve.pictures import StoreGone
from alike.serve.questions import (
    MOST_ROWS,
    Features,
    K,
    Labels,
    Limit,
    Measure,
    Name,
    Offset,
    answer,
    only_its_parameters,
)
from alike.serve.service import all_explanations, usual_methods
from alike.serve.stores import ServedStore
from alike.serve.view_api import view_routes
from alike.serve.views import Views
from alike.serve.work import FOREVER, Work, document, json_answer

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Error, "description": about}
    for status, about in {
        400: "The name of the host is not allowed, or the body is no JSON.",
        401: "The token is missing or wrong.",
        403: "A page of another site may not ask.",
        404: "Not there, or the store is not there any more.",
        408: "The body did not arrive in time.",
        409: "A stored file is damaged or missing; the line says how to mend it.",
        413: "The body is too large.",
        415: "The body is a form, or is not named as JSON.",
        422: "A value that cannot be.",
        500: "A fault of the server: its log says more.",
        503: "Too much is waiting, or the storage does not answer: try again.",
        507: "The disk of the store is full.",
    }.items()
}
API = "/api/v1"
STRICT = [Depends(only_its_parameters)]
PART = 32
"""Images of one question that are done at once; then it is seen whether its client still waits."""
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
FORM = "a form: send the file itself as the body, as `curl --data-binary @cat.jpg` does"


def store_routes(
    work: Work, views: Views, prefix: str = API, *, described: bool = True
) -> APIRouter:
    """The routes that ask about one store.

    Args:
        work: does what they ask.
        views: answers what the views of the page ask.
        prefix: of their paths.
        described: whether the description of the API has them.
    """
    router = APIRouter(
        prefix=prefix, responses=ERRORS, include_in_schema=described, dependencies=STRICT
    )
    _of_the_set(router, work)
    _of_pictures(router, work)
    _of_neighbours(router, work)
    _of_pairs(router, work)
    _of_the_analysis(router, work)
    _of_tags(router, work)
    view_routes(router, work, views)
    return router


def server_routes(stores: Sequence[ServedStore], work: Work, metrics: Metrics) -> APIRouter:
    """The routes that ask about the server.

    Args:
        stores: that are served.
        work: does what they ask.
        metrics: that `metrics` shows.
    """
    router = APIRouter(prefix=API, responses=ERRORS, dependencies=STRICT)

    @router.get("/stores", response_model=list[models.StoreFacts])
    async def stores_(request: Request) -> Any:
        """The stores of this server: the paths of `/api/v1` answer for the first.

        Below `/api/v1/stores/NAME` the same paths answer for each, as
        `/api/v1/stores/pets/images/3/neighbours`. A store that was deleted is left out.
        """

        def question() -> Any:
            facts = []
            for one in stores:
                with suppress(StoreGone):
                    summary = one.service.presence.asking(one.service.summary)
                    facts.append({"name": one.name, **summary()})
            if not facts:
                stores[0].service.presence.require()
            return facts

        return await work.search_all(request, answer(question))

    @router.get("/health", response_model=models.Health)
    async def health() -> Any:
        """Whether the server answers; needs no token."""
        return {"status": "ok", "version": work.service.version}

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics_() -> Response:
        """What the server has done, for Prometheus."""
        return metrics.document()

    return router


def _of_the_set(router: APIRouter, work: Work) -> None:
    service = work.service

    @router.get("/set", response_model=models.SetFacts)
    async def set_(request: Request, features: Features = None, measure: Measure = None) -> Any:
        """What is served: the set, the network, the index, the extractions of the store."""
        return await work.search(request, answer(partial(service.facts, features, measure)))

    @router.get("/images", response_model=models.Sample)
    async def images(
        request: Request,
        count: Annotated[int, Query(ge=0, le=1000, description="Number of images.")] = 24,
        seed: Annotated[int, Query(ge=0, lt=2**63, description="Of the draw.")] = 0,
        label: Annotated[str | None, Query(max_length=512, description="Only this class.")] = None,
        features: Features = None,
    ) -> Any:
        """Stored images drawn at random."""
        draw = partial(service.sample, count, seed, label, features)
        return await work.search(request, answer(draw))

    @router.post("/images", response_model=models.Image, openapi_extra=IMAGE_BODY)
    async def upload(request: Request) -> Any:
        """Bring an image: the body is the file. It stays in memory until others need the room."""
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise HTTPException(415, FORM)
        data = await request.body()
        if not data:
            raise BadInput("an empty body: send the bytes of an image file")
        return await work.upload(request, data)

    @router.get("/images/{image}", response_model=models.Image)
    async def image(request: Request, image: Name, features: Features = None) -> Any:
        """One image."""
        return await work.search(
            request, answer(lambda: service.about(image, service.opened(features)))
        )


def _of_pictures(router: APIRouter, work: Work) -> None:
    service = work.service

    @router.get("/images/{image}/thumbnail", **_picture("image/webp"))
    async def thumbnail(
        request: Request,
        image: Annotated[models.Hash, Path()],
        side: Annotated[models.Side, Query(description="Largest side.")] = models.Side.MEDIUM,
    ) -> Response:
        """The image, no larger than `side` pixels. What lies here never changes."""
        data = await work.look(partial(service.small_picture, image, int(side)))
        if data is None:
            data = await work.picture(
                request, image, lambda stored: service.thumbnail(stored, int(side))
            )
        return Response(data, media_type="image/webp", headers=FOREVER)

    @router.get("/images/{image}/input", **_picture("image/png"))
    async def input_(
        request: Request,
        image: Annotated[models.Hash, Path()],
        transform: Annotated[
            str, Query(pattern="^[0-9a-f]{8}$", description="`transform` of `set`.")
        ],
        features: Features = None,
    ) -> Response:
        """What the network sees of the image. What lies here never changes."""
        data = await work.picture(
            request, image, lambda stored: service.network_input(stored, transform, features)
        )
        return Response(data, media_type="image/png", headers=FOREVER)


def _picture(kind: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string", "format": "binary"}}}
    return {"response_class": Response, "responses": {200: {"content": content}}}


def _of_neighbours(router: APIRouter, work: Work) -> None:
    @router.get("/images/{image}/neighbours", response_model=models.Neighbours)
    async def neighbours(
        request: Request,
        image: Name,
        k: K = 12,
        relation: models.Relation = "any",
        label: Labels = None,
        features: Features = None,
        measure: Measure = None,
    ) -> Any:
        """The k nearest stored images; a stored image is never its own neighbour."""
        asked = models.NeighbourQuestion(
            images=[image], k=k, relation=relation, labels=label or [], features=features,
            measure=measure,
        )  # fmt: skip
        return await _neighbours(work, request, asked, lambda answers: answers[0])

    @router.post("/neighbours", response_model=models.ManyNeighbours)
    async def many(request: Request, question: models.NeighbourQuestion) -> Any:
        """The nearest stored images of many images at once."""
        return await _neighbours(work, request, question, lambda answers: {"answers": answers})


async def _neighbours(
    work: Work,
    request: Request,
    asked: models.NeighbourQuestion,
    shape: Callable[[list[dict[str, Any]]], Any],
) -> Response:
    service = work.service
    answers: list[dict[str, Any]] = []

    def answer_part(first: int, opened: OpenIndex, vectors: Vectors) -> None:
        labels, index = tuple(asked.labels), opened.searched()
        notes = other_measure(
            asked.measure, service.measure, index.measure.name, index.features.key
        )
        for number, name in enumerate(asked.images[first : first + PART], first):
            answer = service.neighbours(
                name, asked.k, asked.relation, labels, opened, number, vectors=vectors
            )
            answers.append({**answer, "notes": [*notes, *answer["notes"]]})

    def embed_and_answer(first: int, opened: OpenIndex, others: frozenset[str]) -> None:
        # With what the network has just said: it is not held for long if others need the room.
        names = [one for one in dict.fromkeys(asked.images[first : first + PART]) if one in others]
        answer_part(first, opened, service.embed(names, opened))

    def finish() -> Response:
        return json_answer(document(shape(answers)))

    def from_store() -> Any:
        """The answer; or the index, and the images whose vectors only the network gives."""
        opened = service.opened(asked.features, asked.measure)
        opened.searched()
        others = service.not_stored(list(dict.fromkeys(asked.images)), opened)
        if len(asked.images) > PART:
            return opened, others
        try:
            answer_part(0, opened, {})
        except NeedsNetwork:
            return opened, others
        return finish()

    outcome = await work.search(request, from_store)
    if isinstance(outcome, Response):
        return outcome
    opened, others = outcome
    firsts = range(0, len(asked.images), PART)
    answer: Response
    if others:
        parts = [partial(embed_and_answer, first, opened, frozenset(others)) for first in firsts]
        answer = await work.think(request, others, *parts, finish)
    else:
        parts = [partial(answer_part, first, opened, {}) for first in firsts]
        answer = await work.search(request, *parts, finish)
    return answer


def _of_pairs(router: APIRouter, work: Work) -> None:
    service = work.service

    @router.get("/images/{image}/alike/{other}", response_model=models.Alike)
    async def alike(
        request: Request,
        image: Name,
        other: Name,
        features: Features = None,
        measure: Measure = None,
    ) -> Any:
        """Where two images are alike, position by position."""
        opened = await work.search(request, partial(service.opened, features, measure))
        question = partial(service.alike, image, other, opened)
        return await work.search_or_think(request, [image, other], question)

    @router.get("/images/{image}/alike/{other}/pixels", response_model=models.PixelLikeness)
    async def pixels(
        request: Request,
        image: Name,
        other: Name,
        method: Annotated[
            models.PairMethod, Query(description="Key of `alike list pair-explainers`.")
        ] = "likeness_lrp",
        features: Features = None,
        measure: Measure = None,
    ) -> Any:
        """Which pixels make two images alike, by the measure of the index."""
        opened = await work.search(request, partial(service.opened, features, measure))
        question = partial(service.pixel_likeness, image, other, method, opened)
        return await work.think(request, [image, other], answer(question))

    @router.get("/images/{image}/explain", response_model=models.Explanations)
    async def explain(
        request: Request,
        image: Name,
        method: Annotated[
            list[models.Method] | None,
            Query(max_length=16, description="Keys of `alike list explainers`. Repeatable."),
        ] = None,
        target: Annotated[
            str | None, Query(max_length=512, description="Class: the predicted one without.")
        ] = None,
        features: Features = None,
    ) -> Any:
        """What in the image speaks for a class, by several methods."""
        opened = await work.search(request, partial(service.opened, features, None))
        said: list[dict[str, Any]] = []

        def explain_by(one: str) -> None:
            said.append(service.explain(image, one, target, opened))

        methods = dict.fromkeys(method or await work.look(usual_methods))
        finish = answer(lambda: all_explanations(said))
        return await work.think(
            request, [image], *(partial(explain_by, one) for one in methods), finish
        )


def _of_the_analysis(router: APIRouter, work: Work) -> None:
    service = work.service

    @router.get("/scores", response_model=models.Analysis)
    async def scores(request: Request, features: Features = None) -> Any:
        """The document of `alike analyse --json`."""
        return await work.search(
            request, answer(lambda: service.analyses.scores(service.chosen_key(features)))
        )

    def table(path: str, name: str, about: str, order: str | None = None) -> None:
        async def rows(
            request: Request, features: Features = None, measure: Measure = None,
            limit: Limit = 10_000, offset: Offset = 0,
        ) -> Any:  # fmt: skip
            def question() -> Any:
                key = service.chosen_key(features)
                return service.analyses.rows(name, key, measure, limit, order, offset=offset)

            return await work.search(request, answer(question))

        rows.__doc__ = about
        router.get(path, response_model=models.Rows, name=name)(rows)

    table("/classes", "per_class", "Scores of each class, the lowest sameness first.", "sameness")
    table(
        "/class-pairs", "class_pairs",
        "Distances of each pair of classes; of more than 2,048 classes, of the nearest of each.",
    )  # fmt: skip
    table("/histograms", "histograms", "Same and different pairs by distance.")
    table("/examples", "pairs_examples", "Pairs of images worth a look.")

    @router.get("/grades", response_model=models.Grades)
    async def grades(request: Request, features: Features = None) -> Any:
        """What `alike explain --grade` has found: does the network follow its explanations?"""
        return await work.search(
            request, answer(lambda: service.analyses.grades(service.chosen_key(features)))
        )

    @router.get("/map", response_model=models.Map)
    async def map_(
        request: Request,
        split: Annotated[
            models.Split | None, Query(description="The first that has a map without.")
        ] = None,
        limit: Limit = MOST_ROWS,
        features: Features = None,
        measure: Measure = None,
        predictions: Annotated[
            bool, Query(description="Also what the network takes each image for.")
        ] = False,
    ) -> Any:
        """The stored map, as `alike map` made it last; of a larger one a random part."""

        def question() -> Any:
            opened = service.opened(features)
            chosen = service.map_measure(opened) if measure is None else measure
            check_measure(chosen)
            return service.analyses.map(opened, chosen, split, limit, predictions=predictions)

        return await work.search(request, answer(question))


def _of_tags(router: APIRouter, work: Work) -> None:
    service = work.service

    @router.get("/tags", response_model=models.Tags)
    async def tags() -> Any:
        """Tags of the stored images."""
        return await work.look(answer(service.tags))

    @router.put("/tags/{tag}", response_model=models.Tags)
    async def change(tag: Annotated[models.TagName, Path()], change: models.TagChange) -> Any:
        """Give stored images a tag, or take it away. Labels stay as they are."""
        # Not a search: it may wait for another process that writes tags.
        question = partial(service.change_tags, change.images, tag, change.present)
        return await work.look(answer(question))
