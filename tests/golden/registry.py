"""Which function checks which component, and which components wait for a later block."""

from __future__ import annotations

CHECKS = {}

NOT_BUILT = {
    "irn": "centroid_refine edge_tta ir_label ir_label_merge irn_loss irn_loss_bgonly "
    "mean_shift poly_sgd sem_seg",
    "ptrecl": "feature_sets label_conditioning label_gate reclassify_ms",
    "spml_contrastive": "cooccurrence_sets relation_losses segsort_plus_loss set_segsort_loss "
    "stability",
    "spml_feature_affinity": "feature_affinity",
    "spml_inference": "segment_retrieval",
    "spml_modules": "softmax_head",
}


def check(file: str, component: str):
    def register(function):
        CHECKS[file, component] = function
        return function

    return register
