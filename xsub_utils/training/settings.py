"""Settings of fine-tuning: ours, and those of the studies before."""

from dataclasses import dataclass, replace

from xsub_utils._internal.validation import one_of
from xsub_utils.data.tasks import Task

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # → transformers
_CHOICES = {
    "schedule": tuple(SCHEDULES),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}


@dataclass(frozen=True)
class Settings:
    """Course of a fine-tuning: AdamW (β .9, .999), gradients clipped to norm 1.

    Attributes:
        epochs: Passes over the training split; each leaves a checkpoint.
        batch_size: Examples per step, over all GPUs together.
        lr: Highest learning rate.
        weight_decay: Decoupled decay of all weights but biases and LayerNorms.
        warmup: Steps in which the rate rises to `lr`; as a share of all steps if below 1.
        schedule: What follows: "linear" or "cosine" (to zero), or "constant".
        max_length: Longest input in sub-words; what is beyond is cut off.
        precision: "auto" (bf16 on GPUs that have it, else fp32), "fp32", "bf16" or "fp16".
        patience: Ends training when the mean score has not improved for so many epochs; None for never.
        eval_size: Examples per language of the stop split that are scored after each epoch; 0 for none.
    """

    epochs: int = 4
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: str = "linear"
    max_length: int = 128
    precision: str = "auto"
    patience: int | None = None
    eval_size: int = 200

    def __post_init__(self):
        for name, valid in _CHOICES.items():
            one_of(name, getattr(self, name), valid)
        for name in ("epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} has to be at least 1")


# What the studies on XLM-R and mBERT share: a rate that falls from the first step on.
_LARGE = Settings(batch_size=32, lr=2e-5, warmup=0)

# Study → name or kind of task → settings. Where a study says fp16, "auto" stands: bf16 needs no loss scaling.
PRESETS: dict[str, dict[str, Settings]] = {
    "minibabel": {"sequence": Settings(), "token": Settings(), "mlm": Settings(epochs=2), "text2text": Settings()},
    # A: Apostolikas et al. 2023, the published scripts.
    "A": dict.fromkeys(("sequence", "token"), replace(_LARGE, epochs=2, max_length=512)),
    # B: Belitsky et al. 2024, the published scripts.
    "B": {"mlm": replace(_LARGE, epochs=1, batch_size=8, max_length=512)},
    # C: Foroutan et al. 2022, table 7; mT5 has a rate of its own.
    "C": {
        "nli": replace(_LARGE, epochs=3, lr=5e-5, weight_decay=0.0),
        "ner": replace(_LARGE, epochs=3, weight_decay=0.0),
        "mlm": replace(_LARGE, epochs=1, batch_size=16, lr=5e-5, weight_decay=0.0, max_length=512),
    },
    "C-mT5": {"nli": replace(_LARGE, epochs=3, lr=2e-4, weight_decay=0.0)},
    # D: Choenni et al. 2024, who leave rate, batch size and patience unsaid; these are usual for XLM-R.
    "D": {"sequence": replace(_LARGE, epochs=10, patience=3)},
}


def preset(study: str, task: Task) -> Settings:
    """Settings with which a study fine-tuned on a task: those for its name, else for its kind.

    Raises:
        ValueError: If there are none.
    """
    settings = PRESETS[one_of("study", study, PRESETS)]
    for key in (task.name, task.kind):
        if key in settings:
            return settings[key]
    raise ValueError(f"study {study!r} has no settings for task {task.name!r}; it has some for {list(settings)}")
