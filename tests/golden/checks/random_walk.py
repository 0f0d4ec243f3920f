"""Checks of affinities, random walks and the random walker against golden vectors."""

from __future__ import annotations

from itertools import count, groupby

import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import (
    cam_background_score,
    class_labels_from_scribble,
    normalize_class_scores,
    one_hot_labels,
    path_offsets,
    random_walker,
    sparse_random_walk,
)
from scribbleseg.methods import (
    SimilarityMeasurement,
    affinity_targets,
    dense_random_walk,
    embedding_affinity,
    pair_indices,
)


@check("losses_pairwise", "random_walker")
def check_random_walker(v: Vectors) -> None:
    seeds = v.labels("seeds").numpy()
    drawn = seeds[seeds != 255]
    probabilities = random_walker(
        v.tensor("image").numpy(), seeds, num_classes=int(drawn.max()) + 1, beta=v.scalar("beta")
    )
    v.compare("probs", probabilities)


@check("irn", "path_index")
def check_path_index(v: Vectors) -> None:
    for radius in (3, 5, 10):
        paths = path_offsets(radius)
        cells = [cell for path in paths for cell in path]
        v.compare(f"r{radius}_search_dst", [path[0] for path in paths], rtol=0, atol=0)
        v.compare(f"r{radius}_path_len", [len(path) for path in paths], rtol=0, atol=0)
        v.compare(f"r{radius}_path_coords", cells, rtol=0, atol=0)
    height, width = (int(n) for n in v.param("size"))
    radius = int(v.scalar("radius"))
    source, partner = pair_indices((height, width), radius=radius)
    v.compare("src_indices", source, rtol=0, atol=0)
    v.compare("dst_indices", partner, rtol=0, atol=0)
    by_length = groupby(path_offsets(radius), key=len)
    for number, (_, group) in enumerate(by_length):
        steps = torch.tensor([[y * width + x for y, x in path] for path in group])
        v.compare(f"group{number}_indices", source + steps[:, :, None], rtol=0, atol=0)


@check("irn", "aff_label")
def check_affinity_targets(v: Vectors) -> None:
    background, foreground, different = affinity_targets(
        v.labels("label"),
        radius=int(v.scalar("radius")),
        num_classes=int(v.scalar("num_classes_with_bg")),
    )
    v.compare("bg_pos", background.float(), rtol=0, atol=0)
    v.compare("fg_pos", foreground.float(), rtol=0, atol=0)
    v.compare("neg", different.float(), rtol=0, atol=0)


@check("irn", "random_walk")
def check_sparse_random_walk(v: Vectors) -> None:
    for case in count():
        try:
            radius, beta, exponent = (int(n) for n in v.param(f"case{case}_radius_beta_exp"))
        except KeyError:
            break
        x, boundary = v.tensor(f"case{case}_x"), v.tensor(f"case{case}_edge")[0]
        for steps, name in ((1, "rw_one_step"), (2**exponent, "rw")):
            walked = sparse_random_walk(x, boundary, radius=radius, beta=beta, num_steps=steps)
            v.compare(f"case{case}_{name}", walked, rtol=0, atol=1e-4)


@check("ptrecl", "scribble")
def check_scribble_walk(v: Vectors) -> None:
    scribble, foreground = v.labels("scribble"), int(v.scalar("num_classes"))
    present = class_labels_from_scribble(scribble, foreground + 1)[:, 1:]
    v.compare("image_label", present, rtol=0, atol=0)

    # majority of the drawn pixels of each 4×4 block, the lower id if equal
    height, width = scribble.shape[1:]
    padded = F.pad(scribble, (0, -width % 4, 0, -height % 4), value=255)
    votes = F.avg_pool2d(one_hot_labels(padded, foreground + 1).permute(0, 3, 1, 2).float(), 4)
    small = torch.where(votes.amax(1) > 0, votes.argmax(1), 255)
    v.compare("scribble_stride4", small, rtol=0, atol=0)

    classes = torch.nonzero(present[0])[:, 0] + 1
    known = (small[0] == classes[:, None, None]).float()
    radius, beta, steps = (int(n) for n in v.param("radius_beta_steps"))
    walked = sparse_random_walk(
        v.tensor("cam0"),
        v.tensor("edge0"),
        radius=radius,
        beta=beta,
        num_steps=steps,
        clamp=(small[0] != 255, known),
    )
    v.compare("clamped_walk0", walked, atol=1e-5)


@check("spml_propagation", "random_walk")
def check_dense_random_walk(v: Vectors) -> None:
    def views(name: str) -> torch.Tensor:
        both = torch.cat([v.tensor(name), v.tensor(f"{name}_flipped").flip(3)])
        size = [n // 8 for n in both.shape[2:]]
        return F.interpolate(both, size=size, mode="bilinear", align_corners=False)

    affinity = embedding_affinity(
        views("embedding"), beta=v.scalar("affinity_beta"), power=v.scalar("affinity_power")
    )
    v.compare("affinity_power_matrix", affinity)
    score = views("logit").softmax(1).mean(0)
    score = normalize_class_scores(score, v.labels("image_tags"))
    v.compare("score_before", score)
    steps = 2 ** int(v.scalar("power_of_two_steps"))
    v.compare("score_after", dense_random_walk(score, affinity, num_steps=steps))


@check("spml_propagation", "retrieval_pseudo_label")
def check_retrieval_scores(v: Vectors) -> None:
    score = normalize_class_scores(
        v.tensor("vote_fraction"), v.labels("image_tags"), floor=0.15, absent="keep"
    )
    v.compare("normalised_score", score)


@check("spml_propagation", "cam_background")
def check_cam_background(v: Vectors) -> None:
    foreground = v.tensor("cam")[1:]
    background = cam_background_score(foreground, alpha=v.scalar("alpha"))
    v.compare("score", torch.cat([background, foreground]))


def check_similarity(v: Vectors) -> None:
    x = v.tensor("x", grad=True)
    reduction = x.shape[1] // v.param("query_weight").shape[0]
    block = SimilarityMeasurement(
        x.shape[1], reduction=reduction, shrink_factor=int(v.scalar("shrink_factor")), chunk_size=8
    )
    layers = ("query", "key", "value")
    state = {f"{n}.{part}": v.param(f"{n}_{part}") for n in layers for part in ("weight", "bias")}
    state["gamma"] = v.param("gamma")
    block.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    out = block(x)
    energy = out.energy()
    v.compare("energy", energy)
    v.compare("transition", energy.softmax(dim=2))
    v.compare("y", out.features)
    ((out.features * v.tensor("cot_y")).sum() + (energy * v.tensor("cot_energy")).sum()).backward()
    v.compare("grad_x", x.grad, atol=1e-5)
    v.compare("grad_gamma", block.gamma.grad, atol=1e-5)
    for name in layers:
        v.compare(f"grad_{name}_weight", getattr(block, name).weight.grad, atol=1e-5)


check("cc4s", "smm")(check_similarity)
check("cc4s", "smm_shrink2")(check_similarity)
