"""The one table of labels: what figures and displayed tables show in place of the ids of `conditions`."""

from collections.abc import Iterable

import pandas as pd

from xsub_utils._internal.validation import invalid
from xsub_utils.data.minibabel.languages import DISTANCES
from xsub_utils.data.typology import KINDS
from xsub_utils.study.conditions import (
    DEPARTURES_ABOVE_CHANCE,
    Heads,
    Measure,
    of_translations,
    true_kinship,
    true_relatedness,
)

LABELS = {
    # 00, 01
    "word_frequencies": "word frequencies",
    "untrained": "untrained twin",
    "pretrained": "pre-trained",
    "finetuned": "fine-tuned",
    "bag_of_words": "bag of words",
    "constant": "constant answer",
    # 02
    "own": "own subnetwork",
    "other_language": "another language's",
    "majority": "majority over seeds",
    "union": "union over seeds",
    "intersection": "intersection over seeds",
    "shuffled_within": "shuffled within layers",
    "shuffled_over": "shuffled over layers",
    "random": "random, same size",
    "inverted": "what it leaves out",
    # 03
    "mask_seed": "mask seed",
    "model_seed": "model seed",
    "language": "language",
    "task": "task",
    "task_and_language": "task and language",
    "model": "model",
    "full": "full model",
    "other_mask_seed": "other mask seed",
    "other_model_seed": "other model seed",
    "other_task": "other task",
    "random_heads": "random heads",
    "other_model_seed_random": "other model seed, random heads",
    "other_task_random": "other task, random heads",
    "shuffled_sentences": "shuffled sentences",
    "same_model": "the same model",
    "its_own": "its own subnetwork",
    "another_model_seed": "another model seed",
    "another_task": "another task",
    "related": "related",
    "related_own": "related, own subnetworks",
    "related_untrained": "related, untrained twin",
    "unrelated": "unrelated",
    "unrelated_own": "unrelated, own subnetworks",
    "unrelated_untrained": "unrelated, untrained twin",
    "cka": "CKA",
    "rsa": "RSA",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "retrieval": "retrieval",
    "cka_first": "CKA, first token",
    "rsa_regress": "RSA-regress",
    "mask_jaccard": "mask Jaccard",
    "mask_jaccard_above_chance": "mask Jaccard above chance",
    "importance_cosine": "head importance, cosine",
    "cka_of_subnetworks": "CKA of subnetworks",
    "score_through_other": "score through the other's mask",
    "shared_subwords": "shared sub-words",
    "zero_shot_transfer": "zero-shot transfer",
    "cka_of_states": "CKA of states",
    "relative_accuracy": "relative accuracy",
    "relative_accuracy_above_chance": "relative accuracy above chance",
    "heads_kept": "heads kept",
    "head_importance": "head importance",
    # 04
    "itself": "itself",
    "shuffled": "shuffled",
    "model_seed_shuffled": "model seed, shuffled within",
    "front_without_heads": "front without heads",
    "untrained_front": "untrained front",
    "end_without_heads": "end without heads",
    "subnetwork_of_task": "subnetwork of the task",
    "subnetwork_of_other_task": "subnetwork of another task",
    "heads_shuffled": "heads shuffled",
    "no_heads_or_untrained": "no heads, or untrained",
    "closed_form": "closed form",
    "trained": "trained",
    "jaccard": "Jaccard index of the masks",
    "cka_mean": "CKA, mean of tokens",
    # 05
    "own_other_mask_seed": "own, other mask seed",
    "random_as_accurate": "random heads, as accurate",
    "own_half_the_size": "own search, half the size",
    "random_any_size": "random heads, any size",
    "nothing": "nothing",
    "proponents": "most helpful",
    "opponents": "most harmful",
    "random_examples": "random",
    "random_alike": "random, alike",
    "of_language": "its own",
    "of_others": "other languages'",
    # 06
    "full_finetuning": "full",
    "one_language_batches": "full, one language a batch",
    "sparse_own": "sparse, own heads",
    "sparse_other_language": "sparse, another language's heads",
    "sparse_random": "sparse, random heads",
    "sparse_same": "sparse, the same heads for all",
    "sparse_same_random": "sparse, the same random heads for all",
    "sparse_largest_changes": "sparse, largest changes",
    "sparse_random_weights": "sparse, random weights",
    "all_heads": "all heads",
    "trained_heads": "heads trained through",
    "nearest_language": "nearest language's",
    "each_own": "each through its own",
    "each_swapped": "each, training data through others'",
    "each_random": "each through random heads",
    "each_random_swapped": "random heads, training data through others'",
    "full_all": "full: all heads",
    "full_own": "full: own subnetwork",
    "one_language_all": "one language a batch: all heads",
    "sparse_through_own": "sparse: own heads",
    "sparse_all": "sparse: all heads",
    "sparse_random_trained": "sparse, random heads: these",
    "full_own_all": "full: own subnetwork − all heads",
    "sparse_own_all": "sparse: own heads − all heads",
    "modular_a": "(a) sparse: own heads − another language's",
    "sparse_own_other_mask_seed": "sparse: own heads − own, other mask seed",
    "sparse_own_shuffled": "sparse: own heads − shuffled",
    "sparse_own_random": "sparse: own heads − random heads",
    "sparse_own_as_accurate": "sparse: own heads − random, as accurate",
    "all_one_language_full": "all heads: one language a batch − full",
    "all_sparse_one_language": "all heads: sparse − one language a batch",
    "modular_b": "(b) own heads: sparse − one language a batch",
    "modular_b_beyond_all": "(b) for own heads − for all heads",
    "random_trained_all": "sparse, random heads: these − all heads",
    "random_trained_other_language": "sparse, random heads: these − another language's",
    "each_sparse_one_language": "each through its own: sparse − one language a batch",
    "each_swapped_one_language": "each through its own − others': one language a batch",
    "each_swapped_sparse": "each through its own − others': sparse",
    "each_swapped_sparse_random": "each through its own − others': sparse, random heads",
    "each_random_swapped_one_language": "each through random heads − others': one language a batch",
    "own_heads": "own heads",
    "others_heads": "the other's heads",
    "union_of_heads": "union",
    "random_like_union": "random heads, as many",
    "intersection_of_heads": "intersection",
    "random_like_intersection": "random heads, as few",
    **{
        f"{which}_changes_{way}": f"{which} changes, {label}"
        for which in ("full", "sparse")
        for way, label in (("own", "own"), ("others", "the other's"), ("sum", "sum"), ("mean", "mean"))
    },
    "with_language": "with it",
    "without_language": "without it",
    "sparsity": "heads pruned",
    "retention": "score kept by the search",
    "difficulty": "difficulty of the texts",
    # 07
    "full_trained_as_long": "full model, trained as long",
    "ticket": "ticket",
    "ticket_other_seed": "ticket of another seed",
    "ticket_all_languages": "ticket of all languages",
    "largest_before_training": "largest before training",
    "largest_changes": "largest changes",
    "largest_fisher": "largest Fisher information",
    "denser_then_random": "denser ticket, then random",
    "random_per_matrix": "random, as many of each matrix",
    "random_weights": "random",
    "another_language": "another language",
    "another_seed": "another seed",
    "another_language_and_seed": "another language and seed",
    "family": "family",
    "another_family": "another family",
    "own_another_seed": "own, another seed",
    "family_another_seed": "family, another seed",
    "another_family_another_seed": "another family, another seed",
    "before_training": "before training",
    "before_training_ticket": "before training, ticket's mask",
    "before_training_random": "before training, random mask",
    "trained_full": "trained, full",
    "trained_ticket": "trained, ticket",
    "trained_random": "trained, random mask",
    "ours": "ours",
    "published": "published (mBERT)",
    "another_languages_ticket": "another language's ticket",
    DEPARTURES_ABOVE_CHANCE: "overlap of departures, above chance",
}
_HEADS_OF_TRANSLATIONS = {Heads.FULL: "", Heads.OWN: ", own subnetworks", Heads.UNTRAINED: ", untrained twin"}

LABELS |= {
    of_translations(measure, heads): f"{LABELS[measure]} of translations{suffix}"
    for measure in Measure
    for heads, suffix in _HEADS_OF_TRANSLATIONS.items()
}
for _kind in {*DISTANCES, *KINDS}:
    LABELS |= {
        true_relatedness(_kind): f"true relatedness, {_kind}",
        true_kinship(_kind): f"true kinship: {_kind}",
    }


def labelled(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with labels in place of the ids in some columns; unknown values (nan) stay.

    Raises:
        ValueError: If a column holds an id without a label.
    """
    for column in columns:
        unknown = [value for value in table[column].dropna().unique() if value not in LABELS]
        if unknown:
            raise invalid(f"column {column!r}", "ids of conditions", repr(unknown[0]), "add it to labels.LABELS")
    return table.assign(**{column: table[column].map(LABELS) for column in columns})


def labels_in_order(conditions: Iterable[str], present: Iterable[str]) -> list[str]:
    """Labels of those conditions that are present, in the order of the conditions."""
    ids = set(present)
    return [LABELS[condition] for condition in conditions if condition in ids]
