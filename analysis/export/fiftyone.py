"""Samples for FiftyOne: file, label, split, neighbours' purity, place on the map."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from alike.analysis.export.graph import neighbour_lists
from alike.analysis.export.plan import Plan
from alike.analysis.export.result import MANIFEST, manifest_json
from alike.extract.errors import BadInput


def write_fiftyone(plan: Plan, path: Path) -> None:
    """Write JSON: `samples` are what `fiftyone.Sample.from_dict` takes, `alike` is the manifest.

    Raises:
        BadInput: the images are not files of a folder, which FiftyOne needs.
    """
    samples = list(fiftyone_samples(plan))
    manifest = json.loads(manifest_json(plan.manifest))
    text = json.dumps(
        {MANIFEST: manifest, "samples": samples}, ensure_ascii=False, indent=1, allow_nan=False
    )
    path.write_text(text, encoding="utf-8")


def fiftyone_samples(plan: Plan) -> list[dict[str, Any]]:
    """One dictionary an image with FiftyOne's fields.

    `filepath`, `tags` (the split), `ground_truth` (a Classification), `alike_id`, `alike_row`,
    `same_class_share` (of the nearest neighbours), `nearest_distance`, `projection` (x, y), and the
    feature vectors by their name.
    """
    root = _folder(plan)
    near = neighbour_lists(plan)
    labels = plan.images["label"].to_numpy(object)
    samples: list[dict[str, Any]] = []
    for part, values in plan.blocks():
        for offset, image in enumerate(part.itertuples()):
            here = len(samples)
            sample: dict[str, Any] = {
                "filepath": str(root / image.path),
                "tags": [image.split],
                "alike_id": image.image_id,
                "alike_row": int(image.row),
            }
            if isinstance(image.label, str):
                sample["ground_truth"] = {"_cls": "Classification", "label": image.label}
            if near is not None:
                sample["same_class_share"] = float(np.mean(labels[near[0][here]] == labels[here]))
                sample["nearest_distance"] = float(near[1][here, 0])
            vectors = {name: array[offset] for name, array in values.items() if array.ndim == 2}
            if hasattr(image, "projection_x"):
                vectors["projection"] = (image.projection_x, image.projection_y)
            for name, vector in vectors.items():
                numbers = [float(x) for x in vector]
                # JSON has no NaN: an image without a place on the map has no such field.
                if all(map(math.isfinite, numbers)):
                    sample[name] = numbers
            samples.append(sample)
    return samples


def _folder(plan: Plan) -> Path:
    spec, _ = plan.features.store.source()
    root = Path(spec)
    if "://" in spec or not root.is_dir():
        raise BadInput(
            f"FiftyOne shows files, and the images of {spec} are not files of a folder: "
            "export to .parquet with --images instead."
        )
    return root
