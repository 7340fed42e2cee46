"""Language subnetworks in multilingual transformers: find, compare and remove them.

Every public name is loaded from its module when it is first used, so that `import xsub_utils` takes no time.
"""

from importlib import import_module
from importlib.metadata import version

_NAMES = {
    "alignment": ["cka", "cka_matrix", "minibatch_cka"],
    "baselines": ["bag_of_words_baseline"],
    "batches": ["make_batches"],
    "data": ["Task", "load_task", "text_to_text"],
    "encoders": ["load_encoder", "pretrain_encoder", "random_twin", "train_tokenizer"],
    "evaluate": ["cross_evaluate", "predictions"],
    "finetune": ["checkpoints", "load_finetuned"],
    "gates": ["check_gates", "head_gates", "head_shape", "head_weights", "remove_heads"],
    "importance": ["attention_entropy", "head_importance"],
    "kernel": ["setup", "versions"],
    "masks": ["load_masks", "random_mask", "save_masks", "shuffle_mask"],
    "overlap": ["adjusted_jaccard", "chance_test", "expected_jaccard", "jaccard", "kappa"],
    "prune": ["Subnetwork", "find_subnetwork"],
    "representations": [
        "canonical_scores",
        "hidden_states",
        "pwcca",
        "retrieval_accuracy",
        "rsa",
        "rsa_regress",
        "svcca",
    ],
    "sft": ["SparseDelta", "apply_delta", "load_delta", "save_delta", "sparse_delta", "sparse_finetune", "sum_deltas"],
    "settings": ["Settings", "preset"],
    "statistics": ["bootstrap_interval", "mantel"],
    "stitching": ["StateCache", "relative_accuracy", "stitch", "stitch_fronts", "stitched_score"],
    "store": ["get_or_build"],
    "tickets": [
        "find_tickets",
        "finetune_ticket",
        "fisher_information",
        "is_winning",
        "joint_overlap",
        "keep_largest",
        "mask_overlap",
        "prunable_weights",
        "prune_randomly",
    ],
    "tokens": ["token_overlap"],
    "tracin": ["Influence", "influence", "top_shares"],
    "variance": ["variance_shares"],
    "weight_masks": ["largest", "random_weight_mask", "weight_mask_applied"],
}
_MODULE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE)
__version__ = version("xsub-utils")


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module 'xsub_utils' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(f"xsub_utils.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
