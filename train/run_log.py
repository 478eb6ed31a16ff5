"""What happens after every epoch: a row in the log, a checkpoint, early stop, progress."""

import copy
import json
import os
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alike.extract.progress import Progress
from alike.train.probe import Probe, look
from alike.train.step import ConsistencyStep

CHECKPOINT = "checkpoint.ckpt"
STEP_COLUMNS = ("step", "loss", "cross_entropy", "consistency", "weight", "accuracy", "inter")


class RunLog(Callback):
    """Keeps the log of a run in its folder and its checkpoint, so that a killed run can go on.

    Args:
        out: folder of the run.
        fingerprint: of everything that decides the run; stands in the checkpoint.
        probe: images looked at after each epoch.
        patience: epochs without a better accuracy on the probe before stopping; 0 for never.
        progress: called after every step.
        save_every: seconds between checkpoints, at least; they are made at the end of epochs.
    """

    def __init__(
        self,
        out: Path,
        fingerprint: str,
        probe: Probe,
        *,
        patience: int,
        progress: Progress,
        save_every: float,
    ) -> None:
        self.out = out
        self.fingerprint = fingerprint
        self.probe = probe
        self.patience = patience
        self.progress = progress
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.stopped = ""
        self.began = time.monotonic()
        self.save_every = save_every
        self.board = _board(out)
        self.saved = self.began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Tell the progress."""
        assert isinstance(pl_module, ConsistencyStep)
        done, total = trainer.global_step, pl_module.total_steps
        if trainer.is_global_zero and (done % 10 == 0 or done == total):
            self.progress("train", done, total, self._note())

    def _note(self) -> str:
        if not self.rows:
            return ""
        last = self.rows[-1]
        return f"loss {last['loss']:.3f}, accuracy {last['probe_accuracy']:.3f} ({self.probe.role})"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row, decide whether to stop, save; every process does what the first decides."""
        step = pl_module
        assert isinstance(step, ConsistencyStep)
        step.look()
        save = False
        if trainer.is_global_zero:
            self.rows.append(self._row(trainer, step))
            if self.board is not None:
                self.board.log_metrics(self.rows[-1], trainer.global_step)
            if self.patience:
                self._early_stop(trainer, step)
            self._write(step)
            last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
            save = time.monotonic() - self.saved >= self.save_every and not last
        save, stop = trainer.strategy.broadcast((save, trainer.should_stop))
        trainer.should_stop = stop
        if save:
            self._save(trainer)
            self.saved = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close what is still open."""
        if self.board is not None:
            self.board.finalize("success")

    def _row(self, trainer: Trainer, step: ConsistencyStep) -> dict[str, float]:
        steps = pd.DataFrame(step.steps, columns=list(STEP_COLUMNS))
        since = self.rows[-1]["step"] if self.rows else 0
        means = steps[steps["step"] >= since].drop(columns="step").mean()
        seconds = time.monotonic() - self.began
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {str(name): float(value) for name, value in means.items()}
        row["rate"] = float(trainer.optimizers[0].param_groups[-1]["lr"])
        scores = look(step.net, step.start.taps, self.probe)
        row |= {f"probe_{name}": value for name, value in scores.items()}
        return row | {"seconds": seconds}

    def _early_stop(self, trainer: Trainer, step: ConsistencyStep) -> None:
        accuracy, epoch = self.rows[-1]["probe_accuracy"], int(self.rows[-1]["epoch"])
        if not self.best or accuracy > self.best["accuracy"]:
            state = copy.deepcopy(step.net.state_dict())
            self.best = {"accuracy": accuracy, "epoch": epoch, "state": state}
        elif epoch - self.best["epoch"] >= self.patience:
            self.stopped = (
                f"epoch {epoch}: no better than epoch {self.best['epoch']} (validation accuracy "
                f"{self.best['accuracy']:.4f}) for {self.patience} epochs; stopped"
            )
            trainer.should_stop = True

    def _write(self, step: ConsistencyStep) -> None:
        write_aside(self.out / "log.csv", pd.DataFrame(self.rows).to_csv(index=False).encode())
        steps = pd.DataFrame(step.steps, columns=list(STEP_COLUMNS))
        write_aside(self.out / "steps.csv", steps.to_csv(index=False).encode())

    def _save(self, trainer: Trainer) -> None:
        aside = self.out / (CHECKPOINT + ".partial")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(self.out / CHECKPOINT)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"rows": self.rows, "best": self.best, "fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.rows = state_dict["rows"]
        self.best = state_dict["best"]


def _board(out: Path) -> Any:
    """A TensorBoard log in the folder of the run if TensorBoard is installed, else None."""
    if not (find_spec("tensorboard") or find_spec("tensorboardX")):
        return None
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name="", version="tensorboard")


def write_aside(path: Path, data: bytes) -> None:
    """Write a file aside and rename it, so that no reader meets half of it."""
    aside = path.with_name(path.name + ".partial")
    aside.write_bytes(data)
    aside.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON document, aside and renamed."""
    write_aside(path, json.dumps(value, indent=2, ensure_ascii=False).encode())


def checkpoint_of(out: Path, fingerprint: str) -> Path | None:
    """The checkpoint of this very run in its folder, or None: a damaged one is none."""
    path = out / CHECKPOINT
    if not path.is_file():
        return None
    try:
        # Torch reads past the checksums of what it wrote: one flipped bit is another weight.
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                return None
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        # All that going on takes; another version may keep something else.
        kept = checkpoint["alike"]["watch"], checkpoint["alike"]["steps"]
        states = [
            (state["fingerprint"], state["rows"], state["best"])
            for state in checkpoint["callbacks"].values()
        ]
        same_run = bool(kept) and any(state[0] == fingerprint for state in states)
    # A damaged file makes its reader raise anything.
    except Exception:
        return None
    return path if same_run else None
