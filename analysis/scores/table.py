"""The scores: what each is called, which end is good, where it comes from."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["up", "down", "neither"]


@dataclass(frozen=True)
class Score:
    """A number that says something about a measure on a set of labelled images.

    Attributes:
        name: as in the table `scores`.
        better: which end is good; `neither`: it describes, and orders nothing.
        span: the values that it can take.
        about: one line for tables and help.

    Examples:
        >>> SCORES["eer"].better, SCORES["eer"].span
        ('down', '0 to 1, 0.5 chance')
    """

    name: str
    better: Better
    span: str
    about: str


_ROWS = (
    Score("sameness", "up", "-1 to 1, 0 chance",
          "2 AUC - 1, every class and every pair of classes weighing the same: the headline"),
    Score("auc", "up", "0 to 1, 0.5 chance",
          "chance that a same pair is nearer than a different; classes weigh the same"),
    Score("sameness_all_pairs", "up", "-1 to 1, 0 chance",
          "the same with every pair weighing the same, so that large classes say most"),
    Score("auc_all_pairs", "up", "0 to 1, 0.5 chance", "likewise, every pair weighing the same"),
    Score("balanced_accuracy", "up", "0 to 1, 0.5 chance",
          "same or different by one threshold, chosen on other images; both kinds count half"),
    Score("eer", "down", "0 to 1, 0.5 chance", "error at the threshold with equal error rates"),
    Score("tar_at_far_1pct", "up", "0 to 1, 0.01 chance",
          "share of same pairs accepted if 1 % of the different ones are"),
    Score("d_prime", "up", "any", "gap of the mean distances in standard deviations"),
    Score("intra_mean", "neither", "distance", "mean distance of pairs of one class"),
    Score("inter_mean", "neither", "distance", "mean distance of pairs of different classes"),
    Score("worst_class_sameness", "up", "-1 to 1, 0 chance", "sameness of the worst class"),
    Score("one_nn", "up", "0 to 1", "share of images whose nearest other has their class"),
    Score("purity_at_10", "up", "0 to 1", "share of the class among the 10 nearest"),
    Score("recall_at_10", "up", "0 to 1", "share of images with their class among the 10 nearest"),
    Score("r_precision", "up", "0 to 1", "share of the class among the R = n_c - 1 nearest"),
    Score("map_at_r", "up", "0 to 1", "R-precision in which early ranks count more"),
    Score("hub_skew", "down", "0 best", "skewness of how often an image is a neighbour"),
    Score("silhouette", "up", "-1 to 1",
          "nearness to the own class against the nearest other (cosine or squared Euclid, exact)"),
    Score("simplified_silhouette", "up", "-1 to 1", "the same against class means only"),
    Score("davies_bouldin", "down", ">= 0", "worst overlap of each class with another, averaged"),
    Score("calinski_harabasz", "up", ">= 0", "spread between classes over within, by freedom"),
    Score("fisher", "up", ">= 0", "trace of between-class over within-class scatter"),
    Score("cdnv", "down", ">= 0", "variance of two classes over squared distance of their means"),
    Score("nc1", "down", ">= 0", "within-class spread against that of the class means"),
    Score("nc2_norm", "down", ">= 0", "how unequal the distances of class means are"),
    Score("nc2_angle", "down", ">= 0", "how far the class means are from equal angles"),
    Score("nc3", "down", "0 to 4", "how far the classifier's weights are from the class means"),
    Score("nc4", "down", "0 to 1", "disagreement of nearest class mean and prediction"),
    Score("nearest_mean_accuracy", "up", "0 to 1",
          "share of images nearest to their own class mean"),
    Score("accuracy", "up", "0 to 1", "share of images that the network classifies correctly"),
    Score("knn_probe", "up", "0 to 1",
          "share of images that the 20 nearest train images name, channels standardised on them"),
    Score("linear_probe", "up", "0 to 1",
          "share of images that a linear probe names, channels standardised on train images"),
    Score("alignment", "neither", "0 to 4", "mean squared distance of same pairs on the sphere"),
    Score("uniformity", "neither", "<= 0", "log mean exp(-2 d^2) over all pairs on the sphere"),
    Score("two_nn", "neither", "> 0", "intrinsic dimension by the two nearest neighbours"),
)  # fmt: skip

VERSION = 2
"""Of what the scores mean, stored in every analysis; see CHANGELOG.md. 2: pair scores balanced."""

SCORES: dict[str, Score] = {score.name: score for score in _ROWS}
