"""Spherical k-means of large feature sets and of the pixels of images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ops_cases import Setup, Way, case, why_missing
from ops_cases.inputs import rng
from scribbleseg.functional import spherical_kmeans
from scribbleseg.methods import grid_clusters, image_kmeans, join_local_features, location_features


def objective(x: torch.Tensor, found: tuple) -> float:
    """Mean similarity of the rows to their centroids; which optimum is found hangs on rounding."""
    centroids, nearest = (torch.as_tensor(part).to(x.device) for part in found)
    return (F.normalize(x, dim=1) * centroids[nearest]).sum(1).mean().item()


def lloyd(x: torch.Tensor, k: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two alternating steps, from random rows."""
    unit = F.normalize(x, dim=1)
    chosen = torch.randperm(len(x), generator=rng())[:k]
    centroids = unit[chosen.to(x.device)]
    for _ in range(iterations):
        nearest = (unit @ centroids.T).argmax(1)
        centroids = torch.zeros_like(centroids).index_add_(0, nearest, unit)
        centroids = F.normalize(centroids, dim=1)
    return centroids, (unit @ centroids.T).argmax(1)


@case(
    "spherical_kmeans",
    "k-means of directions, with the nearest centroid of each row",
    full={"rows": 20_000, "channels": 2048, "clusters": 20, "iterations": 25},
    quick={"rows": 200, "channels": 16, "clusters": 3},
)
def large(setup: Setup, *, rows: int, channels: int, clusters: int, iterations: int) -> list[Way]:
    x = torch.randn(rows, channels, generator=rng()).relu_().to(setup.device)
    host = x.cpu().numpy()

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return spherical_kmeans(x, clusters, iters=iterations)

    def with_faiss() -> tuple[np.ndarray, np.ndarray]:
        import faiss

        unit = host.copy()
        faiss.normalize_L2(unit)
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": rows}
        kmeans = faiss.Kmeans(
            channels, clusters, niter=iterations, spherical=True, seed=0, **limits
        )
        kmeans.train(unit)
        return kmeans.centroids, kmeans.assign(unit)[1]

    def with_sklearn() -> None:
        from sklearn.cluster import KMeans

        unit = host / np.linalg.norm(host, axis=1, keepdims=True).clip(1e-12)
        KMeans(clusters, init="random", n_init=1, max_iter=iterations, tol=0).fit(unit)

    def loop() -> tuple[torch.Tensor, torch.Tensor]:
        return lloyd(x, clusters, iterations)

    def scored(run):
        return lambda: objective(x, run())

    faiss_missing = why_missing("faiss")
    sklearn_missing = why_missing("sklearn", "scikit-learn")
    host_faiss = {"missing": faiss_missing, "on_host": True}
    return [
        Way("ours", "spherical_kmeans", ours, outcome=scored(ours), **host_faiss),
        Way("peer", "faiss", with_faiss, outcome=scored(with_faiss), **host_faiss),
        Way("peer", "scikit-learn KMeans", with_sklearn, missing=sklearn_missing, on_host=True),
        Way("naive", "both steps in torch", loop, outcome=scored(loop)),
    ]


def looped_kmeans(features: torch.Tensor, init: torch.Tensor, iterations: int) -> torch.Tensor:
    """Image by image and cluster by cluster."""
    result = []
    for maps in features:
        rows, labels = maps.flatten(1).T, init.flatten()
        for _ in range(iterations):
            similarities = [
                rows @ F.normalize(rows[labels == k].sum(0), dim=0)
                if (labels == k).any()
                else rows.new_full((len(rows),), -torch.inf)
                for k in range(int(init.max()) + 1)
            ]
            labels = torch.stack(similarities).argmax(0)
        result.append(labels.view(init.shape))
    return torch.stack(result)


@case(
    "image_kmeans",
    "k-means of the pixels of each image, 10 iterations",
    full={"batch": 4, "channels": 64, "side": 64, "grid": 6},
    quick={"batch": 2, "channels": 3, "side": 12, "grid": 2},
)
def pixels(setup: Setup, *, batch: int, channels: int, side: int, grid: int) -> list[Way]:
    embedding = torch.randn(batch, channels, side // 4, side // 4, generator=rng())
    embedding = F.interpolate(embedding, (side, side), mode="bicubic")
    features = join_local_features(embedding, location_features((side, side))).to(setup.device)
    init = grid_clusters((side, side), (grid, grid)).to(setup.device)
    return [
        Way(
            "ours",
            "image_kmeans",
            lambda: image_kmeans(features, init, num_clusters=grid**2, iterations=10),
        ),
        Way("naive", "loop over images and clusters", lambda: looped_kmeans(features, init, 10)),
    ]
