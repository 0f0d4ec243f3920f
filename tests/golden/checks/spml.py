"""Checks of SPML's relations, losses, retrieval and classifier against golden vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden.checks.clustering import IGNORE, pair, pixels, spml_clusters
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import partial_cross_entropy
from scribbleseg.methods import (
    EmbeddingClassifier,
    Segments,
    affinity_label_sets,
    annotation_sets,
    class_votes,
    grid_clusters,
    image_kmeans,
    image_similarity_loss,
    image_spans,
    join_local_features,
    location_features,
    nearest_segments,
    overlap_sets,
    retrieval_accuracy,
    segment_index,
    segment_prototypes,
    segsort_loss,
)

CHUNKS = (None, 1, 5, 1000)


def compare_gradients(v: Vectors, loss: torch.Tensor, **inputs: torch.Tensor) -> None:
    """Gradients by the name of their output."""
    for name, x in inputs.items():
        (found,) = torch.autograd.grad(loss, x, retain_graph=True)
        v.compare(name, found, rtol=1e-3, atol=1e-7)


@check("spml_contrastive", "segsort_plus_loss")
def check_segsort_plus(v: Vectors) -> None:
    own, labels = v.labels("pixel_segment_index"), v.labels("prototype_label")
    classes = int(labels.max()) + 1
    sets = annotation_sets(labels, classes)
    for chunk in CHUNKS:
        for mode, suffix in (("segsort+", ""), ("segsort", "_segsort_mode")):
            z, mu = v.tensor("pixel_embedding", grad=True), v.tensor("prototype", grad=True)
            options = {"concentration": v.scalar("concentration"), "mode": mode}
            options |= {"group": v.labels("pixel_label"), "chunk_size": chunk}
            each = segsort_loss(z, mu, own, *sets, reduction="none", **options)
            v.compare(f"per_pixel_loss{suffix}", each)
            mean = segsort_loss(z, mu, own, *sets, **options)
            if not suffix:
                v.compare("loss_mean", mean)
            names = {f"grad_pixel_embedding{suffix}": z, f"grad_prototype{suffix}": mu}
            compare_gradients(v, mean, **names)


@check("spml_contrastive", "set_segsort_loss")
def check_set_segsort(v: Vectors) -> None:
    sets = overlap_sets(
        v.labels("pixel_multihot"), v.labels("prototype_multihot"), empty="negative"
    )
    for chunk in CHUNKS:
        z, mu = v.tensor("pixel_embedding", grad=True), v.tensor("prototype", grad=True)
        options = {"concentration": v.scalar("concentration"), "chunk_size": chunk}
        own = v.labels("pixel_segment_index")
        v.compare("per_pixel_loss", segsort_loss(z, mu, own, *sets, reduction="none", **options))
        mean = segsort_loss(z, mu, own, *sets, **options)
        v.compare("loss_mean", mean)
        compare_gradients(v, mean, grad_pixel_embedding=z, grad_prototype=mu)


@check("spml_contrastive", "stability")
def check_stability(v: Vectors) -> None:
    labels = v.labels("prototype_label")
    sets = annotation_sets(labels, int(labels.max()) + 1)
    for kappa in v.param("concentrations"):
        z, mu = v.tensor("pixel_embedding", grad=True), v.tensor("prototype", grad=True)
        options = {"concentration": float(kappa), "group": v.labels("pixel_label")}
        own, suffix = v.labels("pixel_segment_index"), f"k{int(kappa)}"
        each = segsort_loss(z, mu, own, *sets, reduction="none", **options)
        v.compare(f"per_pixel_loss_{suffix}", each)
        mean = segsort_loss(z, mu, own, *sets, **options)
        for name, x in (("pixel_embedding", z), ("prototype", mu)):
            (found,) = torch.autograd.grad(mean, x, retain_graph=True)
            v.compare(f"grad_{name}_{suffix}", found, atol=1e-5)


class Scene:
    """Pixels and segments of the shared scene, differentiable in the embedding."""

    def __init__(self, v: Vectors, local: torch.Tensor | None = None) -> None:
        if local is None:
            _, _, valid, clusters = spml_clusters(v)
            local = location_features(valid.shape[1:])
        else:
            valid = v.labels("semantic_label") != IGNORE
            located = join_local_features(v.tensor("embedding"), local)
            grid = grid_clusters(valid.shape[1:], pair(v, "num_clusters"))
            iterations = int(v.scalar("iterations"))
            clusters = image_kmeans(located, grid, iterations=iterations, valid=valid)
        self.embedding = v.tensor("embedding", grad=True)
        self.segments: Segments = segment_index(
            clusters, v.labels("semantic_label"), v.labels("instance_label")
        )
        self.classes = int(v.scalar("num_classes"))
        self.local, self.valid = local, valid
        self.own, self.count = self.segments.pixel_segment, len(self.segments.label)
        self.z = pixels(F.normalize(self.embedding, dim=1), valid)
        self.prototypes = segment_prototypes(self.z, self.own, self.count)

    def located(self, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels with local features, and the prototypes of these."""
        joined = pixels(join_local_features(self.embedding, self.local, scale=scale), self.valid)
        return joined, segment_prototypes(joined, self.own, self.count)

    def similarity(self, features: tuple[torch.Tensor, torch.Tensor], kappa: float) -> torch.Tensor:
        spans = image_spans(self.segments, len(self.embedding))
        return image_similarity_loss(*features, self.segments, spans, concentration=kappa)


@check("spml_contrastive", "cooccurrence_sets")
def check_cooccurrence(v: Vectors) -> None:
    tags, segment_tags = scene_tags(v.other("relation_losses"), Scene(v.other("spherical_kmeans")))
    sets = overlap_sets(tags, segment_tags, empty="negative")
    v.compare("positive_mask_image_by_segment", sets.positive.float(), rtol=0, atol=0)
    v.compare("negative_mask_image_by_segment", sets.negative.float(), rtol=0, atol=0)


def memory(v: Vectors, name: str) -> list[torch.Tensor]:
    kind = v.tensor if name == "prototype" else v.labels
    return [kind(f"memory{batch}_{name}") for batch in (0, 1)]


def scene_tags(v: Vectors, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Tags of the images and of all segments, without background."""
    tags = v.labels("image_tags")
    of_segments = torch.cat([tags[scene.segments.image], *memory(v, "image_tags")])
    return tags[:, 1:], of_segments[:, 1:]


@check("spml_contrastive", "relation_losses")
def check_relations(v: Vectors) -> None:
    scene = Scene(v.other("spherical_kmeans"))
    own, segments, classes = scene.own, scene.segments, scene.classes
    prototypes = torch.cat([scene.prototypes, *memory(v, "prototype")])
    labels = torch.cat([segments.label, *memory(v, "semantic_label")])

    def kappa(name: str) -> float:
        return v.scalar(f"concentration_{name}")

    drawn = segments.label[own] < classes
    annotation = segsort_loss(
        scene.z[drawn],
        prototypes,
        own[drawn],
        *annotation_sets(labels, classes),
        group=segments.label[own][drawn],
        concentration=kappa("semantic_annotation"),
    )
    tags, segment_tags = scene_tags(v, scene)
    cooccurrence = segsort_loss(
        scene.z,
        prototypes,
        own,
        *overlap_sets(tags, segment_tags, empty="negative"),
        group=segments.image[own],
        concentration=kappa("semantic_cooccurrence"),
    )
    similarity = scene.similarity(scene.located(), kappa("image_similarity"))
    for name, loss in (
        ("semantic_annotation", annotation),
        ("semantic_cooccurrence", cooccurrence),
        ("image_similarity", similarity),
    ):
        weighted = v.scalar(f"weight_{name}") * loss
        v.compare(f"loss_{name}", weighted)
        compare_gradients(v, weighted, **{f"grad_{name}": scene.embedding})
    # the released monitor finds the segment itself, and counts unlabelled as a class
    everything = prototypes.detach()
    accuracy = retrieval_accuracy(everything, labels, everything, labels, exclude_self=False)
    v.compare("retrieval_accuracy_top5", accuracy)


@check("spml_feature_affinity", "feature_affinity")
def check_feature_affinity(v: Vectors) -> None:
    scene = Scene(v, v.tensor("local_feature").permute(0, 3, 1, 2))
    own, segments = scene.own, scene.segments
    _, scaled = scene.located(v.scalar("embedding_scale"))
    v.compare("prototype", scene.prototypes)
    v.compare("prototype_loc", scaled)
    v.compare("prototype_semantic_label", segments.label, rtol=0, atol=0)
    v.compare("prototype_batch_index", segments.image, rtol=0, atol=0)
    v.compare("pixel_segment_index", own, rtol=0, atol=0)
    assigned = {
        k: affinity_label_sets(
            scaled,
            segments.label,
            segments.image,
            scene.classes,
            k=k,
            threshold=v.scalar("threshold"),
        )
        for k in (1, 3)
    }
    for k, sets in assigned.items():
        v.compare(f"assigned_multihot_top{k}", sets.float(), rtol=0, atol=0)
    everything = assigned[1] | ~assigned[1].any(1, keepdim=True)
    loss = v.scalar("weight") * segsort_loss(
        scene.z,
        scene.prototypes,
        own,
        *overlap_sets(everything, everything),
        group=own,
        concentration=v.scalar("concentration"),
    )
    v.compare("loss", loss)
    compare_gradients(v, loss, grad_embedding=scene.embedding)
    plain = (scene.z, scene.prototypes)
    similarity = v.scalar("weight_image_similarity") * scene.similarity(
        plain, v.scalar("concentration_image_similarity")
    )
    v.compare("loss_image_similarity_noloc", similarity)
    compare_gradients(v, similarity, grad_image_similarity_noloc=scene.embedding)


@check("spml_inference", "segment_retrieval")
def check_retrieval(v: Vectors) -> None:
    embedding, labels = v.tensor("embedding"), v.labels("fake_label")
    size, valid = tuple(embedding.shape[2:]), labels != IGNORE
    located = join_local_features(embedding, location_features(size))
    clusters = image_kmeans(
        located,
        grid_clusters(size, pair(v, "num_clusters")),
        iterations=int(v.scalar("iterations")),
        valid=valid,
    )
    segments = segment_index(clusters, torch.zeros_like(labels))
    own = segments.pixel_segment
    v.compare("pixel_segment_index", own, rtol=0, atol=0)
    unit = pixels(F.normalize(embedding, dim=1), valid)
    prototypes = segment_prototypes(unit, own, len(segments.label))
    v.compare("prototype", prototypes)
    memory_labels = v.labels("memory_label")
    found = nearest_segments(prototypes, v.tensor("memory_prototype"), top_k=int(v.scalar("top_k")))
    top = memory_labels[found.row]
    v.compare("pixel_topk_label", top[own], rtol=0, atol=0)
    votes = class_votes(top, int(memory_labels.max()) + 1)
    v.compare("pixel_prediction", votes.argmax(1)[own], rtol=0, atol=0)
    v.compare("top5_fraction_class0", class_votes(top[:, :5], 256)[:, 0].mean())


@check("spml_modules", "softmax_head")
def check_classifier(v: Vectors) -> None:
    embedding, labels = v.tensor("embedding"), v.labels("semantic_label")
    classes = len(v.param("conv2_bias"))
    head = EmbeddingClassifier(embedding.shape[1], classes).eval()
    names = {"hidden.0.weight": "conv1_weight", "hidden.1.weight": "bn_weight"}
    names |= {"hidden.1.bias": "bn_bias", "hidden.1.running_mean": "bn_running_mean"}
    names |= {"hidden.1.running_var": "bn_running_var"}
    names |= {"last.weight": "conv2_weight", "last.bias": "conv2_bias"}
    state = {ours: torch.tensor(v.param(theirs)) for ours, theirs in names.items()}
    counter = {"hidden.1.num_batches_tracked": torch.tensor(0)}
    head.load_state_dict(state | counter)
    logits = head(embedding)
    v.compare("logit_embedding_resolution", logits)
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    drawn = labels.masked_fill(labels >= classes, IGNORE)
    loss = partial_cross_entropy(full, drawn)
    v.compare("loss", loss)
    right = (full.argmax(1) == drawn) & (drawn != IGNORE)
    v.compare("accuracy", right.sum() / (drawn != IGNORE).sum())
    weight, bias = head.hidden[0].weight, head.last.bias
    compare_gradients(v, loss, grad_conv1_weight=weight, grad_conv2_bias=bias)
