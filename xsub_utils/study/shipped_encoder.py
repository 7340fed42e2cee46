"""The encoder that the package ships, `minibabel-base`: `make pretrain` makes it again."""

import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel.languages import LANGUAGES
from xsub_utils.models.pretraining import pretrain_encoder

STORIES = 12_000  # texts per language
SETTINGS: dict[str, Any] = {
    "layers": 4,
    "heads": 12,
    "width": 96,
    "intermediate": 192,
    "vocab_size": 1000,
    "max_length": 64,
    "steps": 6000,
    "batch_size": 128,
    "lr": 2e-3,
}


def pretrain(out: Path, **changes: Any) -> Path:
    """Pre-train the shipped encoder into a folder; `changes` replace entries of `SETTINGS`."""
    texts = [text for language in LANGUAGES for text in minibabel.stories(language.code, range(STORIES))]
    return pretrain_encoder(texts, out, **(SETTINGS | changes))


def main() -> None:
    """Pre-train on one thread, then replace the shipped files; the model card stays."""
    torch.set_num_threads(1)  # the same bytes on every run of a machine
    folder = Path(str(files("xsub_utils"))) / "assets" / "minibabel-base"
    with tempfile.TemporaryDirectory() as temporary:
        for path in pretrain(Path(temporary) / "encoder").iterdir():
            shutil.copyfile(path, folder / path.name)
    print(f"{folder} is made again")


if __name__ == "__main__":
    main()
