"""What every method logs, learns and predicts, in every stage and form, from fixed seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import TINY_ENCODER, GuardedBatch, MethodContract
from helpers.digests import Digests
from helpers.method_facts import (
    SIZES,
    fill_prototype_pairs,
    fixed_facts,
    pattern,
    random_states,
    sample,
    settle,
    state_sums,
    steps,
    varied_batch,
)

from scribbleseg import InferenceConfig
from scribbleseg.methods import (
    CAMModule,
    CC4SModule,
    CDSPModule,
    DMPLSModule,
    IRNModule,
    MeanTeacherModule,
    PFAModule,
    ProbabilityBank,
    PtReClModule,
    RegularizedModule,
    Scribble2LabelModule,
    ScribbleSegModule,
    SegmentMemory,
    SPMLModule,
    transition_eigenvalues,
    transition_logits,
)
from scribbleseg.nn import REGULARIZERS, Arch, build_network, evaluation_mode

RTOL, ATOL = 1e-5, 1e-8  # in double precision


class Case(NamedTuple):
    """A method in one of its forms.

    Attributes:
        kind: Its class.
        options: Of the class, beside the tiny encoder.
        lr: Learning rate of the recorded steps.
        progress: Share of the training that is done at each of them.
    """

    kind: type[ScribbleSegModule]
    options: dict[str, Any]
    lr: float = 0.01
    progress: tuple[float, float, float] = (0.3, 0.6, 0.9)

    def build(self, **options: Any) -> Any:
        contract = MethodContract()
        contract.module_class = self.kind
        module = contract.build(**{**self.options, **options})
        measurement = getattr(module, "measurement", None)
        if measurement is not None:  # its gate starts closed
            measurement.gamma.data.fill_(0.5)
        return module


EARLY, MIDDLE = (0.05, 0.1, 0.14), (0.16, 0.3, 0.4)
PFA = {"arch": "unet", "freeze_encoder_norm": False, "confidence": "centred"}
LOCAL = {**PFA, "num_prototypes": 50}  # never full
GLOBAL = {**PFA, "num_prototypes": 1}  # full at once
CC4S = {"arch": "cc4s", "head_channels": 32, "chunk_size": 16}
RETRAIN = {"stage": "retrain", "arch": "fpn"}
SPML = {
    "arch": "unet",
    "embedding_dim": 16,
    "memory_capacity": 1000,
    "chunk_size": 100,
    "accuracy_every": 1,
    "affinity_weight": 0.5,
    "affinity_threshold": 0.5,
}
RELATIONS = ("annotation", "cooccurrence", "similarity", "affinity")
CDSP = {"arch": "unet", "lorm_chunk": 3}
PTRECL = {"arch": "unet", "num_prototypes": 3, "top_m": (1, 2)}

CASES: dict[str, Case] = {
    # ------------------------------------------------------------------ regularised
    "regularized": Case(RegularizedModule, {}),
    **{
        f"regularized, {name}": Case(RegularizedModule, {"regularizers": {name: 0.5}})
        for name in REGULARIZERS
    },
    "regularized, on the decoder's grid": Case(
        RegularizedModule,
        {
            "arch": "fpn",
            "regularizers": {
                "gated_crf": {"weight": 0.1, "resolution": "logits"},
                "entropy": {"weight": 0.2, "resolution": 0.5},
            },
        },
    ),
    "regularized, schedules": Case(
        RegularizedModule,
        {
            "regularizers": {
                "tree_energy": {"weight": 0.4, "start": 0.5},
                "entropy": {"weight": 0.2, "start": 0.2, "ramp": 0.5},
                "total_variation": {"weight": 0.2, "ramp": 0.8, "ramp_shape": "sigmoid"},
            }
        },
    ),
    "regularized, pseudo-labels": Case(RegularizedModule, {"pseudo_labels": True}),
    "regularized, dice": Case(RegularizedModule, {"dice_weight": 0.5}),
    "regularized, class weights and smoothing": Case(
        RegularizedModule, {"class_weight": [1.0, 2.0, 0.5, 4.0], "label_smoothing": 0.1}
    ),
    "regularized, images alike": Case(RegularizedModule, {"reduction": "image"}),
    "regularized, frozen norm": Case(RegularizedModule, {"freeze_batchnorm": "encoder"}),
    # ------------------------------------------------------------------ own pseudo-labels
    "dmpls": Case(DMPLSModule, {}),
    "dmpls, soft": Case(DMPLSModule, {"soft": True, "dropout": 0.2}),
    "dmpls, scribbles kept": Case(DMPLSModule, {"keep_scribbles": True}),
    "mean teacher": Case(MeanTeacherModule, {"samples": 2}),
    "mean teacher, binary": Case(
        MeanTeacherModule,
        {"samples": 1, "max_entropy": "binary", "consistency_ramp": 0.5, "decay": 0.6},
    ),
    "scribble2label, without a bank": Case(Scribble2LabelModule, {}),
    # ------------------------------------------------------------------ PFA
    "pfa, warm-up": Case(PFAModule, PFA, progress=EARLY),
    **{
        f"pfa, {phase}, {preset}": Case(
            PFAModule, {**options, "loss_preset": preset}, progress=MIDDLE
        )
        for phase, options in (("local", LOCAL), ("global", GLOBAL))
        for preset in ("joint", "reference", "paper")
    },
    "pfa, soft cross-entropy, detached": Case(
        PFAModule, {**GLOBAL, "consistency": "soft_ce", "detach_target": True}, progress=MIDDLE
    ),
    "pfa, clean features, classes of the crop": Case(
        PFAModule,
        {**GLOBAL, "prototype_features": "clean", "class_labels": "crop", "topk_ratio": 0.5},
        progress=MIDDLE,
    ),
    "pfa, logits as confidence": Case(
        PFAModule, {**GLOBAL, "confidence": "logit"}, progress=MIDDLE
    ),
    "pfa, as published": Case(
        PFAModule, {"arch": "segformer", "encoder": "mit_b0"}, progress=MIDDLE
    ),
    "pfa, one weight and an entropy": Case(
        PFAModule,
        {
            **GLOBAL,
            "loss_weights": {"global": {"con_global": 0.5}},
            "regularizers": {"entropy": 0.2},
        },
        progress=MIDDLE,
    ),
    # ------------------------------------------------------------------ CC4S
    "cc4s, certainty": Case(CC4SModule, {**CC4S, "stage": "certainty"}),
    "cc4s, certainty, inside superpixels": Case(
        CC4SModule, {**CC4S, "stage": "certainty", "entropy_boundaries": True}
    ),
    "cc4s, certainty, growing": Case(
        CC4SModule, {**CC4S, "stage": "certainty", "entropy_start": 0.4, "entropy_ramp": 0.4}
    ),
    "cc4s, certainty, no walk": Case(
        CC4SModule, {"arch": "unet", "stage": "certainty", "walk": False}
    ),
    **{
        f"cc4s, consistency, {preset}": Case(
            CC4SModule, {**CC4S, "stage": "consistency", "loss_preset": preset}, lr=0.002
        )
        for preset in ("library", "reference", "paper")
    },
    **{
        f"cc4s, consistency of {feature} under {transform}": Case(
            CC4SModule,
            {
                **CC4S,
                "stage": "consistency",
                "consistency_feature": feature,
                "consistency_transform": transform,
                "consistency_weight": 2.0,
            },
        )
        for feature, transform in (("x", "flip"), ("z", "translation"), ("P", "translation"))
    },
    "cc4s, consistency, shrunk grid": Case(
        CC4SModule,
        {**CC4S, "arch": "unet", "stage": "consistency", "max_cells": 60},
        lr=0.002,
    ),
    **{
        f"cc4s, retrain, {preset}": Case(
            CC4SModule, {**RETRAIN, "loss_preset": preset, "max_cells": 60}, lr=0.002
        )
        for preset in ("library", "reference", "paper")
    },
    # ------------------------------------------------------------------ SPML
    "spml, embedding": Case(SPMLModule, SPML),
    **{
        f"spml, embedding, {name} alone": Case(
            SPMLModule,
            {**SPML, **{f"{other}_weight": 0.0 for other in RELATIONS}, f"{name}_weight": 1.0},
        )
        for name in RELATIONS
    },
    "spml, embedding, no memory": Case(SPMLModule, {**SPML, "memory_batches": 0}),
    "spml, embedding, other choices": Case(
        SPMLModule,
        {
            **SPML,
            "tagless": "reference",
            "unknown": "skip",
            "positives": "own",
            "similarity_features": "embedding",
            "label_downsample": "any",
            "min_segment_pixels": 3,
            "affinity_k": 2,
            "head_weight": 2.0,
        },
    ),
    "spml, embedding, colours and pseudo-labels": Case(
        SPMLModule,
        {**SPML, "local_features": "position_color", "weak_labels": "pseudo_label"},
    ),
    "spml, embedding, aspp": Case(SPMLModule, {**SPML, "arch": "spml_aspp"}),
    "spml, embedding, psp": Case(
        SPMLModule, {**SPML, "arch": "spml_psp", "frozen_norm": True, "norm_momentum": 3e-4}
    ),
    "spml, classifier": Case(SPMLModule, {**SPML, "stage": "classifier"}),
    # ------------------------------------------------------------------ CDSP
    "cdsp": Case(CDSPModule, CDSP),
    "cdsp, reference quirks": Case(CDSPModule, {**CDSP, "reference_quirks": True}),
    "cdsp, foreground only": Case(CDSPModule, {**CDSP, "lorm_variant": "foreground_only"}),
    "cdsp, entropy by weight": Case(CDSPModule, {**CDSP, "entropy_normalization": "weight"}),
    "cdsp, entropy of all": Case(CDSPModule, {**CDSP, "entropy_normalization": "all"}),
    "cdsp, weights": Case(
        CDSPModule,
        {
            **CDSP,
            "pseudo_weight": 0.5,
            "lorm_weight": 2.0,
            "scribble_distance_weight": 3.0,
            "pseudo_distance_weight": 0.25,
            "pseudo_smoothing": 0.0,
            "lorm_temperature": 0.2,
        },
    ),
    "cdsp, scribbles alone": Case(
        CDSPModule,
        {
            "arch": "unet",
            **dict.fromkeys(("pseudo_weight", "lorm_weight"), 0.0),
            **dict.fromkeys(("scribble_distance_weight", "pseudo_distance_weight"), 0.0),
        },
    ),
    "cdsp, aspp_v2": Case(CDSPModule, {"arch": "aspp_v2"}),
    "cdsp, aspp_v3plus": Case(CDSPModule, {"arch": "aspp_v3plus"}),
    # ------------------------------------------------------------------ CAM, IRN, PtReCl
    "cam": Case(CAMModule, {}),
    "cam, depth 4, frozen stages": Case(
        CAMModule, {"encoder": "resnet18", "encoder_depth": 4, "frozen_stages": 2}
    ),
    "irn": Case(IRNModule, {"radius": 4}, lr=0.1),
    "irn, displacement": Case(IRNModule, {"radius": 4, "displacement": True}),
    "ptrecl, logit mask": Case(PtReClModule, PTRECL),
    "ptrecl, gate": Case(PtReClModule, {**PTRECL, "label_conditioning": "gate"}),
    "ptrecl, none": Case(PtReClModule, {**PTRECL, "label_conditioning": "none"}),
    "ptrecl, not balanced, smoothed": Case(
        PtReClModule, {"balance": False, "label_smoothing": 0.2, "feature_level": "decoder"}
    ),
}


def batches() -> list[GuardedBatch]:
    return [varied_batch(seed) for seed in range(3)]


def check_steps(digest: Digests, name: str, found: Iterator[dict[str, Any]], module: Any) -> None:
    facts = {f"step {number}": step for number, step in enumerate(found, start=1)}
    facts |= {"afterwards": state_sums(module), "random states": random_states()}
    digest.check(name, facts | fixed_facts(module), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("name", CASES)
def test_three_steps(name: str, digest: Digests) -> None:
    case = CASES[name]
    module = case.build()
    check_steps(digest, name, steps(module, batches(), lr=case.lr, progress=case.progress), module)


def test_three_steps_on_dense_labels(digest: Digests) -> None:
    module, given = CASES["regularized"].build(dice_weight=0.5), batches()
    for batch in given:
        batch["scribble"] = batch["pseudo_label"].masked_fill(batch["pseudo_label"] == 255, 0)
    check_steps(digest, "regularized, dense labels", steps(module, given), module)


@pytest.mark.parametrize("correct", [False, True])
def test_three_steps_with_a_bank(correct: bool, digest: Digests, tmp_path) -> None:
    """The bank is refreshed after every step with sharpened predictions of the same images."""
    module, batch = CASES["scribble2label, without a bank"].build(threshold=0.3), varied_batch(0)
    module.bank = ProbabilityBank(tmp_path, alpha=0.5, stride=2, bias_correction=correct)

    def refreshed() -> Iterator[dict[str, Any]]:
        for facts in steps(module, [batch] * 3):
            with evaluation_mode(module), torch.no_grad():
                probs = (4 * module(batch["image"].double())).softmax(1)
            for index, own in zip(batch["index"].tolist(), probs, strict=True):
                module.bank.write(index, own)
            module.bank.advance(tidy=True)
            yield facts

    check_steps(digest, f"scribble2label, bias corrected: {correct}", refreshed(), module)


# ------------------------------------------------------------------------- fixed images


def check_maps(
    digest: Digests, name: str, *, rtol: float = RTOL, atol: float = ATOL, **maps: torch.Tensor
) -> None:
    facts = {key: sample(value) for key, value in maps.items()}
    digest.check(name, facts, rtol=rtol, atol=atol)


def settled(kind: type[ScribbleSegModule], **options: Any) -> Any:
    """A module in evaluation mode whose statistics are not those of the start."""
    return settle(Case(kind, options).build())


def images() -> Iterator[tuple[str, torch.Tensor]]:
    for height, width in SIZES:
        yield f"{height}x{width}", pattern(height, width)


PREDICTORS: dict[str, tuple[type[ScribbleSegModule], dict[str, Any]]] = {
    "regularized": (RegularizedModule, {}),
    "dmpls": (DMPLSModule, {}),
    "mean teacher": (MeanTeacherModule, {}),
    "scribble2label": (Scribble2LabelModule, {}),
    "pfa": (PFAModule, PFA),
    "cc4s": (CC4SModule, CC4S),
    "cc4s, unet, small grid": (CC4SModule, {"arch": "unet", "max_cells": 50, "chunk_size": 7}),
    "spml": (SPMLModule, SPML),
    "spml, aspp": (SPMLModule, {**SPML, "arch": "spml_aspp"}),
    "spml, psp": (SPMLModule, {**SPML, "arch": "spml_psp"}),
    "spml, head at input resolution": (SPMLModule, {**SPML, "head_resolution": "input"}),
    "cdsp": (CDSPModule, {"arch": "aspp_v3plus"}),
    "cam": (CAMModule, {}),
    "cam, scales and flips": (
        CAMModule,
        {"inference": InferenceConfig(scales=(1.0, 0.5), flip=True), "tag_threshold": 0.3},
    ),
    "irn": (IRNModule, {}),
    "irn, flips": (IRNModule, {"inference": InferenceConfig(flip=True)}),
    "ptrecl": (PtReClModule, {"arch": "deeplab_v2"}),
    "ptrecl, gate": (PtReClModule, {**PTRECL, "label_conditioning": "gate"}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PREDICTORS)
def test_logits_of_fixed_images(name: str, digest: Digests) -> None:
    kind, options = PREDICTORS[name]
    module = settled(kind, **options)
    found = {size: module.predict_logits(image) for size, image in images()}
    check_maps(digest, f"logits of {name}", **found)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", Arch.__args__)
def test_logits_of_every_architecture(arch: str, size: tuple[int, int], digest: Digests) -> None:
    torch.manual_seed(0)
    network = build_network(arch, TINY_ENCODER, num_classes=4, encoder_weights=None)
    if arch == "pan":  # its pyramid needs four cells per side
        size = (2 * size[0], 2 * size[1])
    logits = settle(network)(pattern(*size))
    check_maps(digest, f"logits of the architecture {arch} at {size[0]}x{size[1]}", logits=logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("unet", {"in_channels": 1}),
        ("unet", {"in_channels": 5}),
        ("deeplabv3plus", {"output_stride": 8}),
        ("cam", {"output_stride": 8}),
        ("cam", {"encoder_depth": 4}),
        ("deeplab_v2", {"encoder_depth": 3}),
        ("aspp_v2", {"output_stride": 16}),
        ("aspp_v3plus", {"output_stride": 16}),
    ],
)
def test_logits_of_other_options(arch: str, options: dict[str, int], digest: Digests) -> None:
    torch.manual_seed(0)
    encoder = "resnet18" if "output_stride" in options else TINY_ENCODER
    network = build_network(arch, encoder, num_classes=4, encoder_weights=None, **options)
    output = settle(network).forward_features(pattern(65, 70, options.get("in_channels", 3)))
    (option,) = options.items()
    name = f"{arch} with {option[0]}={option[1]}"
    check_maps(digest, name, logits=output.logits, features=output.features)


@torch.no_grad()
def test_heads_of_pfa(digest: Digests) -> None:
    for confidence in ("logit", "centred"):
        module = settled(PFAModule, **{**PFA, "confidence": confidence, "num_prototypes": 3})
        module.hparams["min_pixels"] = 0
        bank, cells = module.bank, torch.arange(module.bank.prototypes.numel())
        bank.prototypes.copy_(((cells * 7 % 13).float() / 13).view_as(bank.prototypes))
        bank.filled.copy_(torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool())
        for head in ("none", "local", "global") if confidence == "centred" else ("local",):
            for classes in (None, torch.tensor([[1, 1, 0, 1]])):
                with module.using(head, classes):
                    found = {size: module.predict_logits(image) for size, image in images()}
                given = "all it finds" if classes is None else "given classes"
                check_maps(digest, f"pfa by {confidence}: head {head}, {given}", **found)


@torch.no_grad()
def test_the_teacher_follows(digest: Digests) -> None:
    module = settled(MeanTeacherModule, decay=0.6)
    for number, parameter in enumerate(module.network.parameters()):
        parameter.mul_(1 + 0.01 * (number % 5))
    for step in (1, 2, 3):
        module.teacher.update(module.network, step)
        found = {size: module.teacher(image) for size, image in images()}
        check_maps(digest, f"teacher after update {step}", **found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cc4s", "cc4s, unet, small grid"])
def test_walk_of_cc4s(name: str, digest: Digests) -> None:
    kind, options = PREDICTORS[name]
    module = settled(kind, **options)
    for size, image in images():
        found = module.walk_through(image)
        query, key = found.factors
        check_maps(
            digest,
            f"walk of {name} at {size}",
            plain=found.plain,
            walked=found.walked,
            query=query,
            key=key,
            matrix=transition_logits(query, key).softmax(dim=2),
            shrink=torch.tensor(float(found.shrink)),
            eigenvalues=transition_eigenvalues(module, image).abs().sort().values[-6:],
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder_depth": 4},
        {"inference": InferenceConfig(scales=(1.0, 0.5, 1.5), flip=True)},
    ],
    ids=["plain", "depth 4", "scales and flips"],
)
def test_class_maps(options: dict[str, Any], digest: Digests, request) -> None:
    module = settled(CAMModule, **options)
    for size, image in images():
        maps = module.class_maps(image)._asdict()
        check_maps(digest, f"class maps, {request.node.callspec.id} at {size}", **maps)


@torch.no_grad()
def test_boundaries_and_displacements(digest: Digests) -> None:
    module = settled(IRNModule, displacement=True)
    module.displacement.mean_shift.set_mean([torch.tensor([0.3, -0.2]).double()])
    for size, image in images():
        labels = (torch.arange(image.shape[3]) // 20 % 3).expand(image.shape[2], -1)
        check_maps(
            digest,
            f"boundaries at {size}",
            boundaries=module.boundaries(image),
            displacements=module.displacements(image),
            instances=module.instance_labels(image, labels),
        )


@torch.no_grad()
def test_retrieval_and_propagation_of_spml(digest: Digests) -> None:
    for features in ("position", "position_color"):
        options = {**SPML, "local_features": features, "retrieval_clusters": (4, 4), "top_k": 3}
        module = settled(SPMLModule, **options)
        rows = torch.arange(24)
        memory = ((rows[:, None] * 5 + torch.arange(16) * 11) % 17).float() / 17 - 0.5
        labels = torch.where(rows % 7 == 6, 255, rows % 4)
        for size, image in images():
            height, width = image.shape[2:]
            drawn = torch.full((1, height, width), 255)
            drawn[:, 8:12, 8:30], drawn[:, 40:44, 20:60] = 1, 2
            segments = module.segments_of(image)
            maps = {
                "prototypes": segments.prototypes,
                "segments": segments.ids,
                "embedding": F.normalize(module.embed(image), dim=1),
                "nearest labels": module.nearest_label_scores(image, drawn),
                "propagated": module.propagated_scores(
                    image, torch.tensor([1.0, 1, 0, 1]), steps=8
                ),
            }
            for without in (None, "b"):
                module.retriever = SegmentMemory(
                    F.normalize(memory, dim=1), labels, rows % 2, rows // 2, ["a", "b"]
                ).double()
                module.retriever.without = without
                maps[f"votes without {without}"] = module.predict_logits(image)
            module.retriever = None
            check_maps(digest, f"spml by {features} at {size}", **maps)


@torch.no_grad()
@pytest.mark.parametrize("vote", ["per_set", "joint_vote"])
@pytest.mark.parametrize("level", ["encoder", "decoder"])
def test_reclassified_maps(level: str, vote: str, digest: Digests) -> None:
    module = settled(
        PtReClModule,
        **{**PTRECL, "feature_level": level, "vote": vote},
        inference=InferenceConfig(scales=(1.0, 0.5), flip=True),
    ).float()  # as the prototypes are compared
    fill_prototype_pairs(module.prototypes)
    tags = torch.tensor([[1.0, 1, 0, 1]])
    for size, image in images():
        maps = module.reclassified_maps(image.float(), tags)
        labels = module.labels_of(maps.margin, tags)
        name = f"reclassified maps, {level}, {vote} at {size}"
        check_maps(digest, name, **maps._asdict(), labels=labels, rtol=1e-4, atol=1e-5)
