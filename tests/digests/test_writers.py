"""What the callbacks leave that write files about training images, or predictions.

Two settings. Where the decisions are those of the callback, the method is a rule on pixel values,
or its input was made by hand: labels are digests. Where a network decides, its weights are seeded
and untrained: labels are counts on a coarse grid and arrays some of their values, with tolerances,
because single pixels on a border may fall either way on another machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.left_files import contents, label_counts
from helpers.training import quiet_trainer
from lightning.pytorch import Callback, seed_everything

from scribbleseg import (
    CAMModule,
    InferenceConfig,
    IRNModule,
    PtReClModule,
    RegularizedModule,
    SPMLModule,
    predict_logits,
)
from scribbleseg.callbacks import (
    AffinityLabelWriter,
    CollectionOptions,
    ConfidentLabelWriter,
    PropagatedLabelWriter,
    PrototypeWriter,
    PseudoLabelQuality,
    PseudoLabelWriter,
    RandomWalkWriter,
    ReclassificationWriter,
    SeedWriter,
)
from scribbleseg.data import ScribbleDataModule
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import write_arrays, write_label, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 2
ARRAYS = {"rtol": 2e-3, "atol": 2e-3}  # float16 in [0, 1]
DECIDED = {"rtol": 0.02, "atol": 3.0}  # pixels on which network arithmetic decides
CLUSTERED = {"rtol": 0.02, "atol": 0.02}


def source() -> SyntheticSource:
    return SyntheticSource(num_train=IMAGES, num_val=1, size=32)


def write(module: Any, folder: Path, *callbacks: Callback, **options: Any) -> Path:
    """Run prediction, at whose end the callbacks write; the folder of the run."""
    settings = {"batch_size": 2, "num_workers": 0, "check": False, "seed": 0, **options}
    trainer = quiet_trainer(default_root_dir=folder, callbacks=list(callbacks))
    data = ScribbleDataModule(source(), **settings)
    trainer.predict(module, data, return_predictions=False)
    return folder


def untrained(kind: type, **options: Any) -> Any:
    seed_everything(0, verbose=False)
    return kind(source().num_classes, encoder=TINY_ENCODER, encoder_weights=None, **options)


class ByBlue(RegularizedModule):
    """Classes by the blue of each pixel, no two alike: decided apart from any arithmetic."""

    def predict_logits(self, image: torch.Tensor) -> torch.Tensor:
        return predict_logits(self._by_blue, image, self.inference)

    def _by_blue(self, image: torch.Tensor) -> torch.Tensor:
        centres = torch.linspace(-1.51, 1.53, self.num_classes, dtype=torch.float64)
        return -4 * (image[:, 2:].double() - centres[:, None, None]).abs()


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Seeds and masks that somebody made by hand: dense masks, blurred, and partly wrong."""
    root, own = tmp_path_factory.mktemp("writers") / "given", source()
    for record in own.records("train"):
        mask, drawn = own.read_mask(record).copy(), np.unique(own.read_scribble(record))
        classes = np.array([label for label in drawn if label not in (0, 255)], np.int64)
        truth = torch.from_numpy((mask == classes[:, None, None]).astype(np.float32))
        maps = torch.nn.functional.adaptive_avg_pool2d(truth, [-(-n // 4) for n in mask.shape])
        stored = maps.numpy().astype(np.float16)
        write_arrays(root / "seeds" / f"{record.image_id}.npz", classes=classes, maps=stored)
        write_label(root / "true_masks" / f"{record.image_id}.png", mask, own.palette)
        poor = np.where(mask == classes[-1], 0, mask)  # a class without prototypes
        write_label(root / "poor_masks" / f"{record.image_id}.png", poor, own.palette)
        mask[:6] = classes[-1]
        write_label(root / "masks" / f"{record.image_id}.png", mask, own.palette)
    facts = {"class_names": own.class_names, "files": IMAGES}
    write_manifest(root / "masks", **facts, made_by={"by": "hand"})
    return root


@pytest.fixture
def run(given: Path, request: pytest.FixtureRequest) -> Path:
    """Folder of a run, whose name does not depend on other tests."""
    name = getattr(request.node, "callspec", None)
    return given.with_name(request.node.name if name is None else f"{name.id}")


def check(digest, name: str, folder: Path, *, exact: bool = False) -> None:
    """Files of a run, and the labels among them."""
    facts = contents(folder, hide=folder.parent, exact=exact)
    for file in facts:
        if file.endswith("prototypes.npz") or file.startswith("features/set_"):
            facts[file] = clusters(folder / file)
    statistics = facts.get("prototypes.json", {}).pop("classes", None)
    digest.check(name, facts, **ARRAYS)
    if statistics is not None:
        digest.check(f"{name}, clusters", statistics, **CLUSTERED)
    if not exact:
        digest.check(f"{name}, pixels", label_counts(folder), **DECIDED)


def clusters(path: Path) -> dict[str, Any]:
    """Keys and kinds of a file of vectors whose number and order a network decides."""
    with np.load(path, allow_pickle=False) as stored:
        return {
            name: f"{array.dtype.name if array.dtype.kind != 'U' else 'text'}, {array.ndim} axes"
            for name, array in stored.items()
        }


# ------------------------------------------------------------- decided by the callback

BY_RULE: dict[str, Any] = {
    "PseudoLabelWriter": lambda run: PseudoLabelWriter(str(run / "predictions")),
    "ConfidentLabelWriter": lambda run: ConfidentLabelWriter(),
    "ConfidentLabelWriter, everything": lambda run: ConfidentLabelWriter(
        str(run / "labels" / "all"), threshold=0.0, paste_scribbles=False
    ),
    "ConfidentLabelWriter, classes of the image": lambda run: ConfidentLabelWriter(
        threshold=0.6, present_only=True, inference=InferenceConfig(flip=True)
    ),
}


@pytest.mark.parametrize("name", BY_RULE)
def test_labels_of_any_method(name: str, given, run, digest) -> None:
    write(untrained(ByBlue, arch="unet"), run, BY_RULE[name](run), scribble_drop=0.3)
    check(digest, name, run, exact=True)


AFFINITY: dict[str, dict[str, Any]] = {
    "seeds and scribbles": {"refine": "none"},
    "seeds alone, wider": {
        **{"seed_source": "cam", "refine": "none", "foreground": 0.45, "background": 0.25}
    },
    "scribbles alone": {"seed_source": "scribble", "refine": "none"},
}


@pytest.mark.parametrize("name", AFFINITY)
def test_affinity_labels(name: str, given, run, digest) -> None:
    options = {"seed_dir": str(given / "seeds")}
    writer = AffinityLabelWriter(**options, **AFFINITY[name])
    write(untrained(ByBlue, arch="unet"), run, writer)
    check(digest, f"AffinityLabelWriter, {name}", run, exact=True)


def test_quality_of_pseudo_labels(given, run, digest) -> None:
    quality = PseudoLabelQuality(str(given / "masks"))
    write(untrained(ByBlue, arch="unet"), run, quality)
    digest.check("PseudoLabelQuality", contents(run, hide=run), rtol=1e-6)


# -------------------------------------------------------------- decided by the network

FINE_MAPS = {
    **{"kind": CAMModule, "output_stride": 8},
    "inference": InferenceConfig(scales=(1.0, 2.0), flip=True),
}
WALKED: dict[str, tuple[dict[str, Any], Any]] = {
    "AffinityLabelWriter, CRF": (
        FINE_MAPS,
        lambda given: AffinityLabelWriter(seed_dir=str(given / "seeds")),
    ),
    "AffinityLabelWriter, scribbles spread": (
        FINE_MAPS,
        lambda given: AffinityLabelWriter(seed_source="scribble", least=0.8),
    ),
    "SeedWriter": (FINE_MAPS, lambda given: SeedWriter()),
    "SeedWriter, CRF, labels alone": (
        FINE_MAPS,
        lambda given: SeedWriter(refine="crf", paste_scribbles=False, seeds=False, threshold=0.4),
    ),
    "SeedWriter, in boxes": (
        FINE_MAPS,
        lambda given: SeedWriter(per_box=True, paste_scribbles=False),
    ),
    "SeedWriter, random walker": (
        FINE_MAPS,
        lambda given: SeedWriter(refine="random_walker", confident=(0.7, 0.2)),
    ),
    "RandomWalkWriter": (
        {"kind": IRNModule, "radius": 3},
        lambda given: RandomWalkWriter(seed_dir=str(given / "seeds"), radius=3),
    ),
    "RandomWalkWriter, scribbles alone": (
        {"kind": IRNModule, "radius": 3},
        lambda given: RandomWalkWriter(seed_source="scribble", num_steps=16, beta=4.0),
    ),
    "RandomWalkWriter, objects": (
        {"kind": IRNModule, "radius": 3, "displacement": True},
        lambda given: RandomWalkWriter(
            seed_dir=str(given / "seeds"), seed_source="cam", radius=3, instances=True
        ),
    ),
    "PropagatedLabelWriter": (
        {"kind": SPMLModule, "arch": "unet", "embedding_dim": 8},
        lambda given: PropagatedLabelWriter(stride=4),
    ),
    "PropagatedLabelWriter, nearest": (
        {"kind": SPMLModule, "arch": "unet", "embedding_dim": 8},
        lambda given: PropagatedLabelWriter(
            scores="nearest", crf=None, walk_steps=4, paste_scribbles=False
        ),
    ),
    "PropagatedLabelWriter, seeds": (
        {"kind": SPMLModule, "arch": "unet", "embedding_dim": 8},
        lambda given: PropagatedLabelWriter(scores="seeds", seeds=str(given / "seeds"), stride=4),
    ),
    "PrototypeWriter": (
        {"kind": SPMLModule, "arch": "unet", "embedding_dim": 8},
        lambda given: PrototypeWriter(scales=(1.0, 0.5)),
    ),
    "PrototypeWriter, oracle": (
        {"kind": SPMLModule, "arch": "unet", "embedding_dim": 8},
        lambda given: PrototypeWriter(oracle=True),
    ),
    "ReclassificationWriter": (
        {"kind": PtReClModule, "arch": "unet", "feature_level": "decoder", "num_prototypes": 3},
        lambda given: ReclassificationWriter(
            str(given / "masks"), collection=CollectionOptions(capacity=60, iters=5, redo=1)
        ),
    ),
    "ReclassificationWriter, masks without some classes": (
        {"kind": PtReClModule, "arch": "unet", "feature_level": "decoder", "num_prototypes": 3},
        lambda given: ReclassificationWriter(
            str(given / "poor_masks"),
            fallback_dir=str(given / "seeds"),
            collection=CollectionOptions(capacity=60, scribbles=False, iters=5, redo=1),
        ),
    ),
    "ReclassificationWriter, two masks, streaming, features kept": (
        {"kind": PtReClModule, "arch": "unet", "feature_level": "decoder", "num_prototypes": 3},
        lambda given: ReclassificationWriter(
            str(given / "masks"),
            agree_dir=str(given / "true_masks"),
            fallback_dir=str(given / "seeds"),
            paste_scribbles=False,
            collection=CollectionOptions(
                purity=0.5,
                clustering="streaming",
                passes=1,
                iters=5,
                redo=1,
                per_image=20,
                keep_features=True,
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", WALKED)
def test_labels_of_one_method(name: str, given, run, digest) -> None:
    options, build = WALKED[name]
    if "num_prototypes" in options:
        options = {**options, "top_m": 2}
    write(untrained(**options), run, build(given))
    check(digest, name, run)


def test_prototypes_of_written_labels_and_their_votes(given, run, digest) -> None:
    """One callback after the other: the folder of the first is given relative to the run."""
    module = untrained(SPMLModule, arch="unet", embedding_dim=8)
    write(module, run, PropagatedLabelWriter(stride=4), PrototypeWriter(labels="pseudo_labels"))
    votes = run / "votes"
    write(
        module,
        run,
        PropagatedLabelWriter(str(votes), scores="retrieval", crf=None, exclude_self=False),
    )
    assert module.retriever is None
    check(digest, "PrototypeWriter, PropagatedLabelWriter, retrieval", run)
    with np.load(run / "prototypes" / "prototypes.npz") as stored:
        labels, vectors = stored["labels"], stored["prototypes"]
        facts = {
            "segments": float(len(labels)),
            "norm": np.linalg.norm(vectors, axis=1).tolist()[:3],
            "of each class": np.bincount(labels, minlength=5).astype(float).tolist(),
            "of each image": np.bincount(stored["image"]).astype(float).tolist(),
            "mean": vectors.mean(axis=0).tolist(),
            "ids": stored["image_ids"].tolist(),
        }
    digest.check("prototypes of segments", facts, rtol=0.02, atol=0.02)
