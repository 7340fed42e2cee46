"""TracIn over checkpoints of anyone's runs: folders of a Trainer, of finetune, models that a function loads."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_tracin import (
    CONFIGS,
    MASK,
    SMALL,
    VOCABULARY,
    XLMR,
    Affine,
    make_batches,
    new_model,
    one_by_one,
    points,
    quiet_influence,
)
from transformers import AutoConfig

import xsub_utils as xs
from xsub_utils.attribution import passes
from xsub_utils.gradients.capture import example_loss
from xsub_utils.models.tokenizers import train_tokenizer

DATA, TEST = make_batches(), make_batches(sizes=(3,), seed=2)


def small_model(seed=0, **changes):
    torch.manual_seed(seed)
    return transformers.XLMRobertaForSequenceClassification(AutoConfig.for_model(XLMR[0], **SMALL | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of transformers' own Trainer, saved after two and four steps."""
    folder = tmp_path_factory.mktemp("run") / "trainer"
    rows = [{name: values[0] for name, values in batch.items()} for batch in make_batches(sizes=(1,) * 16)]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, save_strategy="steps", per_device_train_batch_size=4,
        learning_rate=0.01, report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    transformers.Trainer(small_model(), arguments, train_dataset=rows).train()
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the last checkpoint of the Trainer, to be damaged."""
    return shutil.copytree(trained / "checkpoint-4", tmp_path / "checkpoint-4")


def test_checkpoints_of_a_trainer(trained):
    folders = [trained / "checkpoint-2", str(trained / "checkpoint-4")]
    models = [transformers.XLMRobertaForSequenceClassification.from_pretrained(folder) for folder in folders]
    state = torch.get_rng_state()
    found = xs.influence(folders, DATA, TEST, gates=MASK, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.scores.shape == (3, 7)
    assert torch.equal(found.by_checkpoint, xs.influence(models, DATA, TEST, gates=MASK, progress=False).by_checkpoint)
    assert not torch.allclose(*found.by_checkpoint, atol=1e-3)
    mixed = xs.influence([models[0], folders[1]], DATA, TEST, gates=MASK, progress=False)
    assert torch.equal(mixed.by_checkpoint, found.by_checkpoint)


def test_a_function_loads_what_else_is_a_checkpoint():
    models = {"first": new_model(seed=0), 2: new_model(seed=1)}
    found = xs.influence(["first", 2], DATA, TEST, load=models.get, progress=False)
    right = xs.influence(list(models.values()), DATA, TEST, progress=False)
    assert torch.equal(found.by_checkpoint, right.by_checkpoint)


def test_checkpoints_are_loaded_from_folders(tmp_path):
    words, rng = ["ani", "beku", "cadi", "dofe", "gilu"], np.random.default_rng(0)
    rows = [{"id": f"{i}", "language": "qaa", "text": " ".join(rng.choice(words, 3)), "label": i % 2} for i in range(8)]
    spec = xs.TaskSpec("parity", kind="sequence", labels=["even", "odd"])
    task = xs.Task.from_frames(spec, {"train": pd.DataFrame(rows).assign(label=["even", "odd"] * 4)})
    tokenizer = train_tokenizer([" ".join(words)] * 3, vocab_size=VOCABULARY, max_length=20)
    encoder = transformers.XLMRobertaForMaskedLM(AutoConfig.for_model(XLMR[0], **SMALL | {"num_labels": 2}))
    settings = xs.Settings(epochs=2, batch_size=4, lr=0.01)
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    run = xs.finetune(task, tmp_path / "encoder", seed=0, out=tmp_path / "run", settings=settings, progress=False)
    folders = xs.checkpoints(run)
    assert len(folders) == 2
    data = [batch | {"labels": batch["labels"] % 2} for batch in DATA]
    models = [xs.load_finetuned(run, epoch)[0] for epoch in (1, 2)]
    right = quiet_influence(models, data, data, gates=MASK).by_checkpoint
    assert torch.equal(quiet_influence(folders, data, data, gates=MASK).by_checkpoint, right)
    assert torch.equal(quiet_influence([str(folders[1])], data, data, gates=MASK).by_checkpoint, right[1:])
    assert torch.equal(quiet_influence([run], data, data, gates=MASK).by_checkpoint, right[1:])
    assert not torch.equal(right[0], right[1])
    with pytest.raises(ValueError, match=r"checkpoints: .*epoch-3', which is no folder"):
        quiet_influence([run / "epoch-3"], data, data)


# What is refused before anything is computed


@pytest.fixture
def computes_nothing(monkeypatch):
    """Fails if a gradient is computed."""
    monkeypatch.setattr(passes.CheckpointPass, "verify", lambda *_: pytest.fail("something was computed"))


def without_head(folder):
    file = folder / "model.safetensors"
    weights = {name: values for name, values in load_file(file).items() if "out_proj" not in name}
    save_file(weights, file, {"format": "pt"})


def with_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


DAMAGES = {
    "gone": (shutil.rmtree, "which is no folder; load= takes a function"),
    "config": (lambda folder: (folder / "config.json").unlink(), r"which has no config\.json; load="),
    "broken": (lambda folder: (folder / "config.json").write_text("{"), r"whose config\.json is no JSON object"),
    "weights": (lambda folder: (folder / "model.safetensors").unlink(), r"which has no weights \(model\.safetensors\)"),
    "unnamed": (with_config(architectures=None), r"whose config\.json names no architectures"),
    "unknown": (with_config(architectures=["OwnModel"]), "whose architecture OwnModel transformers does not have"),
    "head": (without_head, r"expected all weights of a XLMRobertaForSequenceClassification, got .* without "
                           r"classifier\.out_proj\.bias, classifier\.out_proj\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_folders_that_hold_no_model_are_explained(damage, copied, trained, computes_nothing):
    change, message = DAMAGES[damage]
    change(copied)
    first = [] if damage == "head" else [trained / "checkpoint-2"]  # the others are seen before the first is loaded
    with pytest.raises(ValueError, match=f"checkpoints: .*{message}"):
        quiet_influence([*first, copied], DATA, TEST)


def test_the_folder_of_a_run_is_told_from_those_of_its_checkpoints(trained, computes_nothing):
    with pytest.raises(ValueError, match=r"no config\.json; its checkpoints are checkpoint-2, checkpoint-4"):
        quiet_influence([trained], DATA, TEST)


def test_folders_of_different_models_are_explained(trained, tmp_path, computes_nothing):
    small_model(intermediate_size=20).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"checkpoints: .*all of one model, got .*dense\.\w+ of shape \(20.* and \(12"):
        quiet_influence([trained / "checkpoint-2", tmp_path / "other"], DATA, TEST)
    with pytest.raises(ValueError, match=r"checkpoints: .*all of one model, got .*dense\.\w+ of shape \(20.* and \(12"):
        quiet_influence([small_model(), tmp_path / "other"], DATA, TEST)


def test_checkpoints_that_diverged_are_explained():
    model = Affine()
    model.dense.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"loss: expected a finite value for each example, got nan for example 0"):
        quiet_influence([model], points(), points((2,)))


def root_loss(logits, labels):
    """Of examples of class 2, finite where its gradient is not."""
    losses, last = example_loss(logits, labels), labels == 2
    losses[last] = (logits - logits.detach()).square().sum(1)[last].sqrt()
    return losses


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("test", r"model: expected finite gradients, got nan or infinity in those of dense\.weight"),
        ("train", r"train: expected finite gradients, got nan or infinity in example 1 of a batch"),
    ],
)
def test_gradients_that_are_not_finite_are_explained(side, message):
    sides = {"train": points((3,)), "test": points((3,))}
    for name, (batch,) in sides.items():
        batch["labels"] = torch.tensor([0, 2 if name == side else 1, 0])
    with pytest.raises(ValueError, match=message):
        quiet_influence([Affine()], **sides, loss=root_loss)


# Decoder-only language models


TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DECODER = TOKENS | {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "intermediate_size": 12, "max_position_embeddings": 24, "initializer_range": 0.3,
}  # fmt: skip
LANGUAGE_MODELS = {"gpt2": CONFIGS["gpt2"], **dict.fromkeys(["llama", "qwen2", "qwen3", "gemma2"], DECODER)}
UNEQUAL = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]).bool()  # heads that share a key lose different numbers
HEADS = {"full": None, "mask": MASK, "unequal": UNEQUAL, "gates": MASK * 0.5}


def language_model(name, tied=True, seed=0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **LANGUAGE_MODELS[name], tie_word_embeddings=tied)
    return transformers.AutoModelForCausalLM.from_config(config).double()


def texts(sizes, seed):
    """Batches whose labels are their inputs, as transformers has it."""
    batches = make_batches(sizes=sizes, seed=seed)
    return [batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)} for batch in batches]


def gradients(model, batches, gates):
    """Autograd, text by text, of the mean loss of each token after those before it."""
    parameters, rows = list(model.parameters()), []
    with xs.head_gates(model.eval(), torch.ones(2, 4) if gates is None else gates.double()):
        for text in one_by_one(batches):
            logits = model(input_ids=text["input_ids"]).logits
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], text["input_ids"][0, 1:])
            found = torch.autograd.grad(loss, parameters)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("name", "tied"), [*((name, True) for name in LANGUAGE_MODELS), ("qwen3", False)])
def test_language_models_that_predict_the_next_token(name, tied, heads):
    """RMSNorms, rotary positions, shared keys and tied embeddings included."""
    model, train, test = language_model(name, tied), texts((4, 3), 1), texts((3,), 2)
    found = quiet_influence([model], train, test, gates=HEADS[heads], normalize=False).scores
    right = gradients(model, test, HEADS[heads]) @ gradients(model, train, HEADS[heads]).T
    torch.testing.assert_close(found, right, rtol=0, atol=1e-6 * float(right.abs().max()))  # norms are float32


def test_a_text_of_one_token_has_nothing_to_predict():
    text = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, 1), "labels": torch.tensor([[5]])}
    with pytest.raises(ValueError, match=r"a label in every example, got none in example 0"):
        quiet_influence([language_model("qwen3")], [text], texts((2,), 1))
