"""`pipeline.toml`: the settings of a run, checked whole before anything starts.

Configuration is read here and nowhere else; everything below `flows/` takes plain arguments.
"""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from alike.extract.errors import BadInput
from alike.train.settings import TrainSettings
from alike.train.trigger import Condition, Rules

_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `4GB`, `512 MiB`, `500M` or `1e9`.

    Raises:
        BadInput: no size.
    """
    number = text.strip().upper().removesuffix("B").rstrip("KMGTI ")
    unit = text.strip().upper().removesuffix("B")[len(number) :].strip()
    try:
        size = float(number) * _BYTES[unit]
        if not 0 < size < float("inf"):
            raise ValueError(text)
    except (ValueError, KeyError):
        raise BadInput(f"memory {text!r}: expected a size such as 4GB or 512MiB") from None
    return int(size)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(_Section):
    """Which images, and which of them may be trained on."""

    source: str
    """Folder of class folders, or any other source that `alike extract` takes."""
    options: dict[str, Any] = {}
    """Options of the source, such as split of an .npz file (`alike extract --source-option`)."""
    train_share: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of images, chosen by content hash, that training may see and that is never judged.
    Unset: 0.5 where a section [retrain] is given, else 0 (all images are judged)."""
    salt: str = ""
    """Another salt gives another split."""


class NetworkSettings(_Section):
    """Which network, and how an image becomes its input."""

    name: str
    """A torchvision network, `file.py:factory` or `timm:NAME`."""
    weights: str = "none"
    """A weights file, the name of torchvision's weights, or `none` for random ones."""
    args: dict[str, Any] = {}
    """Arguments of the factory."""
    classes: tuple[str, ...] = ()
    """Names of the logits in order, where the weights do not say."""
    transform: dict[str, Any] | None = None
    """resize, crop, mean, std; unset: those that belong to the weights."""
    weights_key: str = ""
    """Which group of the weights file to take, as `model_ema`; unset, the one that fits best."""
    weights_prefix: str | None = None
    """Of the names to take, as `encoder_q.`; unset, it is found."""
    output: str = ""
    """Which of several outputs the logits are, if that is not plain: a name, or a place."""
    seed: int = 0
    """Seed of random weights."""


class Extract(_Section):
    """What is stored, and how it is computed."""

    taps: tuple[str, ...] = ("last_conv", "fc", "logits")
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = Field(default=None, ge=1)


class Index(_Section):
    """What is asked of the index."""

    measure: str = "gap_cosine"
    recall: float = Field(default=0.95, gt=0.0, le=1.0)
    at: int = Field(default=10, ge=1)
    memory: int | None = None
    """Upper bound of the index's memory: bytes, or a size such as `4GB`."""

    @field_validator("memory", mode="before")
    @classmethod
    def _in_bytes(cls, memory: object) -> object:
        try:
            return parse_bytes(memory) if isinstance(memory, str) else memory
        except BadInput as error:
            raise ValueError(str(error)) from error


class Analyse(_Section):
    """Which measures judge the pairs, and how."""

    measures: tuple[str, ...] = ()
    """Names of `alike list measures`; empty: the default company."""
    bootstrap: int = Field(default=200, ge=0)
    """Resamples of the images for each confidence interval."""
    untrained: bool = True
    """Judge the same architecture with random weights too, for comparison."""
    seed: int = Field(default=0, ge=0)


class Explain(_Section):
    """Explanations in the report; each costs forward and backward passes of the network."""

    continuity_images: int = Field(default=0, ge=0)
    """Images by which the continuity of every explainer is judged; takes seconds for a small
    network, minutes for one of ImageNet's on a CPU. 0: leave it out."""
    confused: int = Field(default=4, ge=0)
    """Most alike pairs of different classes of which is shown where they are alike."""
    examples: int = Field(default=6, ge=0)
    """Images of which the class activation map is shown, the same before and after retraining."""
    methods: tuple[str, ...] = ()
    """Names of `alike list explainers`; empty: all that fit the network."""


class Retrain(_Section):
    """When and how the network is retrained with a consistency loss."""

    when: str = "sameness < 0.80"
    """A score of the index's measure compared with a threshold."""
    loss: str = "gap_supcon"
    epochs: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    trainer: dict[str, Any] = {}
    """Further settings of the trainer by name, such as lr, weight, batch_size, warmup, augment."""
    control: bool = False
    """Also continue with plain cross-entropy for the same steps, and show both."""
    at_most: int = Field(default=1, ge=1)
    """Retrainings in all, until the settings of the network or of retraining change."""
    minimum_gain: float = 0.01
    """What the last retraining must have gained of the score for another to be worth it."""
    cool_down_hours: float = Field(default=0.0, ge=0.0)
    """Time that must have passed since the last retraining."""
    accuracy_margin: float = Field(default=0.01, ge=0.0)
    """The new network is used only where its accuracy is not lower by more than this."""

    @property
    def rules(self) -> Rules:
        """The condition and its guards."""
        return Rules(
            when=self.when,
            at_most=self.at_most,
            minimum_gain=self.minimum_gain,
            cool_down=self.cool_down_hours * 3600.0,
            accuracy_margin=self.accuracy_margin,
        )

    def train_settings(self, loss: str | None = None) -> TrainSettings:
        """Settings of the trainer, for another loss where one is named."""
        known = {field.name for field in fields(TrainSettings)}
        unknown = sorted(set(self.trainer) - known)
        if unknown:
            raise ValueError(f"no such setting: {', '.join(unknown)}; one of {', '.join(known)}")
        named = {"loss": loss or self.loss, "epochs": self.epochs, "seed": self.seed}
        try:
            return TrainSettings(**self.trainer, **named)  # type: ignore[arg-type]
        except (BadInput, TypeError) as error:
            raise ValueError(str(error)) from error


class Output(_Section):
    """Where everything goes."""

    folder: Path = Path("alike-out")
    """Holds the store, the weights, the report and Prefect's own files."""


class Pipeline(_Section):
    """A whole run."""

    images: Images
    network: NetworkSettings
    extract: Extract = Extract()
    index: Index = Index()
    analyse: Analyse = Analyse()
    explain: Explain = Explain()
    retrain: Retrain | None = None
    output: Output = Output()
    title: str = ""
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def written(self) -> dict[str, Any]:
        """All settings but where the output goes, paths as they were written.

        They do not change when a folder is moved with the settings file in it.
        """
        return self._written

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        return " ".join(title.split())

    @field_validator("retrain")
    @classmethod
    def _can_train(cls, retrain: Retrain | None) -> Retrain | None:
        if retrain:
            retrain.train_settings()
            try:
                Condition.parse(retrain.when)
            except BadInput as error:
                raise ValueError(str(error)) from error
        return retrain

    @property
    def train_share(self) -> float:
        """Share of images that training may see."""
        if self.images.train_share is not None:
            return self.images.train_share
        return 0.5 if self.retrain else 0.0


def read_pipeline(path: Path) -> Pipeline:
    """Read and check `pipeline.toml`; paths in it are relative to the file's own folder.

    Raises:
        BadInput: the file is missing, is no TOML, or holds a wrong name or value: all of them
            are listed in one line.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a pipeline.toml (see `alike run --help`)")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a TOML file: {error}") from error
    try:
        pipeline = Pipeline.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: {'; '.join(map(_fault, error.errors()))}") from error
    pipeline._written = pipeline.model_dump(mode="json", exclude={"output"})
    return _resolved(pipeline, path.parent.resolve())


def _fault(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: no such setting"
    if error["type"] == "missing":
        return f"{place}: must be given"
    return f"{place} = {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


def _resolved(pipeline: Pipeline, base: Path) -> Pipeline:
    images = pipeline.images.model_copy(update={"source": _near(pipeline.images.source, base)})
    network = pipeline.network
    file, colon, factory = network.name.rpartition(":")
    name = _near(file, base) + colon + factory if file.endswith(".py") else network.name
    network = network.model_copy(update={"name": name, "weights": _near(network.weights, base)})
    output = Output(folder=base / pipeline.output.folder.expanduser())
    return pipeline.model_copy(update={"images": images, "network": network, "output": output})


def _near(name: str, base: Path) -> str:
    """A path beside the settings file where there is one of that name; else the name itself."""
    beside = base / Path(name).expanduser()
    return str(beside) if name and "://" not in name and beside.exists() else name
