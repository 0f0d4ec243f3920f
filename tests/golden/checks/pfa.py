"""Checks of the feature augmenter and of whole PFA steps against golden vectors."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from golden.registry import check
from golden.vectors import Vectors
from torch import nn

from scribbleseg import SegBatch, SegOutput
from scribbleseg.methods import TERMS, PFAModule, PrototypeFeatureAugmentation, confident_prototypes
from scribbleseg.nn import PrototypeBank, SegNetwork

LAYERS = ("prototype_fc", "feature_fc", "fc3", "fc4")


def load_augmenter(augmenter: PrototypeFeatureAugmentation, v: Vectors, prefix: str = "") -> None:
    with torch.no_grad():
        for name, parameter in augmenter.named_parameters():
            parameter.copy_(torch.from_numpy(v.param(prefix + name)))


def check_augmentation(v: Vectors, *, shared: bool) -> None:
    features, prototypes = v.tensor("features", grad=True), v.tensor("prototypes")
    present = v.labels("class_labels") > 0
    augmenter = PrototypeFeatureAugmentation(features.shape[1], len(v.param("prototype_fc.bias")))
    load_augmenter(augmenter, v)
    if shared:
        mask = present.repeat_interleave(prototypes.shape[1], dim=1)
        out = augmenter(features, prototypes.flatten(0, 1)[None], mask)
    else:
        out = augmenter(features, prototypes, present)
    v.compare("features", out, atol=1e-5)
    (out * v.tensor("cotangent")).sum().backward()
    v.compare("grad_features", features.grad, rtol=1e-3, atol=1e-5)
    for name, parameter in augmenter.named_parameters():
        v.compare(f"grad_{name}", parameter.grad, rtol=1e-3, atol=1e-3)


@check("pfa_augmentation", "local_augmentation")
def check_local_augmentation(v: Vectors) -> None:
    check_augmentation(v, shared=False)


@check("pfa_augmentation", "global_augmentation")
def check_global_augmentation(v: Vectors) -> None:
    check_augmentation(v, shared=True)


def decoder_of(v: Vectors, prefix: str = "") -> tuple[nn.Module, nn.Conv2d, dict[str, str]]:
    """smp's decoder and classifier with the given weights, and their names in the vectors."""
    channels = [v.tensor(f"c{level}").shape[1] for level in (1, 2, 3, 4)]
    dim, classes = (
        len(v.param(f"{prefix}linear_fuse.bn.weight")),
        len(v.param(f"{prefix}linear_pred.bias")),
    )
    decoder = smp.decoders.segformer.decoder.SegformerDecoder([3, 0, *channels], 5, dim)
    classifier = nn.Conv2d(dim, classes, 1)
    names = {"classifier.weight": "linear_pred.weight", "classifier.bias": "linear_pred.bias"}
    for stage, level in enumerate((4, 3, 2, 1)):
        for kind in ("weight", "bias"):
            names[f"mlp_stage.{stage}.linear.{kind}"] = f"linear_c{level}.proj.{kind}"
    names["fuse_stage.0.weight"] = "linear_fuse.conv.weight"
    for kind in ("weight", "bias", "running_mean", "running_var"):
        names[f"fuse_stage.1.{kind}"] = f"linear_fuse.bn.{kind}"
    own = {**decoder.state_dict(), "classifier.weight": classifier.weight.detach()}
    own["classifier.bias"] = classifier.bias.detach()
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(torch.from_numpy(v.param(prefix + theirs)).view_as(own[ours]))
    return decoder.eval(), classifier, names


def levels(v: Vectors) -> list[torch.Tensor]:
    """Encoder outputs from input size on; the first two are not looked at."""
    coarse = [v.tensor(f"c{level}", grad=True) for level in (1, 2, 3, 4)]
    batch, _, rows, columns = coarse[0].shape
    return [
        torch.zeros(batch, 3, 4 * rows, 4 * columns),
        torch.zeros(batch, 0, 2 * rows, 2 * columns),
        *coarse,
    ]


@check("pfa_train_step", "decoder")
def check_decoder(v: Vectors) -> None:
    decoder, classifier, _ = decoder_of(v)
    features = decoder(levels(v))
    v.compare("features", features, atol=1e-5)
    v.compare("logits", classifier(features), atol=1e-5)


class Given(nn.Module):
    """An encoder whose outputs are given."""

    def __init__(self, outputs: list[torch.Tensor]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.outputs


@check("pfa_train_step", "train_step")
def check_train_step(v: Vectors) -> None:
    for phase in ("warmup", "local", "global"):
        decoder, classifier, names = decoder_of(v, "decoder.")
        full = v.tensor("bank_full")
        classes, slots, dim = full.shape
        module = PFAModule(
            classes,
            encoder="tu-test_resnet.r160_in1k",
            encoder_weights=None,
            loss_preset="reference",
            warmup=0.5,
            num_prototypes=slots,
        )
        outputs = levels(v)
        upsampling = nn.UpsamplingBilinear2d(scale_factor=4)
        module.network = SegNetwork(
            Given(outputs), decoder, classifier, upsampling, divisor=1, channels_last=False
        )
        module.augmenter = PrototypeFeatureAugmentation(dim)
        load_augmenter(module.augmenter, v, "feature_aug.")
        module.bank = PrototypeBank(classes, k=slots, dim=dim, rate=v.scalar("momentum"))
        if phase == "global":
            module.bank.prototypes.copy_(full)
            module.bank.filled.fill_(True)
        module.eval()
        module.log = module.log_dict = lambda *_, **__: None
        module.training_progress = lambda phase=phase: float(phase != "warmup")
        module.seen_classes.fill_(True)  # the published code waits for all classes
        before = module.bank.state_dict()
        before = {name: value.clone() for name, value in before.items()}
        batch = batch_of(v)
        loss = module.training_step(batch, 0)
        v.compare(f"{phase}_loss", loss)
        loss.backward()
        module.on_before_optimizer_step(None)
        compare_gradients(v, module, phase, outputs[2:], names)
        v.compare(f"{phase}_bank", module.bank.prototypes, atol=1e-5)
        v.compare(f"{phase}_count", module.bank.count, rtol=0, atol=0)
        module.bank.load_state_dict(before)
        compare_terms(v, module, phase, batch)


def batch_of(v: Vectors) -> SegBatch:
    scribble = v.labels("target")
    size = tuple(scribble.shape[1:])
    return {
        "image": torch.zeros(len(scribble), 3, *size),
        "scribble": scribble,
        "valid": torch.ones(scribble.shape, dtype=torch.bool),
        "class_labels": v.tensor("class_labels"),
    }


def compare_terms(v: Vectors, module: PFAModule, phase: str, batch: SegBatch) -> None:
    """The terms of the loss, and those that the published code computes without using them."""
    heads = {"warmup": [], "local": ["local"], "global": ["local", "global"]}[phase]
    found = module.plain_prediction(batch["image"])
    output, present = SegOutput(found.logits, found.features), batch["class_labels"]
    prototypes = None
    if phase != "warmup":
        prototypes = confident_prototypes(output.features, output.logits, present)
        module.bank.update(prototypes.prototypes, prototypes.valid)
    inputs = (output, batch["scribble"], present, prototypes, phase)
    with torch.no_grad():
        terms = module.phase_terms(*inputs)
        table, module.weights = module.weights, {phase: dict.fromkeys(TERMS, 1.0)}
        complete = module.phase_terms(*inputs)
        module.weights = table
    if phase == "warmup":
        weights = {"pce": v.scalar("w_plain")}
    else:
        used = [f"pce_{phase}", *(f"con_{head}" for head in heads)]
        weights = {name: v.scalar(f"{phase}_w_{name}") for name in used}
    assert {name: weight for name, (weight, _) in terms.items()} == pytest.approx(weights)
    v.compare(f"{phase}_pce_plain", complete["pce"][1])
    for head in heads:
        v.compare(f"{phase}_pce_{head}", complete[f"pce_{head}"][1])
        v.compare(f"{phase}_con_{head}", complete[f"con_{head}"][1])


def compare_gradients(
    v: Vectors, module: PFAModule, phase: str, coarse: list[torch.Tensor], names: dict[str, str]
) -> None:
    for level, tensor in enumerate(coarse, start=1):
        v.compare(f"{phase}_grad_c{level}", tensor.grad, rtol=1e-3, atol=1e-5)
    parameters = dict(module.network.decoder.named_parameters())
    parameters |= {f"classifier.{n}": p for n, p in module.network.classifier.named_parameters()}
    for ours, parameter in parameters.items():
        name = f"{phase}_grad_decoder.{names[ours]}"
        v.compare(name, parameter.grad, rtol=1e-3, atol=1e-5)
    for name, parameter in module.augmenter.named_parameters():
        if phase == "warmup":
            assert parameter.grad is None
        else:
            key = f"{phase}_grad_feature_aug.{name}"
            v.compare(key, parameter.grad, rtol=1e-3, atol=1e-3)
