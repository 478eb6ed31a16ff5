"""What the API takes and answers: the contract that the page and `alike.connect` rely on.

Every address begins with `/api/v1`. An image is named by its row, or by the SHA-256 of its bytes
(64 hexadecimal digits), which every answer gives as `image`. Pictures are addressed by that hash
alone: what lies under such an address never changes, whichever store is served there.

`features` (key of an extraction) and `measure` may be given to every question about features;
without them those that the server was started with answer.
"""

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_NEIGHBOURS = 200
MAX_QUERIES = 256
MAX_TAGGED = 10_000
ROW = r"(0|[1-9][0-9]{0,17})"
HASH = r"[0-9a-f]{64}"

Relation = Literal["any", "same", "other"]
Method = Literal[
    "cam", "gradcam", "gradcam_raw", "sa", "grad_x_input", "lrp", "lrp_gamma", "lrp_epsilon",
    "deep_taylor",
]  # fmt: skip
"""Explainers: the rows of `EXPLAINERS`, which loads torch."""
PairMethod = Literal[
    "likeness_lrp", "likeness_lrp_gamma", "likeness_lrp_epsilon", "likeness_gradient",
    "likeness_path",
]  # fmt: skip
"""Explainers of pairs: the rows of `PAIR_EXPLAINERS`, which loads torch."""
Split = Literal["held_out", "validation", "train", "all"]


class Side(IntEnum):
    """Sides of thumbnails, in pixels."""

    SMALL = 96
    MEDIUM = 192
    LARGE = 384
    LARGEST = 768


IS_HASH, IS_NAME = f"^{HASH}$", f"^({ROW}|{HASH})$"
IS_TAG = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
IN_WORDS = {
    IS_HASH: "the SHA-256 of an image is expected, 64 digits of 0-9 and a-f",
    IS_NAME: "the row of an image, or the SHA-256 of its bytes, is expected",
    IS_TAG: "a tag of 1 to 64 letters, digits and _ . : - is expected, a letter or digit first",
}
"""What to say of a text that does not match a pattern."""

Hash = Annotated[str, Field(pattern=IS_HASH, description="SHA-256 of an image's bytes.")]
Name = Annotated[
    str,
    Field(pattern=IS_NAME, description="Row of an image, or SHA-256 of its bytes."),
]
TagName = Annotated[
    str,
    Field(pattern=IS_TAG, description="Name of a tag."),
]
Row = Annotated[int, Field(ge=0, lt=2**63)]
Number = float | None
"""A number; null for NaN and infinity, as `--json` prints them."""


Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
"""(x, y)."""


class Question(BaseModel):
    """A body: of JSON, `true` is no number, and `"no"` is no truth value."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Model(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(extra="forbid")


class Error(Model):
    """The body of every answer with a status from 400 on.

    Attributes:
        error: one line: what was given, what is expected, what to do next.
    """

    error: str


class Image(Model):
    """An image.

    Attributes:
        image: SHA-256 of its bytes.
        row: of the store; -1 if it is not stored.
        path: as the set lists it; empty if it is not stored.
        label: class.
        subset: part of the set, as its source names it.
        split: `train`, `validation` or `held_out`; None if it is not stored.
    """

    image: str
    row: int
    path: str
    label: str | None
    subset: str | None
    split: str | None


class Sample(Model):
    """Stored images drawn at random.

    Attributes:
        images: that were drawn.
        n_images: of the class, or of all, among which they were drawn.
        notes: says so if there are fewer than were asked for.
    """

    images: list[Image]
    n_images: int
    notes: list[str]


class Tags(Model):
    """Images with tags.

    Attributes:
        counts: tag to number of images.
        images: SHA-256 of an image to its tags, sorted.
    """

    counts: dict[str, int]
    images: dict[str, list[str]]


class TagChange(Question):
    """Images that get a tag, or lose it.

    Attributes:
        images: rows or hashes of stored images.
        present: whether they have the tag afterwards.
    """

    images: list[Name] = Field(min_length=1, max_length=MAX_TAGGED)
    present: bool = True


class Extraction(Model):
    """One extraction of the store.

    Attributes:
        key: its name in `features`.
        network: name of the network.
        weights: first eight digits of the hash of the weights.
        weights_name: where they came from, in short.
        title: network, arguments and weights in words, as the report has them; each once a store.
        arrays: names of the stored arrays.
        indexes: measures with an index: those that `neighbours` takes. All else needs none.
        analysed: whether `scores`, `classes`, `class-pairs`, `histograms`, `examples` answer.
        measures: by which it was analysed.
        maps: measures of which there is a map of the images that are there now.
        needs: what has to be done before `neighbours` answers by any measure; empty if nothing.
        map_needs: the same of `map`.
    """

    key: str
    network: str
    weights: str
    weights_name: str
    title: str
    arrays: list[str]
    indexes: list[str]
    analysed: bool
    measures: list[str]
    maps: list[str]
    needs: str
    map_needs: str


class StoreFacts(Model):
    """A store of the server.

    Attributes:
        name: of its paths, `/api/v1/stores/NAME/…`.
        network: of the extraction that answers.
        weights: first eight digits of the hash of its weights.
        images: images with features.
        classes: number of classes.
    """

    name: str
    network: str
    weights: str
    images: int
    classes: int


class IndexFacts(Model):
    """The index that answers.

    Attributes:
        kind: row of the table of index kinds.
        rows: images that can be answers.
        missing: images with features that the index lacks: they are never an answer.
    """

    kind: str
    rows: int
    missing: int


class Colours(Model):
    """Two colours each, (weak, strong), RGB from 0 to 255, of evidence for and against."""

    model_config = ConfigDict(extra="forbid")
    for_: list[list[float]] = Field(alias="for")
    against: list[list[float]]


class SetFacts(Model):
    """What is served.

    Attributes:
        version: of Alike.
        key: extraction.
        network: its name.
        weights: first eight digits of the hash of the weights.
        weights_name: where they came from, in short.
        title: network, arguments and weights in words, as the report has them; each once a store.
        transform: names the preprocessing in the address of what the network sees.
        measure: of the neighbours.
        measure_form: `cosine`, `euclidean` or `inner`.
        about: the measure in words.
        images: images with features.
        classes: label to number of images; empty if the set has no labels.
        unlabelled: images without a label.
        index: that answers; None without one.
        needs: what has to be done before `neighbours` answers; empty if nothing.
        analysis_needs: the same of `scores`, `report`, `classes` and what else an analysis has.
        map_needs: the same of `map`.
        measure_needs: what has to be done before an analysis that is there has this measure too.
        compare: the command that compares all networks of the store; empty if there is but one.
        maps: whether feature maps are stored, so that `alike` needs no network.
        colours: of heat maps.
        extractions: of the store.
        notes: what a reader must know: images that are missing, an index that is gone, an analysis
            of other images than there are.
    """

    version: str
    key: str
    network: str
    weights: str
    weights_name: str
    title: str
    transform: str
    measure: str
    measure_form: str
    about: str
    images: int
    classes: dict[str, int]
    unlabelled: int
    index: IndexFacts | None
    needs: str
    analysis_needs: str
    map_needs: str
    measure_needs: str
    compare: str
    maps: bool
    colours: Colours
    extractions: list[Extraction]
    notes: list[str]


class Neighbour(Model):
    """One line of `alike neighbours --json`, and what the page shows with it.

    Attributes:
        number: of the query, from 0.
        query: path of the query, or `uploaded image`.
        query_row: its row, -1 if it is not stored.
        rank: from 1.
        row: of the neighbour.
        distance: of the measure.
        path: of the neighbour.
        label: of the neighbour.
        image: SHA-256 of the neighbour's bytes.
        split: of the neighbour.
    """

    number: int
    query: str
    query_row: int
    rank: int
    row: int
    distance: float
    path: str
    label: str | None
    image: str
    split: str


class Neighbours(Model):
    """The nearest stored images of one query.

    Attributes:
        query: the image.
        neighbours: nearest first.
        measure: of the distances.
        exact: whether the answer is certainly the true one.
        missing: images with features that the index lacks, so that none of them can be here.
        notes: says so if there are fewer than were asked for, and if the extraction that was named
            has no index of the server's measure.
    """

    query: Image
    neighbours: list[Neighbour]
    measure: str
    exact: bool
    missing: int
    notes: list[str]


def _no_text(value: Any) -> Any:
    """A number of JSON, which writes 3 as 3.0 too; strict numbers would refuse that."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


class NeighbourQuestion(Question):
    """Many queries at once.

    Attributes:
        images: rows or hashes.
        k: neighbours of each.
        relation: `same`: only images of the query's class; `other`: of other classes.
        labels: only these classes; empty: all.
        features: key of an extraction.
        measure: of the index.
    """

    images: list[Name] = Field(min_length=1, max_length=MAX_QUERIES)
    k: Annotated[int, BeforeValidator(_no_text)] = Field(
        default=12, ge=1, le=MAX_NEIGHBOURS, strict=False
    )
    relation: Relation = "any"
    labels: list[str] = Field(default=[], max_length=1000)
    features: str | None = None
    measure: str | None = None


class ManyNeighbours(Model):
    """Answers in the order of the queries."""

    answers: list[Neighbours]


class Alike(Model):
    """Where two images are alike: what a measure says of them, split over positions.

    Attributes:
        first: an image.
        second: another.
        distance: of the two, by the measure of the index.
        measure: that the maps split: that of the index, or `gap_cosine` if it is no sum over
            positions.
        measure_form: of it, `cosine` or `euclidean`.
        value: its cosine; of a Euclidean measure the inner product of the two vectors.
        apart: 1 - cosine; of a Euclidean measure the squared distance.
        likeness: a map (h, w) on each image; each sums to `value`.
        difference: a map on each; both together sum to `apart`.
        pairs: (P, Q), what every pair of positions adds to `value`; None if there are too many.
        in_measure: whether `measure` is that of the index. If not, the neighbours are ordered by
            something else than what the maps split.
        notes: says so, and if pairs are left out.
    """

    first: Image
    second: Image
    distance: float
    measure: str
    measure_form: Literal["cosine", "euclidean"]
    value: float
    apart: float
    likeness: list[list[list[float]]]
    difference: list[list[list[float]]]
    pairs: list[list[float]] | None
    in_measure: bool
    notes: list[str]


class PixelLikeness(Model):
    """Which pixels make two images alike, by the measure of the index.

    Attributes:
        first: an image.
        second: another.
        method: key of `PAIR_EXPLAINERS`.
        measure: whose similarity is explained.
        value: the similarity: cosine, inner product, or minus the distance; null if the method does
            not fit.
        maps: a map (h, w) on each image; none if the method does not fit.
        conserved: sum of each map over `value`; 1 if biases take no share.
        left_out: why the method does not fit the network or the measure; empty if it does.
        notes: says so if a map has fewer cells here than the image.
    """

    first: Image
    second: Image
    method: PairMethod
    measure: str
    value: Number
    maps: list[list[list[float]]]
    conserved: list[Number]
    left_out: str
    notes: list[str]


class ExplanationLine(Model):
    """One line of `alike explain --json`: an image and a method.

    Attributes:
        image: path of the image, its row, or `uploaded image`.
        method: key of `EXPLAINERS`.
        target: class that is explained.
        score: its logit.
        probability: its probability.
        sum: of the map.
        conserved: whether the method's maps sum to the score; None if it makes no such claim.
        peak_y: place of the largest value, from 0 (top) to 1; None for a map of zeros.
        peak_x: from 0 (left) to 1.
    """

    image: str
    method: str
    target: str
    score: Number
    probability: Number
    sum: Number
    conserved: Number
    peak_y: Number
    peak_x: Number


class ExplainedImages(Model):
    """`images` of `alike explain --json`.

    Attributes:
        maps: one line a method.
        cosine: of the pooled maps of two images; None for one.
        left_out: methods that do not fit the network, and maps of zeros: one line each.
        files: pictures that were written; a server writes none.
    """

    maps: list[ExplanationLine]
    cosine: Number
    left_out: list[str]
    files: list[str]


class Explanations(Model):
    """What speaks for a class in an image: the document of `alike explain --json`.

    Attributes:
        images: what is said of the image.
        arrays: method to its map (h, w); the command names the file that it wrote them to.
        notes: says so if a map has fewer cells here than the image.
    """

    images: ExplainedImages
    arrays: dict[str, list[list[float]]]
    notes: list[str]


class Analysis(Model):
    """The document of `alike analyse --json`.

    Attributes:
        key: extraction.
        n_images: evaluated.
        n_images_before_sampling: of the split.
        classes: their names.
        settings: everything that the numbers depend on.
        scores: measure, score, value, low, high and more: columns in docs/analysis.md.
        per_class: scores of each class.
        twins: near copies among the images.
        bayes: bounds on the Bayes error.
        suspects: suspected labels and outliers.
        human: agreement with people, if there is any.
        layers: scores of every stored layer, if there are any.
        sufficiency: what more images would change.
    """

    key: str
    n_images: int
    n_images_before_sampling: int
    classes: list[str]
    settings: dict[str, Any]
    scores: list[dict[str, Any]]
    per_class: list[dict[str, Any]] = []
    twins: list[dict[str, Any]] = []
    bayes: list[dict[str, Any]] = []
    suspects: list[dict[str, Any]] = []
    human: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    sufficiency: list[dict[str, Any]] = []


class Rows(Model):
    """Rows of a table of the analysis; columns in docs/analysis.md.

    Attributes:
        key: extraction.
        measure: that the rows are of.
        measures: that were analysed.
        rows: of the table.
        n_rows: of the table, of which at most `limit` are in `rows`.
        offset: rows of the table before those.
        notes: says so if the table ends before `offset`, if the analysis is of other images than
            there are, and if of pairs of classes only the nearest are in the table.
    """

    key: str
    measure: str
    measures: list[str]
    rows: list[dict[str, Any]]
    n_rows: int
    offset: int
    notes: list[str]


class Grades(Model):
    """What `alike explain --grade` has found: does the network follow its explanations?

    Attributes:
        key: extraction.
        images: one row an explainer; columns in docs/explanations.md. Empty before the first grade.
        pairs: one row an explainer of likeness and a kind of pair.
        pair_measure: whose similarity `pairs` follows; empty if there are none.
        outdated: those of `images` and `pairs` that are older than the features.
        command: measures the grades, or measures them again.
    """

    key: str
    images: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    pair_measure: str
    outdated: list[str] = []
    command: str


class Map(Model):
    """The stored map; `settings` holds what `alike map --json` has beside `key` and `images`.

    Attributes:
        key: extraction.
        images: points.
        settings: everything that the map depends on.
        row: of each point.
        image: SHA-256 of each point's image.
        label: class of each point.
        subset: part of the set of each point.
        split: side of each point.
        path: of each point's image.
        purity: share of each image's neighbours that have its class; null if it is not known, and
            none at all without an analysis.
        prediction: class that the network takes each image for; `no prediction` if its logits are
            lost; null if it was not asked for, or without stored logits.
        pca: (x, y) of each point.
        tsne: (x, y) of each point.
        sampled: whether `row` is a random part of a larger map.
    """

    key: str
    images: int
    settings: dict[str, Any]
    row: list[int]
    image: list[str]
    label: list[str | None]
    subset: list[str | None]
    split: list[str]
    path: list[str]
    purity: list[Number] | None
    prediction: list[str] | None
    pca: list[Point]
    tsne: list[Point]
    sampled: bool


class Health(Model):
    """Whether the server answers.

    Attributes:
        status: always `ok`: a server that cannot answer gives no such body.
        version: of Alike.
    """

    status: Literal["ok"]
    version: str
