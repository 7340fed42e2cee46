"""The encoder of a study that pre-trains its own, on the few texts that it has."""

from pathlib import Path
from typing import Any

from xsub_utils._internal import store
from xsub_utils.models.pretraining import pretrain_encoder

SMALL: dict[str, Any] = {  # with whole words it would look the few texts up and need no attention
    "layers": 4,
    "heads": 12,
    "width": 96,
    "intermediate": 192,
    "vocab_size": 2000,
    "dropout": 0.1,
    "steps": 300,
    "lr": 2e-3,
}


def pretrained_on(texts: list[str]) -> Path:
    """Folder of a small encoder that is pre-trained on these texts, in the store."""

    def build(out: Path) -> None:
        pretrain_encoder(texts, out, **SMALL)

    return store.get_or_build("encoder", {"texts": store.digest(texts), "settings": SMALL}, build)
