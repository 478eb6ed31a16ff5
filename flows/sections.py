"""The sections of `pipeline.toml` as typed models: names, types and ranges of every setting.

A setting that a later version adds is left out of the record of the settings while it is unset
(`Added`), so that an update of the program neither drops a served network nor retrains.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alike.extract.addresses import EXPECTED, MOST_WORKERS, address_fault
from alike.extract.errors import BadInput
from alike.extract.limits import MAX_PIXELS
from alike.extract.machine import usable_cores
from alike.extract.secrets import HIDDEN, masked_all
from alike.train.settings import MOST_SEED, TrainSettings
from alike.train.trigger import Condition, Rules

if TYPE_CHECKING:
    from alike.extract.networks import Transform

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


MOST_SIDE = math.isqrt(MAX_PIXELS)
"""Pixels of a side of the network's input: its square is as large as an image may be."""


_WITHOUT_EFFECT = {"output", "alarm", "keep", "cluster", "prefect"}
"""Sections that no result depends on."""


def _laid_over(whole: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Settings with the texts of the file in place of their values, as far as it has some."""
    laid = dict(whole)
    for key, value in written.items():
        inner = laid.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            laid[key] = _laid_over(inner, value)
        elif isinstance(value, str | dict | list):
            laid[key] = value
    return laid


SEVERAL = "[[network]]"
"""Where the second and further tables `[[network]]` stand before they are checked."""


def networks_of(tables: dict[str, Any]) -> list[Any]:
    """The networks of a settings file's tables: of `[network]`, or of all `[[network]]`."""
    networks = tables.get("network")
    if isinstance(networks, list):
        return networks
    return [networks, *tables.get(SEVERAL, ())]


def _numbered(tables: dict[str, Any]) -> dict[str, Any]:
    """The same with a table for each network: `network`, `network 2` and so on."""
    shown = {name: part for name, part in tables.items() if name not in (SEVERAL, "others")}
    networks = [*networks_of(tables), *tables.get("others", ())]
    later = {f"network {number}": one for number, one in enumerate(networks[1:], start=2)}
    return {**shown, "network": networks[0], **later}


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character is in no file's name")
    return text


Name = Annotated[str, AfterValidator(_without_nul)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Side = Annotated[int, Field(strict=True, ge=1, le=MOST_SIDE)]


def _is_side(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MOST_SIDE


def _one_side_or_two(size: object) -> object:
    sides = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
    if size is not None and not all(map(_is_side, sides)):
        raise ValueError(f"must be pixels from 1 to {MOST_SIDE}, or [height, width]")
    return size


def _one_at_least(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is not None and not names:
        raise ValueError("must name one array at least; leave it out for the default")
    return names


Size = Annotated[int | tuple[int, int] | None, BeforeValidator(_one_side_or_two)]
Channels = tuple[float, float, float]
Added = Field(default=None, exclude_if=lambda value: value is None)
"""A setting that came after 0.1: unset, it leaves the record of the settings as it was."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where numbers or text are meant: they would count as 1 and 0."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and "bool" not in str(field.annotation):
            raise ValueError("must be no true or false, but as docs/settings.md has it")
        return value


class Images(_Section):
    """Which images, and which of them may be trained on."""

    source: Name
    """Folder of class folders, or any other source that `alike extract` takes."""
    options: dict[str, Any] = {}
    """Options of the source, such as split of an .npz file (`alike extract --source-option`)."""
    train_share: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of images, chosen by content hash, that training may see and that is never evaluated.
    Unset: 0.5 if [retrain] is given, else 0 (all images are evaluated)."""
    salt: str = ""
    """Another salt gives another split."""
    validation_share: float | None = Field(
        default=None, ge=0.0, lt=1.0, exclude_if=lambda value: value is None
    )
    """Share of images, next to those trained on, by which networks are chosen: the trigger, the
    acceptance and early stopping look at these, the report at the rest. Unset: 0.25 for a new store
    where a section [retrain] is given (less beside a large `train_share`), else 0."""
    group: Name | None = Added
    """Column of the source's table (patient, video, burst); images of one group stand on one side
    of the split. Unset: no groups."""
    twins: Literal["together", "ignore"] | None = Added
    """Whether images that show one picture stand on one side of the split; unset: together."""
    bad_share: float | None = Field(
        default=None, ge=0.0, le=1.0, exclude_if=lambda value: value is None
    )
    """Largest share of images without a feature; a run that finds more ends with an error. Unset:
    0.2."""


class TransformSettings(_Section):
    """How an image becomes the network's input; what is not set is ImageNet's."""

    resize: Size = None
    """Pixels of the shorter side, or [height, width]; unset: the image's own size."""
    crop: Side | None = None
    """Side of the central square cut out, in pixels."""
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    antialias: bool = True

    @model_validator(mode="after")
    def _can_be_built(self) -> "TransformSettings":
        try:
            self.build()
        except BadInput as error:
            raise ValueError(str(error)) from error
        return self

    def build(self) -> "Transform":
        """The transform.

        Raises:
            BadInput: values that do not go together, such as a crop above the resize.
        """
        from alike.extract.networks import Transform

        return Transform.from_dict(self.model_dump(exclude_none=True))


class NetworkSettings(_Section):
    """Which network, and how an image becomes its input."""

    name: Name
    """A torchvision network, `file.py:factory` or `timm:NAME`."""
    weights: Name = "none"
    """A weights file, the name of torchvision's weights, or `none` for random ones."""
    args: dict[str, Any] = {}
    """Arguments of the factory."""
    classes: tuple[str, ...] = ()
    """Names of the logits in order, if the weights do not carry them."""
    transform: TransformSettings | None = None
    """resize, crop, mean, std; unset: those that belong to the weights."""
    weights_key: str | None = Added
    """Which group of the weights file to take, as `model_ema`; unset, the one that fits best."""
    weights_prefix: str | None = Added
    """Of the names to take, as `encoder_q.`; unset, it is found."""
    output: str | None = Added
    """Which of several outputs the logits are, if that is not plain: a name, or a place."""
    seed: Seed = 0
    """Seed of random weights."""
    taps: tuple[str, ...] | None = Added
    """The arrays to store of this network; unset: those of [extract]."""

    _named = field_validator("taps")(_one_at_least)

    @field_validator("classes")
    @classmethod
    def _told_apart(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} twice: every logit needs a name of its own")
        return classes


class Extract(_Section):
    """What is stored, and how it is computed."""

    taps: tuple[str, ...] = ("last_conv", "fc", "logits")
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = Field(default=None, ge=1)

    _named = field_validator("taps")(_one_at_least)


class Index(_Section):
    """What is asked of the index."""

    measure: str = "gap_cosine"
    recall: float = Field(default=0.95, gt=0.0, le=1.0)
    at: int = Field(default=10, ge=1)
    memory: Annotated[int, Field(ge=1)] | None = None
    """Upper bound of the index's memory: bytes, or a size such as `4GB`."""

    @field_validator("memory", mode="before")
    @classmethod
    def _in_bytes(cls, memory: object) -> object:
        try:
            return parse_bytes(memory) if isinstance(memory, str) else memory
        except BadInput as error:
            raise ValueError(str(error)) from error


class Analyse(_Section):
    """Which measures evaluate the pairs, and how."""

    measures: tuple[str, ...] = ()
    """Names of `alike list measures`; empty: the default measures."""
    bootstrap: int = Field(default=200, ge=0)
    """0: no intervals; any other number: intervals. Nothing is resampled."""
    untrained: bool = True
    """Evaluate the same architecture with random weights too, for comparison."""
    seed: Seed = 0
    human: Name | None = Added
    """File of what people said about the images (`alike analyse --human`): votes, triplets or
    dissimilarities. Networks that are compared are compared by it too. Unset: none."""
    budget: float | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """Multiplications a measure; of more a stratified sample of images counts. Unset: 1e14."""
    bins: int | None = Added
    """Number of bins of the histograms, a power of two. Unset: 16,384."""
    precision: Literal["float32", "bfloat16"] | None = Added
    """Of the products; bfloat16 is faster and coarser. Unset: float32."""

    @field_validator("bins")
    @classmethod
    def _power_of_two(cls, bins: int | None) -> int | None:
        if bins is not None:
            from alike.analysis.pairs import check_bins

            try:
                check_bins(bins)
            except BadInput as error:
                raise ValueError(str(error)) from error
        return bins

    @property
    def of_pairs(self) -> dict[str, Any]:
        """What is set of how the pairs are counted, by the names of `AnalysisSettings`."""
        return self.model_dump(include={"budget", "bins", "precision"})


class Explain(_Section):
    """Explanations in the report; each costs forward and backward passes of the network."""

    continuity_images: int = Field(default=0, ge=0)
    """Images for the continuity of every explainer; takes seconds for a small
    network, minutes for one of ImageNet's on a CPU. 0: leave it out."""
    confused: int = Field(default=4, ge=0)
    """Most alike pairs of different classes of which is shown where they are alike."""
    examples: int = Field(default=6, ge=0)
    """Images of which the class activation map is shown, the same before and after retraining."""
    methods: tuple[str, ...] = ()
    """Names of `alike list explainers`; empty: all that fit the network."""
    grade_images: int | None = Field(default=None, ge=2, exclude_if=lambda value: value is None)
    """Images, and pairs of each kind, for the grades of every explainer; the run says beforehand
    how long they take. Unset: none."""


PROCESSES = ("processes", "nodes", "rendezvous")
"""Settings of [retrain] that say where it is done, and change no network beyond rounding."""


class Retrain(_Section):
    """When and how the network is retrained with a consistency loss."""

    when: str = "sameness < 0.80"
    """A score of `measure` compared with a threshold."""
    measure: str | None = Added
    """Whose score decides, a row of `alike list measures`; unset: the measure of the index."""
    loss: str = "gap_supcon"
    epochs: int = Field(default=10, ge=1)
    seed: Seed = 0
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
    processes: Annotated[int, Field(ge=1)] | None = Added
    """GPUs, or processes on the CPU, of each machine; they share every batch. Unset: 1."""
    nodes: Annotated[int, Field(ge=1)] | None = Added
    """Machines that train together; each of the others starts the command that the run prints.
    Unset: 1."""
    rendezvous: Name | None = Added
    """host:port of this machine at which the others meet it, for `nodes` above 1."""

    @property
    def world(self) -> tuple[int, int]:
        """Processes of a machine, and machines."""
        return self.processes or 1, self.nodes or 1

    @model_validator(mode="after")
    def _others_find_it(self) -> "Retrain":
        if self.world[1] > 1 and not self.rendezvous:
            raise ValueError("nodes above 1: give rendezvous, the host:port of this machine")
        return self

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
        """Settings of the trainer, for another loss if one is named.

        Raises:
            BadInput: a setting that the trainer does not have, or a value that it refuses.
        """
        named = {"loss": loss or self.loss, "epochs": self.epochs, "seed": self.seed}
        return TrainSettings(**self.trainer, **named)

    @field_validator("trainer")
    @classmethod
    def _can_train(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        own = sorted({"loss", "epochs", "seed"} & set(trainer))
        if own:
            raise ValueError(f"{', '.join(own)}: set it in [retrain] itself")
        try:
            TrainSettings(**trainer)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return trainer

    @field_validator("when")
    @classmethod
    def _a_comparison(cls, when: str) -> str:
        try:
            Condition.parse(when)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return when


class Output(_Section):
    """Where everything goes."""

    folder: Path = Path("alike-out")
    """Holds the weights, the report, what is remembered of runs, and Prefect's own files."""
    store: Name | None = Added
    """The features, tables, indexes and history: a folder, or a URL such as `s3://bucket/place`.
    Unset: the folder `store` in `folder`."""
    mirror: Name | None = Added
    """A URL or folder that gets a copy of the reports, the weights and the decisions of every run,
    such as `s3://bucket/site`. Unset: none."""
    logs: Literal["text", "json"] | None = Added
    """Form of the lines on standard error; json: one object a line. Unset: text."""

    @field_validator("folder", mode="before")
    @classmethod
    def _local(cls, folder: object) -> object:
        if isinstance(folder, str) and "://" in folder:
            raise ValueError(
                "reports, weights and state go to a local folder: name one, and name the URL as "
                "[output] store, which features, tables and indexes go to, or as [output] mirror, "
                "which gets a copy of reports and weights"
            )
        if isinstance(folder, str) and not folder.strip():
            raise ValueError("must name a folder; leave it out for alike-out")
        return _without_nul(folder) if isinstance(folder, str) else folder

    @field_validator("store", "mirror")
    @classmethod
    def _a_place(cls, store: str | None) -> str | None:
        if store is not None and not store.rpartition("://")[2].strip("/"):
            raise ValueError("must be a folder, or a URL such as s3://bucket/place")
        return store


class AlarmSettings(_Section):
    """When somebody must look, and who is told."""

    when: tuple[str, ...] = ()
    """Rules, such as `sameness fell`, `bad > 1 %`, `recall < 0.93`, `no good run for 26 h`."""
    webhook: str | None = None
    """An http or https URL that gets every alarm as JSON by POST."""
    command: tuple[str, ...] = ()
    """A program with its arguments that gets every alarm as JSON on its standard input."""
    event: bool = False
    """Emit a Prefect event, `alike.alarm`."""

    @field_validator("when")
    @classmethod
    def _rules(cls, when: tuple[str, ...]) -> tuple[str, ...]:
        from alike.flows.rules import Rule

        try:
            for rule in when:
                Rule.parse(rule)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return when

    @field_validator("webhook")
    @classmethod
    def _http(cls, webhook: str | None) -> str | None:
        if webhook is not None and not webhook.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return webhook

    @field_validator("command")
    @classmethod
    def _a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("must begin with the name of a program")
        return command

    @model_validator(mode="after")
    def _of_something(self) -> "AlarmSettings":
        if (self.webhook or self.command or self.event) and not self.when:
            raise ValueError(
                "somebody is to be told, and nothing is watched: give when, such as "
                'when = ["sameness fell"]'
            )
        return self


class ClusterSettings(_Section):
    """Where extraction, analysis, comparison and the index of feature maps compute."""

    dask: str | None = None
    """Address of a Dask scheduler, such as `tcp://10.0.0.1:8786`, or `local`: processes of this
    machine. Unset: threads of this process, unless `workers` is given."""
    workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    """Processes of this machine; unset with `local`: one a core."""

    @field_validator("dask")
    @classmethod
    def _an_address(cls, dask: str | None) -> str | None:
        if dask is None or dask == "local":
            return dask
        if fault := address_fault(dask):
            raise ValueError(f"must be local, or {EXPECTED}: {fault}")
        return dask

    @model_validator(mode="after")
    def _of_one_place(self) -> "ClusterSettings":
        if self.workers is not None and self.dask not in (None, "local"):
            raise ValueError(
                "workers are processes of this machine, and those of a scheduler are started there "
                "(`dask worker`): leave out dask or workers"
            )
        return self

    @property
    def processes(self) -> int:
        """Processes of this machine to start; 0: none."""
        return self.workers or (usable_cores() if self.dask == "local" else 0)


class Keep(_Section):
    """What is kept of the past."""

    reports: int | None = Field(default=None, ge=1)
    """Dated reports in `reports/`; older ones are deleted when one is written. Unset: all."""
    removed_days: float | None = Field(default=None, ge=0.0)
    """Days for which an image that left the set keeps its features. Unset: for ever."""
    networks: Literal["all", "served and compared"] = "all"
    """Whose features stay: those of all networks, or of the served one and those that a run
    compares it with."""


class PrefectSettings(_Section):
    """How Prefect runs the steps, and what it shows of them."""

    retries: int = Field(default=3, ge=0, le=20)
    """How often a step is tried again after a fault of the storage, the network or a worker."""
    retry_seconds: float = Field(default=10.0, ge=0.0, le=3600.0)
    """Pause before it is tried again the first time; every further pause is twice as long."""
    busy: Literal["wait", "skip"] = "wait"
    """What a scheduled run does while another one works on the same store."""
    tags: tuple[str, ...] = ()
    """Of every run, beside those that it always has."""
    report_url: str | None = None
    """Where a browser finds the output folder, for the link to the report. Unset: its path."""

    @field_validator("report_url")
    @classmethod
    def _in_a_browser(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url


class Pipeline(_Section):
    """A whole run."""

    images: Images
    network: NetworkSettings
    others: tuple[NetworkSettings, ...] = Field(
        default=(), validation_alias=SEVERAL, exclude_if=lambda value: not value
    )
    """The second and further [[network]]: extracted and analysed, and compared with the first."""
    extract: Extract = Extract()
    index: Index = Index()
    analyse: Analyse = Analyse()
    explain: Explain = Explain()
    retrain: Retrain | None = None
    output: Output = Output()
    alarm: AlarmSettings = AlarmSettings()
    keep: Keep = Keep()
    cluster: ClusterSettings = ClusterSettings()
    prefect: PrefectSettings = PrefectSettings()
    title: str = ""
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)
    _shown: dict[str, Any] = PrivateAttr(default_factory=dict)
    _place: Path | None = PrivateAttr(default=None)

    def remember_as_written(self, given: dict[str, Any], raw: dict[str, Any] | None = None) -> None:
        """Keep the record of the settings, before any path is resolved.

        Args:
            given: the file's tables. The transform is recorded as it stands there: its typed form
                gains fields with every version, which must not change what was recorded before.
            raw: the same before references to the environment were replaced; None: there are none.
        """
        record = self.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
        networks = [record["network"], *record.get("others", ())]
        for one, table in zip(networks, networks_of(given), strict=True):
            one["transform"] = table.get("transform")
        self._written = record
        whole = _numbered(self.model_dump(mode="json"))
        self._shown = _laid_over(whole, _numbered(given if raw is None else raw))

    @property
    def networks(self) -> tuple[NetworkSettings, ...]:
        """Every network: first the one that is indexed, retrained and served."""
        return self.network, *self.others

    @property
    def store_place(self) -> str:
        """The folder or URL of the store."""
        return self.output.store or str(self.output.folder / "store")

    def remember_place(self, folder: Path) -> None:
        """Keep where the settings file lies."""
        self._place = folder

    @property
    def place(self) -> Path | None:
        """The settings file's folder; None if there is no file."""
        return self._place

    @property
    def shown(self) -> dict[str, Any]:
        """All settings as they may be printed: references as they were written, secrets masked."""
        shown: dict[str, Any] = masked_all(self._shown or self.model_dump(mode="json"))
        hook = str(shown["alarm"]["webhook"] or "")
        if "://" in hook:
            # The path of a webhook is its password.
            shown["alarm"]["webhook"] = f"{'/'.join(hook.split('/')[:3])}/{HIDDEN}"
        if len(shown["alarm"]["command"]) > 1:
            # Passwords stand among arguments as often as in variables.
            shown["alarm"]["command"] = [shown["alarm"]["command"][0], HIDDEN]
        return shown

    @property
    def written(self) -> dict[str, Any]:
        """All settings that a result depends on, paths as they were written.

        They do not change when a folder is moved with the settings file in it.
        """
        return self._written

    @field_validator("others")
    @classmethod
    def _each_once(
        cls, others: tuple[NetworkSettings, ...], info: ValidationInfo
    ) -> tuple[NetworkSettings, ...]:
        networks = [info.data.get("network"), *others]
        for number, one in enumerate(networks):
            if one in networks[:number]:
                before = networks.index(one) + 1
                raise ValueError(
                    f"network {number + 1} is network {before} once more: name it once"
                )
        return others

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        return " ".join(title.split())

    @property
    def trigger_measure(self) -> str:
        """The measure whose score decides about retraining."""
        return (self.retrain and self.retrain.measure) or self.index.measure

    @property
    def train_share(self) -> float:
        """Share of images that training may see."""
        if self.images.train_share is not None:
            return self.images.train_share
        return 0.5 if self.retrain else 0.0

    @property
    def validation_share(self) -> float:
        """Share of images that networks are chosen by, in a new store.

        Raises:
            BadInput: more than training leaves over.
        """
        rest = 1.0 - self.train_share
        given = self.images.validation_share
        if given is not None and given >= rest:
            raise BadInput(
                f"[images] validation_share = {given:g} beside a train share of "
                f"{self.train_share:g}: less than {rest:g} is expected, so that images are held out"
            )
        if given is not None:
            return given
        return min(0.25, rest / 2) if self.retrain else 0.0
