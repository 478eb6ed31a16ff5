"""A server of `alike serve`, asked from Python: each method is one question of its API."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alike.arguments import Names, checked, checked_with, each_name, each_query
from alike.connection import Connection
from alike.extract.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

Query = str | Path | bytes | int
"""A row, the SHA-256 of an image that the server knows, an image file, or its bytes."""
HASH_LENGTH = 64
HEX = frozenset("0123456789abcdef")
SCORE_FACTS = ("key", "n_images", "n_images_before_sampling", "classes", "settings", "twins")
"""Of the document of an analysis, in the `attrs` of its scores."""
MOST_ROWS = 100_000
"""Most rows of an answer."""
ANALYSED = ("scores", "per_class", "twins", "bayes", "suspects", "human", "layers", "sufficiency")
"""Tables of the document of an analysis."""


class Client:
    """Asks one server.

    A table has the columns that the same command prints by `--json`.
    """

    def __init__(
        self, address: str, *, token: str = "", timeout: float = 60.0, store: str = ""
    ) -> None:
        """Connect; see `alike.connect`.

        Raises:
            BadInput: nobody answers there, or something else does.
        """
        self._server = Connection(address, token=token, timeout=timeout, store=store)

    @property
    def address(self) -> str:
        """Of the server, without the token."""
        return self._server.address

    @property
    def version(self) -> str:
        """Of Alike, on the server."""
        return self._server.version

    def __repr__(self) -> str:
        return f"<server {self.address}, alike {self.version}>"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @checked
    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    # The server

    @checked
    def health(self) -> dict[str, Any]:
        """Whether the server answers, and its version."""
        answer: dict[str, Any] = self._server.ask("GET", "health")
        return answer

    @checked
    def metrics(self) -> "pd.DataFrame":
        """What the server has done: name, labels, value of every count that Prometheus reads."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self._server.fetch("metrics").decode()
        lines = [
            (one.name, dict(one.labels), one.value)
            for family in text_string_to_metric_families(text)
            for one in family.samples
        ]
        return _table(lines, ["name", "labels", "value"])

    @checked
    def stores(self) -> "pd.DataFrame":
        """The stores of the server: name, network, weights, images, classes (their number)."""
        return _table(self._server.ask("GET", "stores"))

    @checked
    def set(self, *, features: str | None = None, measure: str | None = None) -> dict[str, Any]:
        """What is served: the set, the network, the index, the extractions of the store.

        Without an index `index` is None, and `needs` says what builds it: all but `neighbours`
        answers.
        """
        asked = {"features": features, "measure": measure}
        facts: dict[str, Any] = self._server.ask("GET", "set", asked=asked)
        return facts

    @checked
    def images(
        self,
        count: int = 24,
        *,
        seed: int = 0,
        label: str | None = None,
        features: str | None = None,
    ) -> "pd.DataFrame":
        """Stored images drawn at random: image (SHA-256), row, path, label, subset, split.

        The `attrs` have `n_images`, among which they were drawn, and `notes`.
        """
        asked: dict[str, Any] = {"count": count, "seed": seed, "label": label, "features": features}
        answer = self._server.ask("GET", "images", asked=asked)
        table = _table(answer["images"], ["image", "row", "path", "label", "subset", "split"])
        table.attrs = {name: answer[name] for name in ("n_images", "notes")}
        return table

    @checked
    def image(self, image: Query, *, features: str | None = None) -> dict[str, Any]:
        """One image: image (SHA-256), row (-1: not stored), path, label, subset, split."""
        answer: dict[str, Any] = self._server.ask(
            "GET", "images", self._name(image), asked={"features": features}
        )
        return answer

    @checked
    def thumbnail(self, image: Query, side: Literal[96, 192, 384, 768] = 192) -> bytes:
        """A WebP of an image, no larger than `side` pixels."""
        return self._server.fetch("images", self._hash(image), "thumbnail", asked={"side": side})

    @checked
    def network_input(self, image: Query, *, features: str | None = None) -> bytes:
        """A PNG of what the network sees of an image, before normalisation."""
        transform = self.set(features=features)["transform"]
        asked = {"transform": transform, "features": features}
        return self._server.fetch("images", self._hash(image), "input", asked=asked)

    @checked
    def upload(self, image: str | Path | bytes) -> str:
        """Bring an image file to the server; the SHA-256 by which it is named from then on."""
        data = image if isinstance(image, bytes) else _read(Path(image))
        return str(self._server.ask("POST", "images", content=data)["image"])

    @checked_with("images")
    def neighbours(
        self,
        images: Query | Iterable[Query],
        k: int = 10,
        *,
        relation: Literal["any", "same", "other"] = "any",
        among: Names = (),
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
            label; and image (SHA-256), split. Its `attrs` have `measure`, and `notes`: what is
            not as it was asked, for example fewer than k neighbours.
        """
        question = {
            "images": [self._name(one) for one in each_query(images)], "k": k, "relation": relation,
            "labels": each_name(among), "features": features, "measure": measure,
        }  # fmt: skip
        answers = self._server.ask("POST", "neighbours", json=question)["answers"]
        columns = [
            "number", "query", "query_row", "rank", "row", "distance", "path", "label", "image",
            "split",
        ]  # fmt: skip
        table = _table([line for one in answers for line in one["neighbours"]], columns)
        table.attrs["measure"] = next((one["measure"] for one in answers), measure)
        table.attrs["notes"] = list(dict.fromkeys(note for one in answers for note in one["notes"]))
        return table

    @checked
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

        answer: dict[str, Any] = self._server.ask(
            "GET", "images", self._name(image), "alike", self._name(other),
            asked={"features": features, "measure": measure},
        )  # fmt: skip
        for name in ("likeness", "difference"):
            answer[name] = [np.array(one) for one in answer[name]]
        answer["pairs"] = None if answer["pairs"] is None else np.array(answer["pairs"])
        return answer

    @checked
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

        answer: dict[str, Any] = self._server.ask(
            "GET", "images", self._name(image), "alike", self._name(other), "pixels",
            asked={"method": method, "features": features, "measure": measure},
        )  # fmt: skip
        answer["maps"] = [np.array(one) for one in answer["maps"]]
        return answer

    @checked
    def explain(
        self,
        image: Query,
        methods: Names = (),
        *,
        target: str | int | None = None,
        features: str | None = None,
    ) -> "tuple[pd.DataFrame, dict[str, Any]]":
        """What in an image speaks for a class: a table of methods, and the map (h, w) of each.

        Methods that do not fit the network are in the table's `attrs`, as `left_out`; `notes` are
        of maps that have fewer cells here than the image.
        """
        import numpy as np

        asked = {"method": each_name(methods), "target": target, "features": features}
        answer = self._server.ask("GET", "images", self._name(image), "explain", asked=asked)
        table = _table(answer["images"]["maps"])
        table.attrs["left_out"] = answer["images"]["left_out"]
        table.attrs["notes"] = answer["notes"]
        return table, {name: np.array(one) for name, one in answer["arrays"].items()}

    @checked
    def scores(self, *, features: str | None = None) -> "pd.DataFrame":
        """The scores of the analysis; its settings, and the twins, are in the table's `attrs`."""
        answer = self._server.ask("GET", "scores", asked={"features": features})
        table = _table(answer.pop("scores"))
        table.attrs = {name: answer[name] for name in SCORE_FACTS}
        return table

    @checked
    def analysis(self, *, features: str | None = None) -> "dict[str, pd.DataFrame]":
        """Every table of the document of `alike analyse --json`, those that were computed.

        scores, per_class, twins, bayes, suspects, human, layers, sufficiency.
        """
        answer = self._server.ask("GET", "scores", asked={"features": features})
        return {name: _table(answer[name]) for name in ANALYSED if answer.get(name)}

    @checked
    def runs(self) -> "pd.DataFrame":
        """The runs of the store, oldest first, as `alike runs ls`.

        Returns:
            run, time, state, images, bad, sameness, accuracy, seconds, says. Its `attrs` have
            `unchanged` (runs that found nothing changed) and `faults`.
        """
        answer = self._server.ask("GET", "runs")
        columns = [
            "run", "time", "state", "images", "bad", "sameness", "accuracy", "seconds", "says"
        ]  # fmt: skip
        table = _table(answer["runs"], columns)
        table.attrs = {name: answer[name] for name in ("unchanged", "faults")}
        return table

    @checked
    def run(self, run: str = "last") -> dict[str, Any]:
        """All that is recorded of a run, as `alike runs show --json`.

        Args:
            run: its id, the beginning or the end of it, or `last`.
        """
        record: dict[str, Any] = self._server.ask("GET", "runs", run)
        return record

    @checked
    def run_difference(self, *runs: str, everything: bool = False) -> "dict[str, pd.DataFrame]":
        """What runs differ in, as `alike runs diff`; the last one is compared with the first.

        Args:
            runs: two to twelve, each named as in `run`.
            everything: also what is the same in all of them.

        Returns:
            settings, versions, network, and each further network by its label: a row a name and a
            column a run. counts: network, count, run, value. scores: network, measure, score, run,
            value, low, high; its `attrs` have `comparable` and `series`: scores that mean something
            else than those of the last run are no difference.
        """
        asked = {"run": list(runs), "everything": everything}
        answer = self._server.ask("GET", "run-difference", asked=asked)
        ids, sides = answer["runs"], {"network": answer["network"], **answer["further"]}
        sides |= {name: answer[name] for name in ("settings", "versions")}
        tables = {name: _sides(part, ids) for name, part in sides.items()}
        counts = [
            (row["network"], row["count"], run, value)
            for row in answer["counts"]
            for run, value in zip(ids, row["values"], strict=True)
        ]
        scores = [
            (row["network"], row["measure"], row["score"], run, *numbers)
            for row in answer["scores"]
            for run, *numbers in zip(ids, row["values"], row["low"], row["high"], strict=True)
        ]
        tables["counts"] = _table(counts, ["network", "count", "run", "value"])
        tables["scores"] = _table(
            scores, ["network", "measure", "score", "run", "value", "low", "high"]
        )
        tables["scores"].attrs = {name: answer[name] for name in ("comparable", "series")}
        return tables

    @checked
    def grades(self, *, features: str | None = None) -> "tuple[pd.DataFrame, pd.DataFrame]":
        """What `alike explain --grade` has stored: of explanations of images, and of pairs.

        The measure whose similarity the second follows is in its `attrs`, as `measure`.
        """
        answer = self._server.ask("GET", "grades", asked={"features": features})
        images, pairs = _table(answer["images"]), _table(answer["pairs"])
        pairs.attrs["measure"] = answer["pair_measure"]
        return images, pairs

    @checked
    def report(
        self,
        sections: Names = (),
        *,
        features: str | None = None,
        measure: str | None = None,
    ) -> dict[str, str]:
        """Sections of the report as HTML, by name; all that there are, or those that are named."""
        asked = {"section": each_name(sections), "features": features, "measure": measure}
        answer = self._server.ask("GET", "report", asked=asked)
        html: dict[str, str] = answer["sections"]
        return html

    @checked
    def typical(
        self,
        distances: Iterable[float],
        *,
        features: str | None = None,
        measure: str | None = None,
    ) -> "pd.DataFrame":
        """Where distances lie among those of all evaluated pairs.

        Returns:
            distance; same_farther, different_farther: shares of the pairs of one class, and of two,
            that are farther apart.
        """
        asked = {"distance": list(distances), "features": features, "measure": measure}
        answer = self._server.ask("GET", "typical", asked=asked)
        columns = {"distance": answer["distances"]}
        columns |= {name: answer[name] for name in ("same_farther", "different_farther")}
        table = _table(columns)
        table.attrs["measure"] = answer["measure"]
        return table

    @checked
    def class_matrix(self, **asked: Any) -> "pd.DataFrame":
        """Mean distances between classes, similar ones beside each other; the diagonal is within.

        Takes features, measure.

        Raises:
            BadInput: more than 2,048 classes, of which `class_pairs` has the nearest.
        """
        answer = self._server.ask("GET", "class-matrix", asked={**asked, "mean": True})
        if answer["mean"] is None:
            raise BadInput(f"{'; '.join(answer['notes'])}: `class_pairs` has them")
        table = _square(answer["mean"], answer["order"])
        table.attrs = {name: answer[name] for name in ("key", "measure")}
        return table

    @checked
    def classes(self, **asked: Any) -> "pd.DataFrame":
        """Scores of each class; takes features, measure, limit, offset."""
        return self._rows("classes", asked)

    @checked
    def class_pairs(self, **asked: Any) -> "pd.DataFrame":
        """Distances of each pair of classes; takes features, measure, limit, offset.

        At most 10,000 rows without a limit, and 100,000 with one, after the first `offset`; `attrs`
        have `n_rows`, of all, and `notes`. `class_matrix` has the means of all pairs. Of more than
        2,048 classes only the nearest of each are there.
        """
        return self._rows("class-pairs", asked)

    @checked
    def histograms(self, **asked: Any) -> "pd.DataFrame":
        """Same and different pairs by distance; takes features, measure, limit, offset."""
        return self._rows("histograms", asked)

    @checked
    def examples(self, **asked: Any) -> "pd.DataFrame":
        """Pairs of images worth a look; takes features, measure, limit, offset."""
        return self._rows("examples", asked)

    @checked
    def map(self, **asked: Any) -> "pd.DataFrame":
        """The stored map: row, image, path, label, subset, split, pca_x, pca_y, tsne_x, tsne_y.

        Takes features, measure, split, limit, predictions. With an analysis there is `purity`: the
        share of each image's neighbours that have its class. With `predictions=True` there is
        `prediction`: what the network takes each image for.
        """
        answer = self._server.ask("GET", "map", asked=asked)
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

    @checked
    def class_pair(self, first: str, second: str, **asked: Any) -> "pd.DataFrame":
        """The nearest and the farthest pairs of images of two classes, or within one.

        Takes features, measure.

        Returns:
            end (`nearest`, `farthest`), row_a, row_b, path_a, path_b, distance.
        """
        asked |= {"first": first, "second": second}
        answer = self._server.ask("GET", "class-pair", asked=asked)
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

    @checked
    def images_to_check(
        self,
        kind: Literal["labels", "outliers", "twins", "bad", "tags"],
        *,
        features: str | None = None,
        measure: str | None = None,
        limit: int = MOST_ROWS,
        offset: int = 0,
    ) -> "pd.DataFrame":
        """Suspected labels, outliers, twins (two lines an entry), bad images, or those with tags.

        Args:
            kind: of the list.
            features: key of an extraction; None: that of the server.
            measure: by which outliers of a set that is not analysed are far; None: that of the
                server.
            limit: most entries; the server gives at most 100,000.
            offset: entries of the whole list that are passed over.

        Returns:
            entry, row, image, path, label, subset, split, suggested, score, why. Its `attrs` have
            `n_lines`, the entries of the whole list; `needs`, what has to be done before the list
            is complete, as for a set that was not analysed (empty if nothing); and `notes`.
        """
        asked: dict[str, Any] = {
            "features": features, "measure": measure, "limit": limit, "offset": offset
        }  # fmt: skip
        answer = self._server.ask("GET", "lists", kind, asked=asked)
        own = ("suggested", "score", "why")
        lines = [
            {"entry": number, **image, **{name: line[name] for name in own}}
            for number, line in enumerate(answer["lines"], offset)
            for image in line["images"]
        ]
        names = ("row", "image", "path", "label", "subset", "split")
        table = _table(lines, ["entry", *names, *own])
        table.attrs = {name: answer[name] for name in ("key", "kind", "n_lines", "needs", "notes")}
        return table

    @checked
    def prediction(self, image: Query, *, features: str | None = None) -> "pd.DataFrame":
        """What the network takes an image for: class, share; the likeliest first."""
        answer = self._server.ask(
            "GET", "images", self._name(image), "prediction", asked={"features": features}
        )
        return _table({"class": answer["classes"], "share": answer["shares"]})

    @checked
    def tags(self) -> "pd.DataFrame":
        """Tags of the stored images: image (SHA-256), tag."""
        return self._tags(self._server.ask("GET", "tags"))

    @checked
    def tag(self, images: Iterable[int | str], tag: str, *, present: bool = True) -> "pd.DataFrame":
        """Give stored images a tag, or take it away; the tags afterwards. Labels stay.

        Args:
            images: rows or SHA-256 of stored images.
            tag: up to 64 of a-z, A-Z, 0-9, _ . : -
            present: whether the images have it afterwards.

        Raises:
            BadInput: something else than a row or a SHA-256.
        """
        change = {"images": [_stored_name(one) for one in images], "present": present}
        return self._tags(self._server.ask("PUT", "tags", tag, json=change))

    def _tags(self, answer: Any) -> "pd.DataFrame":
        pairs = [(image, tag) for image, tags in answer["images"].items() for tag in tags]
        return _table(pairs, ["image", "tag"])

    def _rows(self, path: str, asked: dict[str, Any]) -> "pd.DataFrame":
        answer = self._server.ask("GET", path, asked=asked)
        table = _table(answer.pop("rows"))
        table.attrs = answer
        return table

    def _hash(self, image: Query) -> str:
        """The SHA-256 of an image, by which pictures are addressed."""
        name = self._name(image)
        return name if len(name) == HASH_LENGTH else str(self.image(int(name))["image"])

    def _name(self, image: Query) -> str:
        if isinstance(image, str) and len(image) == HASH_LENGTH and set(image) <= HEX:
            return image
        if isinstance(image, str | Path | bytes):
            return self.upload(image)
        return str(int(image))


def _stored_name(image: int | str) -> str:
    """The name of a stored image, which is not uploaded."""
    name = str(image)
    if (len(name) == HASH_LENGTH and set(name) <= HEX) or (name.isascii() and name.isdecimal()):
        return name
    raise BadInput(f"image {name[:80]!r}: the row or the SHA-256 of a stored image is expected")


def _table(rows: Any, columns: list[str] | None = None) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows, columns=columns)


def _sides(values: dict[str, list[Any]], runs: list[str]) -> "pd.DataFrame":
    """A row a name, a column a run."""
    import pandas as pd

    return pd.DataFrame.from_dict(values, orient="index", columns=pd.Index(runs), dtype=object)


def _square(rows: list[list[float | None]], names: list[str]) -> "pd.DataFrame":
    import pandas as pd

    index, columns = (pd.Index(names, name=name) for name in ("class_a", "class_b"))
    return pd.DataFrame(rows, index, columns, dtype=float)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"image {str(path)!r} cannot be read ({error.strerror})"
        raise BadInput(
            f"{what}: give an image file, its bytes, or a stored row as a number"
        ) from error
