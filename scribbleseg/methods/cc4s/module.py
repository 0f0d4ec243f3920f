"""CC4S: walks over similar pixels, certain predictions, the same walk in every view."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from scribbleseg.functional.losses import entropy_loss, full_precision, weighted_mean
from scribbleseg.functional.regions import region_means, region_sizes
from scribbleseg.functional.schedules import ramp_factor
from scribbleseg.methods.cc4s.losses import (
    certainty_weight,
    eigenspace_consistency,
    feature_consistency_loss,
    graph_smoothness,
)
from scribbleseg.methods.cc4s.stages import LossPreset, Stage, check_options, stage_options
from scribbleseg.methods.cc4s.views import GeometricView, Lattice, Transform, random_view
from scribbleseg.methods.cc4s.walk import WalkingModule, WalkOutput
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.schedules import ScheduleName
    from scribbleseg.types import SegBatch

__all__ = ["CC4SModule"]

_COUNT = "superpixel_count"  # made by the module itself, on the host


class CC4SModule(WalkingModule):
    """Certainty and consistency from scribbles (URSS, ICCV 2021; CC4S, TPAMI 2024).

    A similarity measurement averages features over similar pixels by one step of a random walk.
    Predictions are to be certain inside superpixels (stage ``certainty``), the walks of an image
    and of a view of it are to agree (``consistency``, starts from the first stage), and both train
    again on pseudo-labels, smooth over superpixels of like colour (``retrain``; the labels are
    ``pseudo_label_dir`` of the data). URSS is the first two. Every stage is a run of its own; with
    ``consistency_start`` two of them are one.

    Args:
        num_classes: Number of classes, background included.
        stage: Labels, and the weights below that are ``null``; see
            :data:`~scribbleseg.methods.cc4s.stages.STAGES`.
        loss_preset: ``library``, ``reference`` (what the released code amounts to) or ``paper``;
            see :data:`~scribbleseg.methods.cc4s.stages.PRESETS`.
        entropy_weight: Weight of the entropy.
        entropy_start: Share of the training before which it is off (0 as published).
        entropy_ramp: Share of the training over which its weight then grows (0 as published).
        entropy_boundaries: Leave out pixels on superpixel boundaries; needs ``superpixels`` of the
            data. False = the entropy of all pixels.
        consistency_weight: Weight of the self-supervision; ``null`` = the stage's.
        consistency_start: Share of the training before which it is off; ``null`` = the stage's.
        trace_weight: Weight of the difference of the traces in it.
        consistency_feature: What must agree: transition matrices ``P``, or features before (``x``)
            or after (``z``) the walk.
        consistency_transform: View: ``flip``, ``translation`` or ``random``, drawn per batch.
        consistency_axis: ``query`` or ``key``; see
            :func:`~scribbleseg.methods.cc4s.eigenspace_consistency`; ``null`` = the preset's.
        shift: Share of the rows that a translation leaves out.
        view_seed: Seed of the views, together with the step.
        colour_weight: Weight of the smoothness over adjacent superpixels; ``null`` = the stage's.
            Needs ``superpixels`` of the data.
        kwargs: See :class:`~scribbleseg.methods.cc4s.walk.WalkingModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stage: Stage = "certainty",
        loss_preset: LossPreset = "library",
        entropy_weight: float = 1.0,
        entropy_start: float = 0.0,
        entropy_ramp: float = 0.0,
        entropy_boundaries: bool = False,
        consistency_weight: float | None = None,
        consistency_start: float | None = None,
        trace_weight: float = 0.01,
        consistency_feature: Literal["P", "x", "z"] = "P",
        consistency_transform: Transform = "random",
        consistency_axis: Literal["query", "key"] | None = None,
        shift: float = 10 / 59,
        view_seed: int = 0,
        colour_weight: float | None = None,
        optimizer: Literal["adamw", "adam", "sgd"] = "sgd",
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        schedule: ScheduleName = "constant",
        **kwargs: Any,
    ) -> None:
        given = {
            "entropy_weight": entropy_weight,
            "entropy_start": entropy_start,
            "entropy_ramp": entropy_ramp,
            "entropy_boundaries": entropy_boundaries,
            "consistency_weight": consistency_weight,
            "consistency_start": consistency_start,
            "trace_weight": trace_weight,
            "consistency_feature": consistency_feature,
            "consistency_transform": consistency_transform,
            "consistency_axis": consistency_axis,
            "shift": shift,
            "view_seed": view_seed,
            "colour_weight": colour_weight,
        }
        options = stage_options(stage, loss_preset, given)
        check_options(options, walk=bool(kwargs.get("walk", True)))
        super().__init__(
            num_classes,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        self.options = options

    @property
    def train_inputs(self) -> frozenset[str]:
        """Superpixels, their graph and pseudo-labels, as far as stage and weights ask for them."""
        options, wanted = self.options, set(super().train_inputs)
        if options["entropy_boundaries"]:
            wanted.add("superpixel")
        if options["colour_weight"]:
            wanted |= {"superpixel", "superpixel_graph"}
        if self.hparams["stage"] == "retrain":
            wanted.add("pseudo_label")
        return frozenset(wanted)

    def setup(self, stage: str) -> None:
        """Silence a warning of Lightning that does not apply."""
        # no data module of ours has the hook below, so nothing is lost where Lightning fears it
        warnings.filterwarnings("ignore", message=r".*overridden `on_before_batch_transfer`.*")

    def on_before_batch_transfer(self, batch: SegBatch, dataloader_idx: int) -> SegBatch:
        """Count the superpixels while ids are on the host: on a device that would wait for it."""
        edges = batch.get("superpixel_edges")
        if edges is None or not self.options["colour_weight"]:
            return batch
        return cast("SegBatch", {**batch, _COUNT: _num_regions(edges)})

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy, certainty, consistency, smoothness, the regularisers."""
        if self.hparams["stage"] == "retrain":
            batch = cast("SegBatch", {**batch, "scribble": batch["pseudo_label"]})
        labels = batch["scribble"]
        found = self.walk_through(batch["image"])
        output = SegOutput(self.network.classify(found.walked), found.walked)
        logits = self.upsample_logits(output.logits, (labels.shape[1], labels.shape[2]))
        terms = {"pce": (1.0, self.partial_cross_entropy(logits, labels))}
        terms |= self.certainty_terms(batch, logits)
        terms |= self.consistency_terms(batch["image"], found, batch_idx)
        terms |= self.unsupervised_terms(batch, output, logits)
        if self.measurement is not None:
            self.log("train/gate", self.measurement.gamma.detach().squeeze())
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(labels))

    def certainty_terms(self, batch: SegBatch, logits: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Entropy, and smoothness over superpixels: name to (weight now, scalar).

        Args:
            batch: With ``superpixel`` and its graph, as far as the options ask for them.
            logits: At the size of the labels, shape ``(B, C, H, W)``.
        """
        options, terms = self.options, {}
        ramp = ramp_factor(
            self.training_progress(), start=options["entropy_start"], length=options["entropy_ramp"]
        )
        if options["entropy_weight"] and ramp:
            mask = batch["valid"]
            if options["entropy_boundaries"]:
                mask = certainty_weight(batch["superpixel"], mask)
            loss = entropy_loss(logits, mask=mask, eps=0, across_ranks=True)
            terms["entropy"] = (options["entropy_weight"] * ramp, loss)
        if options["colour_weight"]:
            terms["colour"] = (options["colour_weight"], _colour_loss(batch, logits))
        return terms

    def consistency_terms(
        self, image: Tensor, found: WalkOutput, batch_idx: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Agreement of the image with a view of it, a constant: name to (weight, scalar).

        Args:
            image: Network input, shape ``(B, K, H, W)``.
            found: What the network made of it.
            batch_idx: Position of the batch, which the view depends on.
        """
        options = self.options
        if (
            not options["consistency_weight"]
            or self.training_progress() < options["consistency_start"]
        ):
            return {}
        size = (image.shape[2], image.shape[3])
        fine = self.lattice(found.plain, size)
        coarse = Lattice(fine.stride * found.shrink, fine.overlap)
        view = random_view(
            options["consistency_transform"],
            size,
            coarse,
            shift=options["shift"],
            generator=self._generator(batch_idx),
        )
        if options["consistency_feature"] == "P":
            loss = self._walk_consistency(image, found, view, coarse)
        else:
            with torch.no_grad():
                seen = self.walk_through(view.apply(image), shrink=found.shrink)
            walked = options["consistency_feature"] == "z"
            own, other = (m.walked if walked else m.plain for m in (found, seen))
            loss = feature_consistency_loss(
                view.crop_reference(own, fine), view.align_view(other, fine), across_ranks=True
            )
        return {"consistency": (options["consistency_weight"], loss)}

    def _walk_consistency(
        self, image: Tensor, found: WalkOutput, view: GeometricView, lattice: Lattice
    ) -> Tensor:
        if self.measurement is None:  # refused by the constructor
            raise RuntimeError("there is no walk")
        with torch.no_grad():
            # the transition matrix of the view needs neither its walk nor its classes
            plain = self.network.decoder(self.network.encode(view.apply(image)))
            seen = self.measurement.factors(plain, found.shrink)
        terms = eigenspace_consistency(
            *(view.crop_reference(m, lattice) for m in found.factors),
            *(view.align_view(m, lattice) for m in seen),
            axis=self.options["consistency_axis"],
            chunk_size=self.hparams["chunk_size"],
            across_ranks=True,
        )
        values = {"kl": terms.kl, "trace_gap": terms.trace_gap, "trace": terms.trace}
        self.log_dict(
            {f"train/consistency_{name}": value.detach() for name, value in values.items()},
            batch_size=len(image),
        )
        return terms.loss(self.options["trace_weight"])

    def _generator(self, batch_idx: int) -> torch.Generator:
        """Source of the view of a batch: the same on all ranks, and in a resumed run."""
        words = [self.options["view_seed"], self.global_step, batch_idx]
        seed = np.random.SeedSequence(words).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))


def _num_regions(edges: Tensor) -> int:
    """Bound of the ids that have an edge; others do not matter."""
    return int(edges.max()) + 1 if len(edges) else 1


def _colour_loss(batch: SegBatch, logits: Tensor) -> Tensor:
    """Smoothness of the mean probabilities of adjacent superpixels, mean over all ranks' images."""
    edges, regions = batch["superpixel_edges"], batch["superpixel"]
    known: Any = batch.get(_COUNT)
    count = _num_regions(edges) if known is None else int(known)
    loss = graph_smoothness(
        region_means(full_precision(logits).softmax(dim=1), regions, count),
        edges,
        batch["superpixel_weights"],
        batch["superpixel_image"],
        present=region_sizes(regions, count),
    )
    images = loss.new_full((), len(logits))
    return weighted_mean(loss * images, images, across_ranks=True)
