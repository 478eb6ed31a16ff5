"""How a retraining is to be done: one frozen model, checked when it is built."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from alike.extract.errors import BadInput

MOST_SEED = 2**63 - 1
"""Largest seed: torch and NumPy take 64 bits, of which a signed number has 63."""


def _as_given(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """A whole number stays one, so that a run is found again by the hash of its settings."""
    check(value)
    return value


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0), WrapValidator(_as_given)]
Amount = Annotated[float, Field(ge=0.0), WrapValidator(_as_given)]
Rate = Annotated[float, Field(gt=0.0), WrapValidator(_as_given)]


class TrainSettings(BaseModel):
    """Everything that decides a retraining, besides network and images.

    Attributes:
        loss: a row of `LOSSES`.
        epochs: passes over the training images.
        batch_size: images a step, over all processes; None: a 20th of the images, from 32 to 128.
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
        average: of the weights along the run, instead of those of its last step: `ema` over the
            last tenth of the steps, `swa` over every step of the second half; BatchNorm is then
            measured again.
        seed: of head, batches, augmentation and dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    loss: str = "gap_supcon"
    epochs: Count = 20
    batch_size: Count | None = None
    per_class: Count = 4
    balanced: bool = True
    lr: Rate | None = None
    weight: Amount | None = None
    warmup: Share = 0.25
    lr_warmup: Share = 0.1
    head_warmup: Share = 0.3
    weight_decay: Amount = 0.01
    optimiser: Literal["adamw", "sgd"] = "adamw"
    augment: str = "shift"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    patience: Annotated[int, Field(ge=0)] = 0
    validation: Share = 0.1
    collapse_steps: Count = 200
    average: Literal["none", "ema", "swa"] = "none"
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0

    def __init__(self, **values: Any) -> None:
        """Check every value.

        Raises:
            BadInput: an unknown setting, or a value of another type or out of its range; all
                faults in one line.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadInput("; ".join(map(_fault, error.errors()))) from error
        if self.patience and self.average != "none":
            msg = (
                f"average = {self.average!r} with patience = {self.patience}: an average is of a "
                "whole run, early stopping takes the weights of one epoch; set one of them"
            )
            raise BadInput(msg)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump()

    def changed(self, **values: Any) -> "TrainSettings":
        """The same settings but for these, checked again."""
        return TrainSettings(**{**self.to_dict(), **values})

    def images_a_step(self, images: int) -> int:
        """The batch size asked for, or the usual one for this many images."""
        return self.batch_size or min(128, max(32, images // 20))

    def peak_rate(self, trained: bool) -> float:
        """The learning rate asked for, or the usual one for trained or random weights."""
        if self.lr is not None:
            return self.lr
        usual = 1e-3 if trained else 5e-3
        return usual if self.optimiser == "adamw" else 20.0 * usual


def _fault(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    if error["type"] == "extra_forbidden":
        return f"no such setting: {name}; one of {', '.join(TrainSettings.model_fields)} expected"
    return f"{name} = {error['input']!r}: {error['msg'].replace('Input should', 'must')}"
