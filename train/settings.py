"""How a retraining is to be done: one frozen object, checked when it is built."""

from dataclasses import asdict, dataclass

from alike.extract.errors import BadInput

OPTIMISERS = ("adamw", "sgd")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a retraining, besides network and images.

    Attributes:
        loss: a row of `LOSSES`.
        epochs: passes over the training images.
        batch_size: images a step, on each device; None: a 20th of the images, from 32 to 128.
        per_class: images of one class in a batch; more if all classes fit.
        balanced: batches of P classes with K images; False for plain random batches.
        lr: peak learning rate; None: 5e-3 from random weights, 1e-3 from trained ones (adamw).
        weight: λ_max of the consistency term; None: that of the loss.
        warmup: share of all steps over which λ ramps up.
        lr_warmup: share of all steps over which the learning rate rises.
        head_warmup: share of all steps in which only a replaced head learns.
        weight_decay: decoupled (adamw) or L2 (sgd).
        optimiser: `adamw`, or `sgd` with Nesterov momentum 0.9.
        augment: a row of `AUGMENTATIONS`.
        precision: Lightning's name, or `auto`: bfloat16 on a GPU that has it, else float32.
        patience: epochs without a better validation accuracy before stopping; 0 for never.
        validation: share of the training images kept out for that, by content hash.
        collapse_steps: collapsed steps in a row before λ is halved.
        seed: of head, batches, augmentation and dropout.
    """

    loss: str = "gap_supcon"
    epochs: int = 20
    batch_size: int | None = None
    per_class: int = 4
    balanced: bool = True
    lr: float | None = None
    weight: float | None = None
    warmup: float = 0.25
    lr_warmup: float = 0.1
    head_warmup: float = 0.3
    weight_decay: float = 0.01
    optimiser: str = "adamw"
    augment: str = "shift"
    precision: str = "auto"
    patience: int = 0
    validation: float = 0.1
    collapse_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "per_class", "collapse_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}: at least 1 is expected")
        if self.seed < 0:
            raise BadInput(f"seed {self.seed}: 0 or more is expected")
        for name in ("warmup", "lr_warmup", "head_warmup", "validation"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise BadInput(f"{name} {getattr(self, name)}: a share from 0 to below 1 expected")
        if self.lr is not None and not self.lr > 0.0:
            raise BadInput(f"lr {self.lr}: a rate above 0 is expected")
        if self.weight is not None and not self.weight >= 0.0:
            raise BadInput(f"weight {self.weight}: 0 or more is expected")
        if self.optimiser not in OPTIMISERS:
            raise BadInput(f"optimiser {self.optimiser!r}: one of {', '.join(OPTIMISERS)} expected")
        if self.precision not in PRECISIONS:
            raise BadInput(f"precision {self.precision!r}: one of {', '.join(PRECISIONS)} expected")

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    def images_a_step(self, images: int) -> int:
        """The batch size asked for, or the usual one for this many images."""
        return self.batch_size or min(128, max(32, images // 20))

    def peak_rate(self, trained: bool) -> float:
        """The learning rate asked for, or the usual one for trained or random weights."""
        if self.lr is not None:
            return self.lr
        usual = 1e-3 if trained else 5e-3
        return usual if self.optimiser == "adamw" else 20.0 * usual
