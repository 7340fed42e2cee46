"""Conditions of the study, by the ids that code and tables (CSV) know them by; `labels` has what figures show.

A condition says whose heads are looked through, what differs between two things, which model is scored, and so on.
Members of an enumeration stand in the order in which figures show them: `Control.OTHER_LANGUAGE` is "other_language".
"""

from enum import StrEnum

# ── Notebooks 00, 01, 03: models, and baselines beside them ───────────────────────────────────────────────
Model = StrEnum("Model", "WORD_FREQUENCIES UNTRAINED PRETRAINED FINETUNED OWN BAG_OF_WORDS CONSTANT")

# ── Notebook 02: the masks that a language is evaluated through ───────────────────────────────────────────
Control = StrEnum(
    "Control",
    "OWN OTHER_LANGUAGE MAJORITY UNION INTERSECTION SHUFFLED_WITHIN SHUFFLED_OVER RANDOM INVERTED CONSTANT",
)

# ── Notebook 03: what differs between two masks; what representations are compared with; measures ─────────
Differs = StrEnum("Differs", "MASK_SEED MODEL_SEED LANGUAGE TASK TASK_AND_LANGUAGE")
Heads = StrEnum("Heads", "FULL OWN RANDOM UNTRAINED SHUFFLED")  # whose states one side of a comparison has
Compared = StrEnum(
    "Compared",
    "FULL OWN OTHER_MASK_SEED OTHER_LANGUAGE OTHER_MODEL_SEED OTHER_TASK RANDOM_HEADS OTHER_MODEL_SEED_RANDOM "
    "OTHER_TASK_RANDOM UNTRAINED SHUFFLED_SENTENCES",
)
LevelMap = StrEnum("LevelMap", "SAME_MODEL ITS_OWN ANOTHER_MODEL_SEED ANOTHER_TASK")
Relation = StrEnum(
    "Relation",
    "RELATED RELATED_OWN RELATED_UNTRAINED UNRELATED UNRELATED_OWN UNRELATED_UNTRAINED SHUFFLED_SENTENCES",
)
Measure = StrEnum("Measure", "CKA RSA SVCCA PWCCA RETRIEVAL CKA_FIRST RSA_REGRESS")  # of the states of translations
Likeness = StrEnum(  # of two languages; those of translations are `of_translations(measure, heads)`
    "Likeness",
    "MASK_JACCARD MASK_JACCARD_ABOVE_CHANCE IMPORTANCE_COSINE CKA_OF_SUBNETWORKS SCORE_THROUGH_OTHER SHARED_SUBWORDS "
    "ZERO_SHOT_TRANSFER CKA_OF_STATES RELATIVE_ACCURACY RELATIVE_ACCURACY_ABOVE_CHANCE",
)
Quantity = StrEnum("Quantity", "HEADS_KEPT HEAD_IMPORTANCE")  # whose variance is taken apart

# ── Notebook 04: in what a front differs from its end; maps; likeness of front and end ────────────────────
Front = StrEnum(
    "Front",
    "ITSELF MASK_SEED LANGUAGE MODEL_SEED TASK TASK_AND_LANGUAGE SHUFFLED_WITHIN SHUFFLED_OVER SHUFFLED "
    "MODEL_SEED_SHUFFLED FRONT_WITHOUT_HEADS UNTRAINED_FRONT END_WITHOUT_HEADS",
)
FrontKind = StrEnum(
    "FrontKind", "SUBNETWORK_OF_TASK SUBNETWORK_OF_OTHER_TASK HEADS_SHUFFLED NO_HEADS_OR_UNTRAINED END_WITHOUT_HEADS"
)
Map = StrEnum("Map", "CLOSED_FORM TRAINED")
PairLikeness = StrEnum("PairLikeness", "JACCARD CKA_MEAN CKA_FIRST")

# ── Notebook 05: heads that predictions are attributed through; examples that are removed, or looked at ───
AttributedHeads = StrEnum(
    "AttributedHeads",
    "FULL OWN OWN_OTHER_MASK_SEED OTHER_LANGUAGE SHUFFLED_WITHIN RANDOM_HEADS RANDOM_AS_ACCURATE OWN_HALF_THE_SIZE "
    "RANDOM_ANY_SIZE",
)
Removed = StrEnum("Removed", "NOTHING PROPONENTS OPPONENTS RANDOM_EXAMPLES RANDOM_ALIKE")
Examples = StrEnum("Examples", "OF_LANGUAGE OF_OTHERS")  # of the language that has more or less training data

# ── Notebook 06: ways of fine-tuning; heads that examples run through; models through heads; differences ──
Variant = StrEnum(
    "Variant",
    "FULL_FINETUNING ONE_LANGUAGE_BATCHES SPARSE_OWN SPARSE_OTHER_LANGUAGE SPARSE_RANDOM SPARSE_SAME "
    "SPARSE_SAME_RANDOM SPARSE_LARGEST_CHANGES SPARSE_RANDOM_WEIGHTS",
)
Through = StrEnum(  # besides `AttributedHeads`; swapped: training examples through heads of another language
    "Through", "ALL_HEADS OWN TRAINED_HEADS NEAREST_LANGUAGE EACH_OWN EACH_SWAPPED EACH_RANDOM EACH_RANDOM_SWAPPED"
)
ModelThrough = StrEnum(
    "ModelThrough", "FULL_ALL FULL_OWN ONE_LANGUAGE_ALL SPARSE_THROUGH_OWN SPARSE_ALL SPARSE_RANDOM_TRAINED"
)
Difference = StrEnum(  # MODULAR_A, _B, _B_BEYOND_ALL: what a modular model would show
    "Difference",
    "FULL_OWN_ALL SPARSE_OWN_ALL MODULAR_A SPARSE_OWN_OTHER_MASK_SEED SPARSE_OWN_SHUFFLED SPARSE_OWN_RANDOM "
    "SPARSE_OWN_AS_ACCURATE ALL_ONE_LANGUAGE_FULL ALL_SPARSE_ONE_LANGUAGE MODULAR_B MODULAR_B_BEYOND_ALL "
    "RANDOM_TRAINED_ALL RANDOM_TRAINED_OTHER_LANGUAGE EACH_SPARSE_ONE_LANGUAGE EACH_SWAPPED_ONE_LANGUAGE "
    "EACH_SWAPPED_SPARSE EACH_SWAPPED_SPARSE_RANDOM EACH_RANDOM_SWAPPED_ONE_LANGUAGE",
)
Way = StrEnum(  # of putting two languages together
    "Way",
    "OWN_HEADS OTHERS_HEADS UNION_OF_HEADS RANDOM_LIKE_UNION INTERSECTION_OF_HEADS RANDOM_LIKE_INTERSECTION ALL_HEADS "
    "FULL_CHANGES_OWN FULL_CHANGES_OTHERS FULL_CHANGES_SUM FULL_CHANGES_MEAN SPARSE_CHANGES_OWN SPARSE_CHANGES_OTHERS "
    "SPARSE_CHANGES_SUM SPARSE_CHANGES_MEAN",
)
Training = StrEnum("Training", "WITH_LANGUAGE WITHOUT_LANGUAGE")
Dial = StrEnum("Dial", "SPARSITY RETENTION DIFFICULTY")

# ── Notebook 07: masks of weights; what differs between two tickets; whose a ticket is; whose states ──────
TicketKind = StrEnum(
    "TicketKind",
    "FULL FULL_TRAINED_AS_LONG TICKET TICKET_OTHER_SEED TICKET_ALL_LANGUAGES LARGEST_BEFORE_TRAINING LARGEST_CHANGES "
    "LARGEST_FISHER DENSER_THEN_RANDOM RANDOM_PER_MATRIX RANDOM_WEIGHTS",
)
TicketsDiffer = StrEnum("TicketsDiffer", "ANOTHER_LANGUAGE ANOTHER_SEED ANOTHER_LANGUAGE_AND_SEED ANOTHER_TASK")
TicketOf = StrEnum("TicketOf", "FAMILY ANOTHER_FAMILY OWN_ANOTHER_SEED FAMILY_ANOTHER_SEED ANOTHER_FAMILY_ANOTHER_SEED")
TicketStates = StrEnum(
    "TicketStates",
    "BEFORE_TRAINING BEFORE_TRAINING_TICKET BEFORE_TRAINING_RANDOM TRAINED_FULL TRAINED_TICKET TRAINED_RANDOM",
)
Source = StrEnum("Source", "OURS PUBLISHED")
PublishedMask = StrEnum("PublishedMask", "ANOTHER_LANGUAGES_TICKET RANDOM_WEIGHTS")
DEPARTURES_ABOVE_CHANCE = "departures_above_chance"  # what may predict transfer, beside `true_kinship`


def of_translations(measure: str, heads: str = Heads.FULL) -> str:
    """Id of a measure of the likeness of translations, through all heads, own subnetworks or in the untrained twin."""
    return f"{measure}_of_translations" + ("" if heads == Heads.FULL else f"_{heads}")


def true_relatedness(kind: str) -> str:
    """Id of a kind of true relatedness of two languages, beside influence (notebooks 05 and 06)."""
    return f"true_relatedness_{kind}"


def true_kinship(kind: str) -> str:
    """Id of a kind of true relatedness of two languages, beside the transfer of tickets (notebook 07)."""
    return f"true_kinship_{kind}"
