"""Explanations of a store as tables, pictures and arrays, for the command line and the API."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.explain.grade import GradeCost
    from alike.extract.embedding import MapBlocks
    from alike.extract.networks import Network
    from alike.extract.panels import Pixels
    from alike.extract.progress import Progress
    from alike.extract.store import Features


@dataclass(frozen=True)
class Part:
    """One question that was asked of images, and the answer.

    Attributes:
        table: one row an image and method, or a class.
        pictures: name to (H, W, 3) uint8.
        arrays: name to map, as ``alike explain --arrays`` writes them.
        cosine: of the pooled maps of two images, where they were compared.
        notes: what was left out, and why.
        target_note: says if the class was taken by a name that is also the index of another class.
    """

    table: "pd.DataFrame"
    pictures: "Mapping[str, Pixels]" = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    cosine: float | None = None
    notes: Sequence[str] = ()
    target_note: str = ""


OF_MANY = ("all", "continuity", "grade")
OF_STORED = ("like", "classes", "confused", *OF_MANY)
FITS: Mapping[str, tuple[str, ...]] = {
    "methods": ("images", *OF_MANY),
    "target": ("class",),
    "measure": ("pixels", "pair_grade"),
    "pairs": ("images",),
    "limit": OF_MANY,
    "cluster": OF_MANY,
    "where": OF_STORED,
    "split": OF_STORED[1:],
    "to": ("images", "like", "classes", "confused"),
    "arrays": ("images", "like", "classes"),
}
"""Options to the questions that read them."""
SPELT = {
    "images": "given images",
    "class": "images given to explainers of a class (`alike list explainers`)",
    "pixels": "two images given to explainers in pixels (`alike list pair-explainers`)",
    "pair_grade": "grades of likeness",
}
"""Questions that are no option of their own, in words."""


def questions_of(
    n_images: int, methods: Sequence[str] | None, like: str | None, **flags: object
) -> set[str]:
    """What is asked, by the names of `FITS`.

    Args:
        n_images: given images.
        methods: names of explainers; None: the usual ones.
        like: the class that the images are compared with, or None.
        flags: whether something else is asked.

    Raises:
        BadInput: methods without a name.
    """
    from alike.analysis.explain import LIKENESS, METHODS, OF_TWO, PAIR_EXPLAINERS
    from alike.extract.errors import BadInput

    if methods is not None and not methods:
        raise BadInput("methods: no name is given, expected one of `alike list explainers` or more")
    asked = {name for name, wanted in flags.items() if wanted}
    of_two = {LIKENESS, *PAIR_EXPLAINERS}
    if n_images and like is not None:
        asked.add("like")
    if n_images and (like is None or methods):
        names = set(methods or (OF_TWO if n_images == 2 else METHODS))
        asked.add("images")
        asked |= {"class"} if names - of_two else set()
        asked |= {"pixels"} if n_images > 1 and names & {*PAIR_EXPLAINERS} else set()
    if "grade" in asked and (not methods or of_two & {*methods}):
        asked.add("pair_grade")
    return asked


def check_options(
    options: Mapping[str, object], asked: Collection[str], spell: Callable[[str], str]
) -> None:
    """Refuse an option that nothing asked reads.

    Args:
        options: name to value; None and False are not given.
        asked: from `questions_of`.
        spell: how the caller's user writes an option, or a question that is one.

    Raises:
        BadInput: names the option and what it is for.

    Example:
        >>> check_options({"limit": 3}, {"all"}, str)
        >>> check_options({"pairs": True}, {"all"}, str)
        Traceback (most recent call last):
        ...
        alike.extract.errors.BadInput: pairs does not apply here: it is for given images
    """
    from alike.extract.errors import BadInput

    def words(names: Iterable[str]) -> str:
        *first, last = (SPELT.get(name) or spell(name) for name in names)
        return f"{', '.join(first)} and {last}" if first else last

    for name, value in options.items():
        if value is None or value is False or {*FITS[name]} & {*asked}:
            continue
        raise BadInput(f"{spell(name)} does not apply here: it is for {words(FITS[name])}")


def given_images(
    features: "Features",
    images: Sequence[str | int],
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    measure: str | None = None,
    pairs: bool = False,
) -> Part:
    """What speaks for a class in each image, or where two images are alike.

    Args:
        features: whose network is used.
        images: paths of image files, or numbers of stored rows.
        methods: names of `EXPLAINERS` and `PAIR_EXPLAINERS`, and `likeness`; None: likeness on
            the last map and in pixels for two images, else all usual ones.
        target: class name or index; None: the predicted one.
        measure: whose similarity is explained in pixels; None: the cosine of pooled maps.
        pairs: also say what on the first image is like each position of the second.
    """
    from alike.analysis.explain import METHODS, OF_TWO, USUAL, explain_images

    measure = _known(measure)
    explained = explain_images(
        images,
        features,
        methods=methods or (OF_TWO if len(images) == 2 else METHODS),
        target=target,
        measure=measure or USUAL,
        pairs=pairs,
    )
    cosine = None if explained.alike is None else explained.alike.likeness.value
    return Part(
        explained.table, explained.pictures, explained.arrays, cosine, explained.notes,
        explained.target_note,
    )  # fmt: skip


def _known(measure: str | None) -> str | None:
    """A measure that there is, also where no pair of images asks for it.

    Raises:
        BadInput: there is none of this name.
    """
    from alike.extract.measures import measure_named

    return None if measure is None else measure_named(measure).name


def like_class(features: "Features", images: Sequence[str | int], label: str) -> Part:
    """What makes given images like a class.

    Args:
        features: whose network is used, and whose stored images make the classes.
        images: paths of image files, or numbers of stored rows.
        label: the class.
    """
    import pandas as pd

    from alike.analysis.explain import images_to_class, network_for, to_class_panel
    from alike.analysis.explain.overlay import pictured_note
    from alike.extract.frames import read_images

    names = [str(image) for image in images]
    sources = read_images(list(images), features.store)
    notes: list[str] = []
    frames, explained = images_to_class(
        sources, network_for(features), features, label, tell=notes.append
    )
    both = zip(names, explained.to_class, explained.to_others, strict=True)
    empty = [name for name, *maps in both if not any(one.any() for one in maps)]
    if empty:
        notes.append(f"likeness is zero everywhere, which is no explanation: {', '.join(empty)}")
    notes += pictured_note(len(names), "images")
    picture = to_class_panel(frames, [Path(name).name for name in names], explained)
    sides = {"to_class": explained.to_class, "to_others": explained.to_others}
    sums = {name: maps.sum(axis=(1, 2)) for name, maps in sides.items()}
    arrays = {
        f"{number}/{name}": maps[number]
        for number in range(len(names))
        for name, maps in sides.items()
    }
    table = pd.DataFrame({"image": names, **sums})
    return Part(table, {f"like-{label}": picture}, arrays, notes=notes)


def every_class(
    features: "Features", split: str | None, keep: "Callable[[str, Pixels], None]"
) -> Part:
    """What the images of each class have in common.

    Args:
        features: of a store with `last_conv`.
        split: `train`, `held_out` or None for both.
        keep: takes the name and the picture of a class as it is made: there may be more classes
            than pictures fit into memory.
    """
    import pandas as pd

    from alike.analysis.explain import class_likeness, class_panel, classes_left_out

    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    arrays = {}
    for one in class_likeness(features, split=split, tell=notes.append):
        alike, others = (maps.sum(axis=(1, 2)) for maps in (one.to_class, one.to_others))
        rows.append(
            {"class": one.label, "n": len(one.rows), "to_class": alike.mean(),
             "to_others": others.mean(), "least_typical_row": int(one.rows[alike.argmin()])}
        )  # fmt: skip
        arrays[f"{one.label}/to_class"] = one.mean_map
        arrays[f"{one.label}/telling"] = one.telling_map
        keep(f"class-{one.label}", class_panel(features, one, tell=notes.append))
    notes += classes_left_out(features, split, [row["class"] for row in rows])
    return Part(pd.DataFrame(rows), arrays=arrays, notes=notes)


def joined_arrays(parts: "Iterable[Mapping[str, Any]]") -> dict[str, Any]:
    """The maps of several questions by their names.

    Raises:
        BadInput: a class that is named as an image is numbered.
    """
    from alike.extract.errors import BadInput

    arrays: dict[str, Any] = {}
    for part in parts:
        both = sorted(arrays.keys() & part.keys())
        if both:
            label = both[0].split("/")[0]
            raise BadInput(
                f"maps {both[0]!r} would be of an image and of the class {label!r}: ask for images "
                "and for classes one after the other"
            )
        arrays |= part
    return arrays


def graded(
    features: "Features",
    methods: Sequence[str] | None,
    *,
    measure: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    network: "Network | None" = None,
    map_methods: "MapBlocks | None" = None,
    progress: "Progress | None" = None,
    tell: Callable[[str], object] = lambda _: None,
    announce: "Callable[[dict[str, GradeCost]], object] | None" = None,
) -> "dict[str, pd.DataFrame]":
    """Grades of explainers of a class and of a likeness: `grade`, `pair_grade`.

    Args:
        features: whose network is used.
        methods: of images, of pairs or both; only what is named is graded. None: all of both.
        measure: whose similarity is explained; None: the cosine of pooled maps.
        limit: images, and pairs of each kind; None: 32.
        split: `train`, `held_out` or None for both.
        network: the one that made the features; None: it is loaded.
        map_methods: grades methods one by one, on workers; None: here.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.
        announce: gets the cost of each table before any is computed.
    """
    from alike.analysis.explain import LIKENESS, PAIR_EXPLAINERS, USUAL, DoesNotFit
    from alike.analysis.explain.grade import (
        METHODS,
        PAIR_METHODS,
        grade_costs,
        grade_of,
        pair_grade_of,
    )
    from alike.analysis.explain.inputs import names_no_class
    from alike.extract.errors import BadInput
    from alike.extract.progress import silent

    measure = _known(measure)
    if limit == 1:
        raise BadInput("grades are means with intervals: 1 image, expected a limit of 2 or more")
    of_two = {LIKENESS, *PAIR_EXPLAINERS}
    single = [name for name in methods or METHODS if name not in of_two]
    paired = [name for name in methods or PAIR_METHODS if name in of_two]
    if single and names_no_class(features):
        reason = "the network has no classifier, so that its outputs are no classes"
        if methods and not paired:
            raise BadInput(f"{', '.join(single)}: {reason}; grade explainers of likeness")
        tell(f"explainers of a class: {reason}")
        single = []
    shared: dict[str, Any] = {
        "split": split, "map_methods": map_methods, "progress": progress or silent, "tell": tell,
    }  # fmt: skip
    if announce is not None:
        costs = grade_costs(
            features, single, paired, network,
            measure=measure or USUAL, n_images=limit or 32, split=split,
        )  # fmt: skip
        announce(costs)
    tables = {}
    if single:
        try:
            tables["grade"] = grade_of(
                features, network, methods=single, n_images=limit or 32, **shared
            )
        except DoesNotFit as error:
            if not paired:
                raise
            tell(f"explainers of a class: {error}")
    if paired:
        try:
            tables["pair_grade"] = pair_grade_of(
                features, network, methods=paired, measure=measure or USUAL, n_pairs=limit or 32,
                **shared,
            )  # fmt: skip
        except BadInput as error:
            if methods or not tables:
                raise
            tell(f"likeness: {error}")
    return tables


def cost_line(costs: "Mapping[str, GradeCost]") -> str:
    """What grading takes, as `graded` announces it, in one sentence.

    Example:
        >>> from alike.analysis.explain.grade import GradeCost
        >>> print(cost_line({"grade": GradeCost(5, 9, 32, 10816, 84.2)}))
        grading 5 of 9 explainers of a class on 32 images: 10,816 passes and the maps, about 80 s
    """
    of = {"grade": "of a class on {} images", "pair_grade": "of likeness on {} pairs"}
    from alike.analysis.outlook import duration

    parts = [
        f"{cost.explainers} of {cost.asked} explainers {of[name].format(cost.images)}"
        for name, cost in costs.items()
    ]
    passes = sum(cost.passes for cost in costs.values())
    seconds = sum(cost.seconds for cost in costs.values())
    return (
        f"grading {' and '.join(parts)}: {passes:,} passes and the maps, about {duration(seconds)}"
    )


def by_reason(lines: "Iterable[str]") -> list[str]:
    """Lines `name: reason` with the names that share a reason in one.

    Example:
        >>> by_reason(["cam: no head", "lrp: no rule", "lrp_gamma: no rule", "lrp: no rule"])
        ['cam: no head', 'lrp, lrp_gamma: no rule']
    """
    names: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        name, _, reason = line.partition(": ")
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(some)}: {reason}" for reason, some in names.items()]


GRADE_HEADS = {
    "deletion": "deletion",
    "deletion_to_energy": "less\nenergy",
    "deletion_to_random": "less\nrandom",
    "deletion_to_another": "less\nanother",
    "insertion": "insertion",
    "insertion_to_energy": "over\nenergy",
    "insertion_to_random": "over\nrandom",
    "agreement": "agree-\nment",
    "randomised": "random\nweights",
}
"""Numbers of a grade to the heads of narrow columns."""


def grades_shown(table: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
    """Grades without their intervals, of at most 100 letters a line: for a terminal.

    Args:
        table: as `graded` gives it.

    Returns:
        What is graded, in words, to a table of texts; a star marks a difference or a correlation
        whose interval does not contain zero.
    """
    import pandas as pd

    def cell(row: "pd.Series[Any]", number: str) -> str:
        value, low, high = (row[f"{number}{end}"] for end in ("", "_low", "_high"))
        text = "" if pd.isna(value) else f"{value:.3f}".replace("0.", ".", 1)
        level = number in ("deletion", "insertion")
        return text + ("*" if not level and (low > 0 or high < 0) else "")

    numbers = [name for name in GRADE_HEADS if name in table]
    shown = {}
    for kind, part in table.groupby("pairs", sort=False) if "pairs" in table else [("", table)]:
        columns: dict[str, Any] = {"explainer": part["explainer"].tolist()}
        for number in numbers:
            columns[GRADE_HEADS[number]] = [cell(row, number) for _, row in part.iterrows()]
        of, cells = part["n_images"].iloc[0], part["cells"].iloc[0]
        fewer = part[part["n_counted"] < of]
        ranked = [f"{row.n_counted} of {row.explainer}" for row in fewer.itertuples()]
        sample = f"{of} pairs, {cells} cells" if kind else f"{of} images of {cells} cells"
        title = f", {sample}" + "".join(f", {one}" for one in ranked)
        shown[f", {kind}{title}" if kind else title] = pd.DataFrame(columns)
    return shown
