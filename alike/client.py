"""A server of `alike serve`, asked from Python: each method is one question of its API."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit, urlunsplit

from alike.extract.errors import AlikeError, BadInput, StoreBusy

if TYPE_CHECKING:
    import pandas as pd

API = "/api/v1"
Query = str | Path | bytes | int
"""A row, the SHA-256 of an image that the server knows, an image file, or its bytes."""
HASH_LENGTH = 64
HEX = frozenset("0123456789abcdef")
OF_THE_SERVER = ("/health", "/stores")
"""Paths that belong to no store."""
SCORE_FACTS = ("key", "n_images", "n_images_before_sampling", "classes", "settings", "twins")
"""Of the document of an analysis, in the `attrs` of its scores."""


class Client:
    """Asks one server.

    A table has the columns that the same command prints by `--json`.

    Attributes:
        address: of the server, without the token.
    """

    def __init__(
        self, address: str, *, token: str = "", timeout: float = 60.0, store: str = ""
    ) -> None:
        """Connect; see `alike.connect`.

        Raises:
            BadInput: nobody answers there, or something else does.
        """
        import httpx

        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"address {address!r}: one such as http://127.0.0.1:8000 is expected")
        self.address = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        token = token or parse_qs(parts.query).get("token", [""])[0]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.address + API, headers=headers, timeout=timeout, trust_env=False
        )
        self._below = ""
        try:
            self.version = self._greet(store)
        except AlikeError:
            self.close()
            raise

    def _greet(self, store: str) -> str:
        """The version of the server, which has the store that is named."""
        health = self._ask("GET", "/health")
        if not isinstance(health, dict) or health.get("status") != "ok":
            raise BadInput(f"{self.address} answers, and is no server of `alike serve`")
        if store:
            names = list(self.stores()["name"])
            if store not in names:
                raise BadInput(f"no store {store!r}: the server has {', '.join(names)}")
            self._below = f"/stores/{store}"
        return str(health["version"])

    def __repr__(self) -> str:
        return f"<server {self.address}, alike {self.version}>"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stores(self) -> "pd.DataFrame":
        """The stores of the server: name, network, weights, images, classes (their number)."""
        return _table(self._ask("GET", "/stores"))

    def set(self, *, features: str | None = None, measure: str | None = None) -> dict[str, Any]:
        """What is served: the set, the network, the index, the extractions of the store."""
        facts: dict[str, Any] = self._ask("GET", "/set", features=features, measure=measure)
        return facts

    def images(
        self,
        count: int = 24,
        *,
        seed: int = 0,
        label: str | None = None,
        features: str | None = None,
    ) -> "pd.DataFrame":
        """Stored images drawn at random: image (SHA-256), row, path, label, subset, split."""
        asked: dict[str, Any] = {"count": count, "seed": seed, "label": label, "features": features}
        return _table(self._ask("GET", "/images", **asked))

    def upload(self, image: str | Path | bytes) -> str:
        """Bring an image file to the server; the SHA-256 by which it is named from then on."""
        data = image if isinstance(image, bytes) else _read(Path(image))
        return str(self._ask("POST", "/images", content=data)["image"])

    def neighbours(
        self,
        images: Query | Iterable[Query],
        k: int = 10,
        *,
        relation: Literal["any", "same", "other"] = "any",
        among: Sequence[str] = (),
        features: str | None = None,
        measure: str | None = None,
    ) -> "pd.DataFrame":
        """The stored images nearest to images.

        Args:
            images: one or several; files and bytes are uploaded.
            k: neighbours of each.
            relation: `same`: only of the query's class; `other`: of other classes.
            among: only images of these classes.
            features: key of an extraction; None: that of the server.
            measure: of the index; None: that of the server.

        Returns:
            As `alike neighbours --json`: number, query, query_row, rank, row, distance, path,
            label; and image (SHA-256), split.
        """
        single = isinstance(images, str | Path | bytes | int)
        queries: list[Query] = [images] if single else list(images)  # type: ignore[list-item, arg-type]
        question = {
            "images": [self._name(one) for one in queries], "k": k, "relation": relation,
            "labels": list(among), "features": features, "measure": measure,
        }  # fmt: skip
        answers = self._ask("POST", "/neighbours", json=question)["answers"]
        columns = [
            "number", "query", "query_row", "rank", "row", "distance", "path", "label", "image",
            "split",
        ]  # fmt: skip
        return _table([line for one in answers for line in one["neighbours"]], columns)

    def alike(
        self,
        image: Query,
        other: Query,
        *,
        features: str | None = None,
        measure: str | None = None,
    ) -> dict[str, Any]:
        """Where two images are alike.

        Returns:
            distance (by the measure of the index); measure, value and apart, which likeness and
            difference, (h, w) on each, split; pairs.
        """
        import numpy as np

        path = f"/images/{self._name(image)}/alike/{self._name(other)}"
        answer: dict[str, Any] = self._ask("GET", path, features=features, measure=measure)
        for name in ("likeness", "difference"):
            answer[name] = [np.array(one) for one in answer[name]]
        answer["pairs"] = None if answer["pairs"] is None else np.array(answer["pairs"])
        return answer

    def pixel_likeness(
        self,
        image: Query,
        other: Query,
        method: str = "likeness_lrp",
        *,
        features: str | None = None,
        measure: str | None = None,
    ) -> dict[str, Any]:
        """Which pixels make two images alike, by the measure of the index.

        Returns:
            value (similarity), maps (h, w) on each, conserved (sum of each over the value);
            left_out says why the method does not fit.
        """
        import numpy as np

        path = f"/images/{self._name(image)}/alike/{self._name(other)}/pixels"
        answer: dict[str, Any] = self._ask(
            "GET", path, method=method, features=features, measure=measure
        )
        answer["maps"] = [np.array(one) for one in answer["maps"]]
        return answer

    def explain(
        self,
        image: Query,
        methods: Sequence[str] = (),
        *,
        target: str | None = None,
        features: str | None = None,
    ) -> "tuple[pd.DataFrame, dict[str, Any]]":
        """What in an image speaks for a class: a table of methods, and the map (h, w) of each."""
        import numpy as np

        path = f"/images/{self._name(image)}/explain"
        answer = self._ask("GET", path, method=list(methods), target=target, features=features)
        return _table(answer["maps"]), {n: np.array(one) for n, one in answer["arrays"].items()}

    def scores(self, *, features: str | None = None) -> "pd.DataFrame":
        """The scores of the analysis; its settings, and the twins, are in the table's `attrs`."""
        answer = self._ask("GET", "/scores", features=features)
        table = _table(answer.pop("scores"))
        table.attrs = {name: answer[name] for name in SCORE_FACTS}
        return table

    def classes(self, **asked: Any) -> "pd.DataFrame":
        """Scores of each class; takes features, measure, limit."""
        return self._rows("/classes", asked)

    def class_pairs(self, **asked: Any) -> "pd.DataFrame":
        """Distances of each pair of classes; takes features, measure, limit."""
        return self._rows("/class-pairs", asked)

    def histograms(self, **asked: Any) -> "pd.DataFrame":
        """Same and different pairs by distance; takes features, measure, limit."""
        return self._rows("/histograms", asked)

    def examples(self, **asked: Any) -> "pd.DataFrame":
        """Pairs of images worth a look; takes features, measure, limit."""
        return self._rows("/examples", asked)

    def map(self, **asked: Any) -> "pd.DataFrame":
        """The stored map: row, image, path, label, subset, split, pca_x, pca_y, tsne_x, tsne_y.

        Takes features, measure, split, limit, predictions. With an analysis there is `purity`: the
        share of each image's neighbours that have its class. With `predictions=True` there is
        `prediction`: what the network takes each image for.
        """
        answer = self._ask("GET", "/map", **asked)
        names = ("row", "image", "path", "label", "subset", "split")
        table = _table({name: answer.pop(name) for name in names})
        for name in ("purity", "prediction"):
            values = answer.pop(name)
            if values is not None:
                table[name] = values
        for name in ("pca", "tsne"):
            table[[f"{name}_x", f"{name}_y"]] = answer.pop(name)
        table.attrs = answer
        return table

    def class_pair(self, first: str, second: str, **asked: Any) -> "pd.DataFrame":
        """The nearest and the farthest pairs of images of two classes, or within one.

        Takes features, measure.

        Returns:
            end (`nearest`, `farthest`), row_a, row_b, path_a, path_b, distance.
        """
        answer = self._ask("GET", "/class-pair", first=first, second=second, **asked)
        lines = [
            (end, one["first"]["row"], one["second"]["row"], one["first"]["path"],
             one["second"]["path"], one["distance"])
            for end in ("nearest", "farthest")
            for one in answer[end]
        ]  # fmt: skip
        columns = ["end", "row_a", "row_b", "path_a", "path_b", "distance"]
        table = _table(lines, columns)
        table.attrs = {name: answer[name] for name in ("measure", "split", "images", "of", "mean")}
        return table

    def images_to_check(
        self,
        kind: Literal["labels", "outliers", "twins", "bad", "tags"],
        *,
        features: str | None = None,
        limit: int | None = None,
    ) -> "pd.DataFrame":
        """Suspected labels, outliers, twins (two lines an entry), bad images, or those with tags.

        Args:
            kind: of the list.
            features: key of an extraction; None: that of the server.
            limit: most entries.

        Returns:
            entry, row, image, path, label, subset, split, suggested, score, why.
        """
        answer = self._ask("GET", f"/lists/{kind}", features=features, limit=limit)
        own = ("suggested", "score", "why")
        lines = [
            {"entry": number, **image, **{name: line[name] for name in own}}
            for number, line in enumerate(answer["lines"])
            for image in line["images"]
        ]
        names = ("row", "image", "path", "label", "subset", "split")
        table = _table(lines, ["entry", *names, *own])
        table.attrs = {name: answer[name] for name in ("key", "kind", "n_lines", "needs")}
        return table

    def prediction(self, image: Query, *, features: str | None = None) -> "pd.DataFrame":
        """What the network takes an image for: class, share; the likeliest first."""
        path = f"/images/{self._name(image)}/prediction"
        answer = self._ask("GET", path, features=features)
        return _table({"class": answer["classes"], "share": answer["shares"]})

    def tags(self) -> "pd.DataFrame":
        """Tags of the stored images: image (SHA-256), tag."""
        return self._tags(self._ask("GET", "/tags"))

    def tag(self, images: Iterable[int | str], tag: str, *, present: bool = True) -> "pd.DataFrame":
        """Give stored images a tag, or take it away; the tags afterwards. Labels stay."""
        change = {"images": [str(one) for one in images], "present": present}
        return self._tags(self._ask("PUT", f"/tags/{tag}", json=change))

    def _tags(self, answer: Any) -> "pd.DataFrame":
        pairs = [(image, tag) for image, tags in answer["images"].items() for tag in tags]
        return _table(pairs, ["image", "tag"])

    def _rows(self, path: str, asked: dict[str, Any]) -> "pd.DataFrame":
        answer = self._ask("GET", path, **asked)
        table = _table(answer.pop("rows"))
        table.attrs = answer
        return table

    def _name(self, image: Query) -> str:
        if isinstance(image, str) and len(image) == HASH_LENGTH and set(image) <= HEX:
            return image
        if isinstance(image, str | Path | bytes):
            return self.upload(image)
        return str(int(image))

    def _ask(
        self,
        verb: str,
        path: str,
        /,
        *,
        content: bytes | None = None,
        json: Any = None,
        **asked: Any,
    ) -> Any:
        """The answer to one question.

        Raises:
            BadInput: the server refuses it, or nobody answers.
            StoreBusy: the server has too much to do.
            AlikeError: a fault of the server.
        """
        import httpx

        params = {name: value for name, value in asked.items() if value is not None}
        try:
            below = "" if path in OF_THE_SERVER else self._below
            answer = self._http.request(
                verb, below + path, params=params, content=content, json=json
            )
        except httpx.HTTPError as error:
            msg = f"{self.address} does not answer ({error or type(error).__name__})"
            raise BadInput(f"{msg}: start it by `alike serve`, or give its address") from error
        try:
            document = answer.json()
        except ValueError:
            document = {}
        if answer.is_success:
            return document
        line = document.get("error") if isinstance(document, dict) else None
        line = f"{self.address}: {line or f'status {answer.status_code}'}"
        kinds = {500: AlikeError, 503: StoreBusy}
        raise kinds.get(answer.status_code, BadInput)(line)


def _table(rows: Any, columns: list[str] | None = None) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows, columns=columns)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"image {str(path)!r} cannot be read ({error.strerror})") from error
