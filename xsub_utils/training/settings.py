"""Settings of fine-tuning: ours, and those of the studies before."""

from dataclasses import dataclass, replace

from xsub_utils._internal.amounts import amount
from xsub_utils._internal.validation import invalid, one_of, whole, wrong_type
from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.data.tasks import Task

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # -> transformers
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


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
        max_length: Longest input in sub-words; the rest is cut off.
        precision: "auto" (bf16 on GPUs that have it, else fp32), "fp32", "bf16" or "fp16".
        patience: Ends training when the mean score has not improved for so many epochs; None for never.
        eval_size: Examples per language of the validation split that are scored after each epoch; 0 for none.

    Raises:
        TypeError: If a number is something else.
        ValueError: If a value is unknown or out of range.

    Example:
        >>> import xsub_utils as xs
        >>> settings = xs.Settings(epochs=3, batch_size=32, lr=2e-5)
        >>> settings.schedule, settings.warmup
        ('linear', 0.1)
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

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        for name, least in (("epochs", 1), ("batch_size", 1), ("max_length", 1), ("eval_size", 0)):
            self._keep(name, whole(name, getattr(self, name), least))
        if self.patience is not None:
            self._keep("patience", whole("patience", self.patience, 1, remedy="None is for never"))
        for name in ("lr", "weight_decay", "warmup"):
            self._keep(name, amount(name, getattr(self, name)))
        if self.warmup > 1 and self.warmup % 1:
            raise invalid("warmup", "a share below 1, or a whole number of steps", self.warmup)

    def _keep(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)  # a plain one, which records can hold


# What the studies on XLM-R and mBERT share: a rate that falls from the first step on.
_LARGE = Settings(batch_size=32, lr=2e-5, warmup=0)

# Study -> name or kind of task -> settings. Where a study says fp16, "auto" stands: bf16 needs no loss scaling.
PRESETS: dict[str, dict[str, Settings]] = {
    "minibabel": {
        **dict.fromkeys(("sequence", "token", "text2text"), Settings()),
        **dict.fromkeys(("mlm", "clm"), Settings(epochs=2)),
    },
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


def preset(study: str, task: Task | TaskSpec) -> Settings:
    """Settings with which a study fine-tuned on a task.

    Args:
        study: "minibabel" (small encoders; every kind), "A", "B", "C", "C-mT5" or "D", as in `PRESETS`.
        task: Any task. Settings for a built-in task go by its name, all others by its kind.

    Raises:
        ValueError: If the study is unknown, or has no settings for such a task; says which have.

    Source: Apostolikas et al. 2023 (A), Belitsky et al. 2024 (B), Foroutan et al. 2022, table 7 (C), Choenni et al.
    2024 (D).

    Example:
        >>> import xsub_utils as xs
        >>> topic = xs.TaskSpec("topic", kind="sequence", labels=["travel", "sports"])
        >>> xs.preset("A", topic).epochs, xs.preset("D", topic).epochs
        (2, 10)
    """
    one_of("study", study, PRESETS)
    if not isinstance(task, Task | TaskSpec):
        raise wrong_type("task", "a Task or its TaskSpec", repr(task))
    if settings := _settings_for(study, task):
        return settings
    fitting = [name for name in PRESETS if _settings_for(name, task)]
    remedy = f"{', '.join(fitting)} have some" if fitting else "give Settings(…) of your own"
    expected = f"a study with settings for task {task.name!r} of kind {task.kind!r}"
    raise invalid("study", expected, f"{study!r}, which has some for {', '.join(PRESETS[study])}", remedy)


def _settings_for(study: str, task: Task | TaskSpec) -> Settings | None:
    """Settings for the name of a built-in task, also as text to text, else for the kind; None if there are none."""
    builtin = TASKS.get(task.name)
    named = builtin is not None and task.kind in (builtin.kind, "text2text")
    settings = PRESETS[study]
    return settings.get(task.name) if named and task.name in settings else settings.get(task.kind)
