"""Checks of IRN against golden vectors: labels, losses, heads, walks, centroids, optimiser."""

from __future__ import annotations

from itertools import count

import torch
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import (
    boundary_to_affinity,
    confident_labels,
    schedule_factor,
    sparse_random_walk,
    synthesize_mask,
)
from scribbleseg.methods import (
    MeanShift,
    affinity_loss,
    boundary_of_flips,
    displacement_loss,
    pair_displacement,
    refine_centroids,
)


def by_class(maps: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of the present classes at their ids, which begin behind the background."""
    ids = keys + 1
    full = maps.new_zeros(int(ids.max()) + 2, *maps.shape[1:])
    present = torch.zeros(len(full))
    present[ids] = 1
    return full.index_copy(0, ids, maps), present


def images(v: Vectors, name: str):
    for number in count():
        try:
            v.labels(f"img{number}_{name}")
        except KeyError:
            return
        yield f"img{number}"


@check("irn", "ir_label")
def check_confident_labels(v: Vectors) -> None:
    for image in images(v, "keys"):
        maps, present = by_class(v.tensor(f"{image}_high_res"), v.labels(f"{image}_keys"))
        found = confident_labels(
            maps,
            present,
            foreground=v.scalar("conf_fg_thres"),
            background_score=v.scalar("conf_bg_thres"),
        )
        v.compare(f"{image}_label", found, rtol=0, atol=0)


@check("irn", "ir_label_merge")
def check_merge(v: Vectors) -> None:
    for image in images(v, "keys"):
        refined = iter([v.labels(f"{image}_fg_pred"), v.labels(f"{image}_bg_pred")])
        size = v.labels(f"{image}_fg_pred").shape
        keys = v.labels(f"{image}_keys")
        maps, present = by_class(torch.zeros(len(keys), *size), keys)
        found = confident_labels(maps, present, refine=lambda *_, maps=refined: next(maps))
        v.compare(f"{image}_label", found, rtol=0, atol=0)


def check_losses(v: Vectors) -> None:
    logits, field = v.tensor("edge_logits", grad=True), v.tensor("displacement", grad=True)
    radius = int(v.scalar("radius"))
    pairs = [v.labels(name).bool() for name in ("bg_pos", "fg_pos", "neg")]
    affinity = boundary_to_affinity(logits[:, 0].sigmoid(), radius=radius)
    v.compare("affinity", affinity)
    difference = pair_displacement(field, radius=radius)
    v.compare("pair_displacement", difference)
    terms = affinity_loss(affinity, *pairs)
    moved = displacement_loss(difference, pairs[0], pairs[1], radius=radius)
    v.compare("loss_aff_bg_pos", terms.background)
    v.compare("loss_aff_fg_pos", terms.foreground)
    v.compare("loss_aff_neg", terms.different)
    v.compare("loss_dp_fg", moved.foreground)
    v.compare("loss_dp_bg", moved.background)
    total = terms.loss() + moved.loss()
    v.compare("loss_total", total)
    total.backward()
    v.compare("grad_edge_logits", logits.grad, atol=1e-7)
    v.compare("grad_displacement", field.grad, atol=1e-7)


check("irn", "irn_loss")(check_losses)
check("irn", "irn_loss_bgonly")(check_losses)


@check("irn", "sem_seg")
def check_masks(v: Vectors) -> None:
    radius, beta, exponent = (int(n) for n in v.param("radius_beta_exp"))
    for image in images(v, "keys"):
        maps, present = by_class(v.tensor(f"{image}_cam"), v.labels(f"{image}_keys"))
        walked = sparse_random_walk(
            maps, v.tensor(f"{image}_edge")[0], radius=radius, beta=beta, num_steps=2**exponent
        )
        height, width = v.labels(f"{image}_size").tolist()
        found = synthesize_mask(walked, present, (height, width), threshold=v.scalar("bg_thres"))
        expected = torch.from_numpy(v._arrays[f"out/{image}_label"]).long()
        assert (found == expected).float().mean() >= 0.999
        v.compare(f"{image}_label", torch.where(found == expected, found, expected))


@check("irn", "edge_tta")
def check_flips(v: Vectors) -> None:
    stride = int(v.scalar("stride"))
    height, width = (-(-int(n) // stride) for n in v.param("image_size"))
    v.compare("edge", boundary_of_flips(v.tensor("edge_logits_padded"), (height, width)))
    v.compare("displacement", v.tensor("displacement_padded")[0, :, :height, :width])


@check("irn", "mean_shift")
def check_mean_shift(v: Vectors) -> None:
    names = sorted(key.removeprefix("in/") for key in v._arrays if key.startswith("in/batch"))
    batches, shift = [v.tensor(name) for name in names], MeanShift(2)
    assert torch.equal(shift.train()(batches[0]), batches[0])
    shift.set_mean([batch.mean(dim=(0, 2, 3)) for batch in batches])
    v.compare("running_mean", shift.running_mean)
    v.compare("batch0_shifted", shift.eval()(batches[0]))


@check("irn", "centroid_refine")
def check_centroids(v: Vectors) -> None:
    found = refine_centroids(v.tensor("displacement"), iterations=int(v.scalar("iterations")))
    v.compare("centroids", found, rtol=0, atol=0)


@check("irn", "poly_sgd")
def check_optimiser(v: Vectors) -> None:
    backbone_lr, head_lr, decay, steps = (float(n) for n in v.param("lr_backbone_head_wd_maxstep"))
    names, rates = ("backbone", "head"), (backbone_lr, head_lr)
    parameters = [torch.nn.Parameter(v.tensor(f"p_{name}")) for name in names]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=backbone_lr, momentum=1e-4, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: schedule_factor(step, int(steps), schedule="poly", power=0.9),
    )
    grads = [v.tensor(f"grad_{name}") for name in names]
    seen, used = [[], []], []
    for step in range(len(grads[0])):
        used.append([group["lr"] for group in optimizer.param_groups])
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad[step].clone()
        optimizer.step()
        scheduler.step()
        for history, parameter in zip(seen, parameters, strict=True):
            history.append(parameter.detach().clone())
    v.compare("lr", used, rtol=1e-5)
    for name, history in zip(names, seen, strict=True):
        v.compare(f"p_{name}", torch.stack(history), rtol=1e-5)
