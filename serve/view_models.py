"""What answers the questions of the page's views; the rest of the contract is in `models`."""

from typing import Any, Literal

from alike.serve.models import Image, Model, Number

SectionName = Literal[
    "top", "since", "scores", "distances", "networks", "over_time", "measures", "layers", "data",
    "people", "explanations",
]  # fmt: skip


class ScoreWords(Model):
    """A score in the words of the report.

    Attributes:
        label: its name.
        says: what it says, in a sentence.
        form: `share` is printed in per cent, `plain` to three decimals, `distance` to four digits.
    """

    label: str
    says: str
    form: Literal["share", "plain", "distance"]


class ScoreSections(Model):
    """What the report says of scores.

    Attributes:
        key: extraction.
        measure: whose scores the sections are about.
        sections: name to HTML: `top`, `since`, `scores`, `distances`, `networks`, `over_time`,
            `measures`, `layers`, `data`, `people`, `explanations`; those that have not been
            computed are missing.
        words: name of a score to its words.
    """

    key: str
    measure: str
    sections: dict[str, str]
    words: dict[str, ScoreWords]


class Figure(Model):
    """A figure for plotly.

    Attributes:
        data: traces.
        layout: of the axes.
    """

    data: list[dict[str, Any]]
    layout: dict[str, Any]


class ClassMatrix(Model):
    """Mean distances between classes.

    Attributes:
        key: extraction.
        measure: that the distances are of.
        order: classes, similar ones beside each other; null of more than 2,048, which have no
            matrix.
        nearest: the nearest pairs of classes, at most 12: class_a, class_b, between, within, ratio.
        figure: the matrix, or null.
        mean: the distances as rows, in that order, if they are asked for and there is a matrix;
            null of one that is not known.
        notes: says so if there is no matrix.
    """

    key: str
    measure: str
    order: list[str] | None
    nearest: list[dict[str, Any]]
    figure: Figure | None
    mean: list[list[float | None]] | None
    notes: list[str]


class ImagePair(Model):
    """Two images and their distance."""

    first: Image
    second: Image
    distance: float


class ClassPair(Model):
    """Two classes, or one, image by image.

    Attributes:
        measure: of the distances.
        split: side of the images, that of the analysis.
        images: of each class that were compared.
        of: images of each class on that side.
        mean: distance of the pairs between the two.
        nearest: at most 8 pairs between the two, nearest first; each image at most once.
        farthest: the same from the other end.
        figure: histogram of the pairs within either class, and of those between the two.
    """

    measure: str
    split: str
    images: list[int]
    of: list[int]
    mean: float
    nearest: list[ImagePair]
    farthest: list[ImagePair]
    figure: Figure


class Typical(Model):
    """Where distances lie among those of all evaluated pairs.

    Attributes:
        measure: of the distances.
        distances: as they were asked.
        same_farther: share of same-class pairs that are farther apart, classes weighing the same.
        different_farther: the same of pairs of different classes.
    """

    measure: str
    distances: list[float]
    same_farther: list[float]
    different_farther: list[float]


class Prediction(Model):
    """What the network takes an image for.

    Attributes:
        image: that was asked.
        classes: the likeliest five of the network, the likeliest first.
        shares: softmax of each.
        n_classes: of the network.
    """

    image: Image
    classes: list[str]
    shares: list[float]
    n_classes: int


ListKind = Literal["labels", "outliers", "twins", "bad", "tags"]


class ListedLine(Model):
    """One line of a list.

    Attributes:
        images: the image, or two twins. `image` is empty if the bytes were never read.
        suggested: class that the neighbours say.
        score: margin of a label, z-score of an outlier, correlation of twins.
        why: in words; of `tags` the tags, separated by commas.
        bad: whether there is no picture: the image could not be read, or the set has it no more.
    """

    images: list[Image]
    suggested: str | None
    score: Number
    why: str
    bad: bool


class ImageList(Model):
    """Images that somebody should look at.

    Attributes:
        key: extraction.
        kind: of the list.
        lines: of the list.
        n_lines: of the whole list, of which at most `limit` are in `lines`.
        offset: lines of the whole list before those.
        notes: says so if the list ends before `offset`, or does not follow the measure asked for.
        needs: what has to be done before the list is complete; empty if nothing.
        measure: by whose distances the images are listed; empty if no distance plays a part.
    """

    key: str
    kind: ListKind
    lines: list[ListedLine]
    n_lines: int
    offset: int
    notes: list[str]
    needs: str
    measure: str
