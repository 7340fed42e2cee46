"""Hostile inputs of training: settings, folders of runs, encoders, masks and deltas."""

import copy
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from hostile import Error, Row
from tiny import QUICK, SHAPE, WORDS, make_task, sequence_row, text_row, token_row
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

import xsub_utils as xs
from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.training.delta import SparseDelta
from xsub_utils.weights.criteria import fisher_information, prune_randomly
from xsub_utils.weights.prunable import prunable_weights

REVIEWS = make_task("reviews", sequence_row, {"train": 6})
ONCE = replace(QUICK, epochs=1)
TINY = {"layers": 1, "heads": 1, "width": 8, "intermediate": 8, "vocab_size": 40, "max_length": 16, "steps": 1}
TEXTS = [" ".join(WORDS)] * 3


@cache
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60, max_length=30)


def pair(cls=XLMRobertaForSequenceClassification, **changes):
    torch.manual_seed(0)
    return cls(XLMRobertaConfig(vocab_size=len(tokenizer()), **SHAPE | changes)), copy.deepcopy(tokenizer())


@cache
def stored():
    """Folder of a tiny encoder."""
    folder = Path(mkdtemp())
    for part in pair(XLMRobertaForMaskedLM):
        part.save_pretrained(folder)
    return folder


@cache
def finished():
    """Folder of a complete run."""
    return train(Path(mkdtemp()) / "run")


def train(out, encoder=None, task=REVIEWS, seed=0, settings=ONCE, **more):
    start = stored() if encoder is None else encoder
    return xs.finetune(task, start, seed=seed, out=out, settings=settings, progress=False, **more)


def tickets(out, **changes):
    options = {"sparsities": 0.5, "settings": ONCE, "progress": False} | changes
    return xs.find_tickets(REVIEWS, stored(), seed=0, out=out, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def with_file(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    return folder


def damaged(folder, damage):
    """A copy of a complete run, which is damaged."""
    run = Path(shutil.copytree(finished(), folder / "run"))
    damage(run)
    return run


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def exchange(run):
    """Other weights of the same size."""
    file = run / "epoch-1/model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")


def without_tokenizer(run):
    for file in run.glob("epoch-1/tokenizer*"):
        file.unlink()


def link(folder, target):
    (folder / "link").symlink_to(folder / target)
    return folder / "link"


def poisoned():
    model, own = pair()
    with torch.no_grad():
        model.classifier.out_proj.bias[0] = float("nan")
    return model, own


def without_maximum(cls=XLMRobertaForSequenceClassification):
    model, own = pair(cls, max_position_embeddings=12)
    own.model_max_length = int(1e30)
    return model, own


LONG = replace(
    REVIEWS,
    splits={
        name: rows.assign(text=rows["text"].map(lambda text: f"{text} " * 20)) for name, rows in REVIEWS.splits.items()
    },
)


def gpt2(cls=GPT2ForSequenceClassification, pad=None, known=None):
    config = GPT2Config(vocab_size=len(tokenizer()), n_embd=8, n_layer=1, n_head=2, n_positions=40, pad_token_id=known)
    own = copy.deepcopy(tokenizer())
    own.pad_token = pad
    return cls(config), own


def loaded_without_maximum(folder):
    for part in without_maximum(XLMRobertaForMaskedLM):
        part.save_pretrained(folder)
    return xs.load_encoder(folder)[1].model_max_length


def moved(folder):
    """Whether a run knows its encoder again in another folder."""
    shutil.copytree(stored(), folder / "one")
    out = train(folder / "run", folder / "one")
    (folder / "one").rename(folder / "two")
    return train(folder / "run", folder / "two") == out


def exchanged(folder):
    for name in ("encoder", "other"):
        shutil.copytree(stored(), folder / name)
    torch.manual_seed(1)
    XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=len(tokenizer()), **SHAPE)).save_pretrained(folder / "other")
    train(folder / "run", folder / "encoder")
    (folder / "encoder").rename(folder / "gone")
    (folder / "other").rename(folder / "encoder")
    return train(folder / "run", folder / "encoder")


def corrected(folder):
    """What is there after a call that failed in training, and a corrected one."""
    try:
        train(folder / "run", poisoned())
    except ValueError:
        left = names(folder)
    return left, names(train(folder / "run", seed=5))


def diverged_last(folder):
    """Only the weights tell: no loss follows the last step."""
    return train(folder, settings=replace(ONCE, batch_size=64, lr=1e38, warmup=0))


def no_labels(folder):
    task = make_task("upos", token_row, {"train": 6})
    rows = task.splits["train"].assign(labels=[[-100] * len(words) for words in task.splits["train"]["tokens"]])
    return train(folder, task=replace(task, splits={"train": rows}))


def few_masks(folder):
    """Losses of a course in which few batches would have a masked token by chance."""
    course = replace(ONCE, epochs=2, batch_size=1)
    out = train(folder, task=make_task("mlm", text_row, {"train": 8}), settings=course)
    return "nan" in (out / "log.csv").read_text()


def absolute_paths(folder):
    out = tickets(folder / "out", rewind_epoch=1)
    return any(str(folder) in file.read_text() for file in (folder / "out").rglob("*.json")), len(out)


def pretrain(folder, texts=TEXTS, **changes):
    return xs.pretrain_encoder(texts, folder, progress=False, **TINY | changes)


MASK = {"0.weight": torch.tensor([True, False])}
LINEAR = torch.nn.Linear(2, 2)
QUERY = "roberta.encoder.layer.0.attention.self.query.weight"


def delta(folder, name):
    change = SparseDelta({name: xs.load_delta(saved(folder)).changes["weight"]})
    xs.save_delta(folder / "again", change)
    return list(xs.load_delta(folder / "again").changes) == [name]


def saved(folder):
    other = copy.deepcopy(LINEAR)
    with torch.no_grad():
        other.weight += 1
    xs.save_delta(folder / "delta", xs.sparse_delta(other, LINEAR))
    return folder / "delta"


SETTINGS = [
    ("patience=-1", r"^patience: expected at least 1, got -1; None is for never"),
    ("patience=1.5", r"^patience: expected a whole number, got 1\.5; None is for never"),
    ("epochs=1.5", r"^epochs: expected a whole number, got 1\.5"),
    ("epochs=True", r"^epochs: expected a whole number, got True"),
    ("batch_size=2.5", r"^batch_size: expected a whole number, got 2\.5"),
    ("eval_size=-1", r"^eval_size: expected at least 0, got -1"),
    ("lr='1e-3'", r"^lr: expected a finite number of at least 0, got '1e-3'"),
    ("lr=float('nan')", r"^lr: expected a finite number of at least 0, got nan"),
    ("lr=float('inf')", r"^lr: expected a finite number of at least 0, got inf"),
    ("weight_decay=None", r"^weight_decay: expected a finite number of at least 0, got None"),
    ("warmup=2.5", r"^warmup: expected a share below 1, or a whole number of steps, got 2\.5"),
    ("schedule=['linear']", r"^schedule: expected one of linear, cosine, constant, got \['linear'\]"),
]
NO_MODEL = "; give the model alone, without its tokenizer"

ROWS = [
    *(
        Row(f"Settings({given})", lambda _, given=given: eval(f"xs.Settings({given})"), Error(message))
        for given, message in SETTINGS
    ),
    Row("a rate as NumPy has it", lambda _: xs.Settings(lr=torch.tensor(0.5).numpy()[()]).lr, 0.5),
    *(
        Row(
            f"pretrain_encoder({name}={value})",
            lambda p, name=name, value=value: pretrain(p, **{name: value}),
            Error(f"^{name}: expected .*got {value}"),
        )
        for name, value in (("steps", 0), ("layers", 1.5), ("seed", -1), ("lr", float("nan")), ("mask_share", 2))
    ),
    Row(
        "a rate with which pre-training diverges",
        lambda p: pretrain(p, lr=1e38, warmup=0, steps=5),
        Error(r"^loss: expected a finite number, got nan in step \d of 5; .*nothing was written"),
    ),
    Row(
        "pre-training into a folder of something else",
        lambda p: pretrain(with_file(p, "notes.txt")),
        Error(r"^out: expected a new or an empty folder, got .*which holds notes\.txt"),
    ),
    Row("pre-training on a single text", lambda p: pretrain(p, "ani"), Error("^texts: expected a list of texts")),
    Row(
        "pre-training on nan",
        lambda p: pretrain(p, ["ani", float("nan")]),
        Error(r"^texts: expected texts, or pairs of texts, got nan as number 1"),
    ),
    Row("a tokenizer of one text", lambda _: train_tokenizer("ani"), Error("^texts: expected a list of texts")),
    # Seeds
    Row("a seed of 1.5", lambda p: train(p / "run", seed=1.5), Error(r"^seed: expected a whole number, got 1\.5")),
    Row("a seed beyond NumPy's", lambda p: train(p / "run", seed=2**32), Error(r"^seed: expected 0 to 4294967295")),
    Row(
        "load_encoder with a seed of 1.5", lambda _: xs.load_encoder(stored(), seed=1.5), Error("^seed: expected a who")
    ),
    Row(
        "a random mask with a seed of -1", lambda _: xs.random_weight_mask(MASK, seed=-1), Error("^seed: expected 0 to")
    ),
    Row(
        "random pruning with a seed of 1.5", lambda _: prune_randomly(MASK, sparsity=0.5, seed=1.5), Error("^seed: exp")
    ),
    # Where to write
    Row("out is empty", lambda _: train(""), Error("^out: expected a new or an empty folder, got ''")),
    Row(
        "out is None",
        lambda _: train(None),
        Error("^out: expected a new or an empty folder, as a path, got a NoneType"),
    ),
    Row("out has a null character", lambda p: train(f"{p}/a\0b"), Error(r"^out: expected .*got '.*a\\x00b'")),
    Row(
        "out is a file", lambda p: train(with_file(p, "f") / "f"), Error(r"^out: expected .*got the file '.*f'; choose")
    ),
    Row(
        "out lies in a file",
        lambda p: train(with_file(p, "f") / "f/run"),
        Error(r"^out: expected .*got '.*f/run', which lies in the file '.*f'; choose a new folder"),
    ),
    Row("out is a dangling link", lambda p: train(link(p, "none")), Error("^out: .*got the dangling link '.*link'")),
    Row(
        "out holds a folder of the user's",
        lambda p: train(with_file(p, "epoch-1/x")),
        Error("which holds epoch-1; cho"),
    ),
    Row(
        "out holds a log of the user's", lambda p: train(with_file(p, "log.csv")), Error("^out: .*which holds log.csv")
    ),
    Row(
        "tickets into a folder of something else",
        lambda p: tickets(with_file(p, "sparsity-50.npz")),
        Error(r"^out: expected a new or an empty folder, or that of these rounds, got .*which holds sparsity-50\.npz"),
    ),
    Row("tickets into no folder", lambda _: tickets(""), Error("^out: expected a new or an empty folder, got ''")),
    Row(
        "a delta without a file name",
        lambda _: xs.save_delta("", SparseDelta({})),
        Error("^path: expected the name of a file, got ''"),
    ),
    Row(
        "masks into a folder",
        lambda p: xs.save_masks(p, MASK, {}),
        Error("^path: expected the name of a file, got the f"),
    ),
    Row(
        "masks into a null character",
        lambda p: xs.save_masks(f"{p}/\0", MASK, {}),
        Error("^path: expected the name of"),
    ),
    # Runs
    Row(
        "another seed in the folder of a run",
        lambda _: train(finished(), seed=1),
        Error(r"^out: .*which holds another run, with \{'seed': 0\} instead of \{'seed': 1\}; choose a new folder"),
    ),
    Row(
        "truncated weights of a complete run",
        lambda p: train(damaged(p, lambda run: cut(run / "epoch-1/model.safetensors"))),
        Error(
            r"^out: expected a run as it was written, got .*model\.safetensors has \d+ bytes instead of \d+; put that"
        ),
    ),
    Row(
        "exchanged weights of a complete run",
        lambda p: train(damaged(p, exchange)),
        Error(r"^out: .*epoch-1/model\.safetensors was changed"),
    ),
    Row(
        "exchanged weights are loaded",
        lambda p: xs.load_finetuned(damaged(p, exchange)),
        Error(r"^folder: expected a run as it was written, got .*epoch-1/model\.safetensors was changed"),
    ),
    Row(
        "a run without its tokenizer",
        lambda p: xs.load_finetuned(damaged(p, without_tokenizer)),
        Error(
            r"^folder: .*epoch-1/tokenizer\.json is missing; put that file back, or delete the folder and train again"
        ),
    ),
    Row(
        "a checkpoint without its tokenizer",
        lambda p: xs.load_encoder(damaged(p, without_tokenizer) / "epoch-1"),
        Error("^encoder: expected a model stored with its tokenizer"),
    ),
    Row(
        "a run whose record is damaged",
        lambda p: xs.load_finetuned(damaged(p, lambda r: cut(r / "finetuning.json"))),
        Error(r"^folder: expected the folder of a run of finetune, got .*whose finetuning\.json is damaged"),
    ),
    Row("a moved encoder", moved, True),
    Row(
        "an encoder whose weights were exchanged", exchanged, Error("^out: .*which holds another run, with {'encoder'")
    ),
    Row(
        "a call that failed, and its correction",
        corrected,
        ([], ["epoch-1", "finetuning.json", "log.csv", "scores.csv"]),
    ),
    Row("rewound tickets name no places", absolute_paths, (False, 2)),
    # Numbers that are no numbers
    Row(
        "an encoder with nan",
        lambda p: train(p / "run", poisoned()),
        Error(r"^loss: expected a finite number, got nan in step 1 of 2, before the first checkpoint; lower lr"),
    ),
    Row("weights that are infinite after the last step", diverged_last, Error("^(weights|loss): expected .*finite")),
    Row("examples of which no label counts", no_labels, Error("^examples, row 0, labels: expected the number of a cl")),
    Row("batches without a masked token", few_masks, False),
    Row("Fisher information of nan", lambda _: fisher_information(poisoned()[0], batches()), Error("finite")),
    Row(
        "largest of nan",
        lambda _: xs.largest({"a": torch.tensor([1.0, float("nan")])}, count=1),
        Error("^values: expected numbers, .*got nan in 'a'"),
    ),
    # Encoders
    Row(
        "classes in another order",
        lambda p: train(p / "run", pair(id2label={0: "positive", 1: "negative"})),
        Error(
            r"^encoder: .*\['negative', 'positive'\], in this order, got one with \['positive', 'negative'\]; give the"
        ),
    ),
    Row("a tokenizer without a maximum", lambda p: names(train(p, without_maximum(), LONG))[0], "epoch-1"),
    Row("a stored tokenizer without a maximum", loaded_without_maximum, 10),
    Row(
        "GPT-2 without a padding token",
        lambda p: train(p / "run", gpt2()),
        Error(
            r"^encoder: .*padding token, got one without; set tokenizer\.pad_token = .* and model\.config\.pad_token"
        ),
    ),
    Row(
        "GPT-2 whose configuration knows no padding",
        lambda p: train(p / "run", gpt2(pad="<pad>")),
        Error(r"^encoder: expected a model that knows the token of padding, 1, .*got None; set model\.config"),
    ),
    Row(
        "GPT-2 that pads with another token than its tokenizer",
        lambda p: train(p / "run", gpt2(pad="<pad>", known=2)),
        Error(
            r"^encoder: expected a model that knows the token of padding, 1, .*got 2; set model\.config\.pad_token_id"
        ),
    ),
    Row(
        "a language model without a padding token",
        lambda p: train(
            p / "run",
            gpt2(GPT2LMHeadModel),
            xs.Task.from_frames(
                xs.TaskSpec("stories", "clm"), {"train": REVIEWS.splits["train"][["language", "text"]]}
            ),
        ),
        Error(r"^encoder: .*padding token"),
    ),
    Row(
        "a bare encoder",
        lambda p: train(p / "run", pair(XLMRobertaModel)),
        Error("^encoder: expected a model with a head"),
    ),
    Row(
        "a model without its tokenizer",
        lambda p: train(p / "run", pair()[0]),
        Error(r"^encoder: .*a pair \(model, tok"),
    ),
    Row(
        "an encoder without a name",
        lambda p: train(p / "run", ""),
        Error("^encoder: expected 'minibabel-base', a folder"),
    ),
    Row(
        "labels as one text",
        lambda _: xs.load_encoder(stored(), "sequence", "ab"),
        Error("^labels: expected a list of"),
    ),
    Row(
        "labels twice",
        lambda _: xs.load_encoder(stored(), "sequence", ["a", "a"]),
        Error("^labels: expected a list of d"),
    ),
    # A model, and nothing else
    *(
        Row(
            f"a pair where {name} takes a model",
            lambda _, call=call: call(pair()),
            Error(f"^(model|base): .*got a pair{NO_MODEL}"),
        )
        for name, call in {
            "prunable_weights": prunable_weights,
            "fisher_information": lambda two: fisher_information(two, []),
            "sparse_delta": lambda two: xs.sparse_delta(two, two[0]),
            "sparse_delta, as the base,": lambda two: xs.sparse_delta(two[0], two),
            "delta_weights": lambda two: xs.delta_weights(two, SparseDelta({})).__enter__(),
            "masked_weights": lambda two: xs.masked_weights(two, {}).__enter__(),
        }.items()
    ),
    Row(
        "a twin of a pair",
        lambda _: xs.random_twin(pair()),
        Error("^model: expected a model, got a tuple; give the model"),
    ),
    Row(
        "a model where a delta is meant",
        lambda p: xs.save_delta(p / "d", LINEAR),
        Error("^delta: expected a SparseDelta"),
    ),
    Row("a name with a null character in a delta", lambda p: delta(p, "weight\0b"), True),
    Row(
        "a scale of nan",
        lambda _: xs.delta_weights(LINEAR, scale=float("nan")).__enter__(),
        Error("^scale: expected a fin"),
    ),
    # Tickets
    *(
        Row(
            f"find_tickets({name}={value!r})",
            lambda p, name=name, value=value: tickets(p / "o", **{name: value}),
            Error(message),
        )
        for name, value, message in (
            ("rewind_epoch", -1, "^rewind_epoch: expected 0 to 1, got -1; settings have that many epochs"),
            ("rewind_epoch", 0.5, "^rewind_epoch: expected a whole number, got 0.5"),
            ("sparsities", "0.5", "^sparsities: expected a finite number of at least 0, got '0.5'"),
            ("sparsities", float("nan"), "^sparsities: expected a finite number of at least 0, got nan"),
            ("sparsities", (0.3333333, 0.33333331), "^sparsities: expected"),
            (
                "sparsities",
                (0.33333330, 0.33333332),
                "^sparsities: expected shares that differ in their first six digits",
            ),
        )
    ),
    Row(
        "a temperature as text",
        lambda p: xs.sparse_finetune(
            REVIEWS, stored(), seed=0, out=p / "o", masks=torch.ones(2, 2) > 0, temperature="5"
        ),
        Error("^temperature: expected a finite number above 0, got '5'"),
    ),
    Row(
        "nan in the encoder of a sparse fine-tuning",
        lambda p: xs.sparse_finetune(
            REVIEWS, poisoned(), seed=0, out=p / "o", masks=torch.ones(2, 2) > 0, settings=ONCE, progress=False
        ),
        Error("^loss: expected a finite number, got nan in step 1 of 2"),
    ),
    Row(
        "nan in the encoder of a ticket",
        lambda p: xs.finetune_ticket(
            REVIEWS,
            poisoned(),
            seed=0,
            out=p / "o",
            mask={QUERY: torch.ones(16, 16) > 0},
            settings=ONCE,
            progress=False,
        ),
        Error("^loss: expected a finite number, got nan in step 1 of 2"),
    ),
]


def batches():
    return xs.make_batches(REVIEWS.examples("train", "qaa"), tokenizer(), "sequence")
