"""Language subnetworks in multilingual transformers: find, compare and remove them.

Every public name is loaded from its module when it is first used, so that `import xsub_utils` takes no time.
"""

from importlib import import_module
from importlib.metadata import version

_NAMES = {
    "_internal.notebook_setup": ["setup", "versions"],
    "_internal.store": ["get_or_build"],
    "attribution.top_k": ["top_shares"],
    "attribution.tracin": ["Influence", "influence"],
    "data.tasks": ["Task", "load_task"],
    "data.text2text": ["text_to_text"],
    "evaluation.baselines": ["bag_of_words_baseline"],
    "evaluation.scores": ["cross_evaluate", "predictions"],
    "heads.gates": ["check_gates", "head_gates"],
    "heads.importance": ["attention_entropy", "head_importance"],
    "heads.masks": ["load_masks", "random_mask", "save_masks", "shuffle_mask"],
    "heads.removal": ["head_weights", "remove_heads"],
    "heads.search": ["Subnetwork", "find_subnetwork"],
    "models.architectures": ["head_shape"],
    "models.batches": ["make_batches"],
    "models.encoders": ["load_encoder", "pretrain_encoder", "random_twin", "train_tokenizer"],
    "similarity.cca": ["canonical_scores", "pwcca", "svcca"],
    "similarity.cka": ["cka", "cka_matrix", "minibatch_cka"],
    "similarity.hidden_states": ["hidden_states"],
    "similarity.overlap": ["adjusted_jaccard", "chance_test", "expected_jaccard", "jaccard", "kappa"],
    "similarity.retrieval": ["retrieval_accuracy"],
    "similarity.rsa": ["rsa", "rsa_regress"],
    "similarity.tokens": ["token_overlap"],
    "similarity.weight_overlap": ["joint_overlap", "mask_overlap"],
    "statistics.inference": ["bootstrap_interval", "mantel"],
    "statistics.variance": ["variance_shares"],
    "stitching.halves": ["StateCache"],
    "stitching.maps": ["stitch", "stitch_fronts"],
    "stitching.scores": ["relative_accuracy", "stitched_score"],
    "training.delta": ["SparseDelta", "apply_delta", "load_delta", "save_delta", "sparse_delta", "sum_deltas"],
    "training.finetune": ["checkpoints", "load_finetuned"],
    "training.iterative_pruning": ["find_tickets", "is_winning"],
    "training.masked": ["finetune_ticket"],
    "training.settings": ["Settings", "preset"],
    "training.sparse": ["sparse_finetune"],
    "weights.criteria": ["fisher_information", "keep_largest", "prune_randomly"],
    "weights.masks": ["largest", "random_weight_mask", "weight_mask_applied"],
    "weights.prunable": ["prunable_weights"],
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
