"""One of the processes of a retraining, and torchrun, which starts them."""

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from alike.extract.documents import read_json_file
from alike.extract.errors import BadInput
from alike.flows.parent import end_with_parent
from alike.flows.sections import Images, NetworkSettings
from alike.flows.train_processes import REFUSAL, Job


def train(path: Path) -> None:
    """Train as one of the processes that torchrun started.

    Args:
        path: of the job.
    """
    from alike.extract.images import open_source
    from alike.flows.steps import load_one
    from alike.train.retrain import is_first_process, retrain
    from alike.train.settings import TrainSettings

    job = read_json_file(path, Job, "start the run again")
    network = NetworkSettings.model_validate(job.network)
    images = Images.model_validate(job.images)
    groups = {"group": images.group} if images.group else {}
    out = path.parent

    lines = sys.stdout

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if is_first_process():
            lines.write(json.dumps([stage, done, total, note]) + "\n")
            lines.flush()

    try:
        # What the code of a network prints is no progress: it goes to the log of the processes.
        with redirect_stdout(sys.stderr):
            retrain(
                load_one(network, job.weights),
                job.training,
                open_source(images.source, **images.options, **groups).read,
                validation=job.validation,
                settings=TrainSettings(**job.settings),
                device=job.device,
                devices=job.processes,
                nodes=job.nodes,
                save_every=job.save_every,
                out=out,
                progress=progress,
            )
    except BadInput as error:
        if is_first_process():
            refusal = {"kind": type(error).__name__, "message": str(error)}
            (out / REFUSAL).write_text(json.dumps(refusal))
        raise SystemExit(1) from error


def leave() -> NoReturn:
    """End this process, whose work is done, without taking its libraries apart.

    A thread of theirs that still runs then would abort the process ("terminate called without an
    active exception"), and torchrun ends the others, which may be writing the weights, with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """torchrun, or one of its processes; each ends with the process that started it."""
    if sys.argv[1] != "--torchrun":
        end_with_parent(os.getppid())
        try:
            train(Path(sys.argv[1]))
        except SystemExit as ended:
            # All but the first process end so when the training is done.
            if ended.code:
                raise
        leave()
    from torch.distributed.run import main as torchrun

    end_with_parent(int(sys.argv[2]))
    torchrun(sys.argv[3:])


if __name__ == "__main__":
    main()
