"""Which function checks which component, and which components wait for a later block."""

from __future__ import annotations

CHECKS = {}

NOT_BUILT = {
    "cc4s": "*",
    "cdsp": "distance_map_scribble distance_map_boundary distance_entropy lorm lorm_mask total "
    "aspp_v2_head tta",
    "irn": "*",
    "losses_pairwise": "*",
    "losses_pixel": "entropy mumford_shah tv intensity_variance dmpls ustm s2l pseudo_label",
    "losses_structured": "*",
    "pfa": "local_prototypes bank_update bank_update_fast prediction_consistency soft_consistency "
    "predicted_class_set",
    "pfa_augmentation": "*",
    "pfa_train_step": "*",
    "ptrecl": "*",
    "spml_contrastive": "*",
    "spml_feature_affinity": "*",
    "spml_inference": "segment_retrieval majority_label",
    "spml_modules": "softmax_head aspp_v2_head",
    "spml_propagation": "*",
}


def check(file: str, component: str):
    def register(function):
        CHECKS[file, component] = function
        return function

    return register
