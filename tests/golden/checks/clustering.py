"""Checks of k-means, segments and sampling against golden vectors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import (
    bottom_k_per_set,
    lloyd_accumulate,
    sample_keys,
    sortable_keys,
    spherical_kmeans,
)
from scribbleseg.methods import (
    color_features,
    grid_clusters,
    image_kmeans,
    join_local_features,
    location_features,
    segment_index,
    segment_prototypes,
)

IGNORE = 255


def pair(v: Vectors, name: str) -> tuple[int, int]:
    first, second = (int(n) for n in v.param(name))
    return first, second


def pixels(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Rows of the valid pixels of ``(B, D, h, w)`` in raster order."""
    return x.permute(0, 2, 3, 1)[valid]


@check("ptrecl", "spherical_kmeans")
def check_spherical_kmeans(v: Vectors) -> None:
    x, iters = v.tensor("x"), int(v.scalar("niter"))
    init = x[v.labels("init_index")]
    first = F.normalize(init, dim=1)
    step = lloyd_accumulate(x, first)
    v.compare("counts_first", step.counts, rtol=0, atol=0)
    v.compare("assign_first", (F.normalize(x, dim=1) @ first.T).argmax(1), rtol=0, atol=0)
    v.compare("centroids_first", F.normalize(step.sums, dim=1), atol=1e-5)
    once, _ = spherical_kmeans(x, len(init), iters=1, init=init)
    v.compare("centroids_first", once, atol=1e-5)
    # the streamed steps, over an uneven split
    centroids, objective = first, []
    for _ in range(iters):
        parts = [lloyd_accumulate(p, centroids) for p in x.split(len(x) // 3 + 1)]
        objective.append(sum(p.objective for p in parts).item())
        centroids = F.normalize(sum(p.sums for p in parts), dim=1)
    v.compare("objective", np.array(objective))
    v.compare("centroids", centroids, atol=1e-5)
    found, nearest = spherical_kmeans(x, len(init), iters=iters, init=init)
    v.compare("centroids", found, atol=1e-5)
    assert torch.equal(nearest, (F.normalize(x, dim=1) @ found.T).argmax(1))


@check("ptrecl", "bottom_k_sampling")
def check_bottom_k(v: Vectors) -> None:
    keys = sample_keys(v.labels("image_uid"), v.labels("cell"), seed=int(v.scalar("seed")))
    unsigned = keys.numpy().view(np.uint64)
    v.compare("key", unsigned.astype(np.float64), rtol=0, atol=0)
    expected = v._arrays["out/key"]
    assert np.array_equal(unsigned, expected), "float64 cannot tell all 64-bit keys apart"
    rows = torch.arange(len(keys))
    kept = bottom_k_per_set(0 * rows, sortable_keys(keys), rows, int(v.scalar("k")))
    v.compare("selected", kept.sort().values, rtol=0, atol=0)


@check("spml_contrastive", "grid_init")
def check_grid(v: Vectors) -> None:
    size = pair(v, "size")
    v.compare("labels", grid_clusters(size, pair(v, "num_clusters")), rtol=0, atol=0)
    v.compare("location", location_features(size).permute(1, 2, 0))


def spml_clusters(v: Vectors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    embedding, labels = v.tensor("embedding"), v.labels("semantic_label")
    valid = labels != IGNORE
    located = join_local_features(embedding, location_features(embedding.shape[2:]))
    grid = grid_clusters(embedding.shape[2:], pair(v, "num_clusters"))
    clusters = image_kmeans(located, grid, iterations=int(v.scalar("iterations")), valid=valid)
    return embedding, located, valid, clusters


@check("spml_contrastive", "spherical_kmeans")
def check_image_kmeans(v: Vectors) -> None:
    embedding, located, valid, clusters = spml_clusters(v)
    labels, regions = v.labels("semantic_label"), v.labels("instance_label")
    v.compare("image0_raw_cluster_label", clusters[0][valid[0]], rtol=0, atol=0)
    v.compare("pixel_embedding", pixels(F.normalize(embedding, dim=1), valid))
    v.compare("pixel_embedding_loc", pixels(located, valid))
    segments = segment_index(clusters, labels, regions)
    own = segments.pixel_segment
    v.compare("pixel_segment_index", own, rtol=0, atol=0)
    v.compare("pixel_semantic_label", segments.label[own], rtol=0, atol=0)
    v.compare("pixel_instance_label", segments.region[own], rtol=0, atol=0)
    v.compare("pixel_batch_index", segments.image[own], rtol=0, atol=0)


@check("spml_contrastive", "segment_prototypes")
def check_segment_prototypes(v: Vectors) -> None:
    source = v.other("spherical_kmeans")  # this component has no inputs of its own
    embedding, located, valid, clusters = spml_clusters(source)
    segments = segment_index(
        clusters, source.labels("semantic_label"), source.labels("instance_label")
    )
    own, count = segments.pixel_segment, len(segments.label)
    unit = pixels(F.normalize(embedding, dim=1), valid)
    v.compare("prototype", segment_prototypes(unit, own, count))
    v.compare("prototype_loc", segment_prototypes(pixels(located, valid), own, count))
    v.compare("prototype_semantic_label", segments.label, rtol=0, atol=0)
    v.compare("prototype_instance_label", segments.region, rtol=0, atol=0)
    v.compare("prototype_batch_index", segments.image, rtol=0, atol=0)
    v.compare("pixel_segment_index", own, rtol=0, atol=0)


@check("spml_feature_affinity", "local_features")
def check_local_features(v: Vectors) -> None:
    image, size = v.tensor("image"), pair(v, "size")
    location = location_features(size).expand(len(image), -1, -1, -1)
    v.compare("location_only", location.permute(0, 2, 3, 1))
    both = torch.cat([location, color_features(image, size)], 1)
    v.compare("location_color", both.permute(0, 2, 3, 1), atol=1e-5)
