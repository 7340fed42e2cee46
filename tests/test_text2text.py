"""Text in, text out: templates, targets, generated answers and the fine-tuning of a tiny mT5."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from test_finetune import Killed, after, content, killed
from tiny import LANGUAGES, make_task, sequence_row, token_row
from torch import nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    MT5ForSequenceClassification,
    T5Tokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.schema import TASKS
from xsub_utils.data.tasks import load_task
from xsub_utils.data.text2text import text_to_text
from xsub_utils.evaluation.forward import forward
from xsub_utils.evaluation.generation import generate
from xsub_utils.evaluation.scores import chance_level, cross_evaluate, evaluate, predict, predictions, score
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.importance import head_importance
from xsub_utils.heads.search import find_subnetwork
from xsub_utils.models import encoders
from xsub_utils.models.batches import make_batches
from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.training import recorder
from xsub_utils.training.finetune import checkpoints, finetune, load_finetuned
from xsub_utils.training.rows import Rows
from xsub_utils.training.settings import Settings, preset

LABELS = TASKS["nli"].labels
COURSE = Settings(epochs=20, batch_size=8, lr=0.01)
A, B, C, END = 3, 4, 5, 2  # tokens of the hand-made model


def tiny_mt5(size, **changes):
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    torch.manual_seed(0)
    return MT5ForConditionalGeneration(MT5Config(vocab_size=size, **ids | shape | changes)).eval()


@pytest.fixture(scope="module")
def task():
    """Natural language inference in one invented language, as text to text, eight rows of each split."""
    rows = minibabel.examples("nli", "qaa", range(80)).groupby("label").head(4)
    splits = {"train": rows.iloc[:8], "validation": rows.iloc[4:]}
    sequence = replace(make_task("reviews", sequence_row), spec=TASKS["nli"], languages=("qaa",), splits=splits)
    return text_to_text(sequence)


@pytest.fixture(scope="module")
def tokenizer(task):
    rows = task.splits["train"]
    return train_tokenizer([*rows["text"], *LABELS * 9], vocab_size=220)


@pytest.fixture(scope="module")
def stored(tokenizer, tmp_path_factory):
    """Folder of a tiny random mT5, whose output layer is no copy of its embeddings, as in the published one."""
    folder = tmp_path_factory.mktemp("mt5")
    model = tiny_mt5(len(tokenizer), dropout_rate=0.1)
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def overfitted(task, stored, tmp_path_factory):
    """Folder of a run that has learnt eight examples by heart, and is scored on them."""
    known = replace(task, splits={"train": task.splits["train"], "validation": task.splits["train"]})
    return finetune(known, stored, seed=0, out=tmp_path_factory.mktemp("run"), settings=COURSE, progress=False)


# Tasks


def test_inputs_and_targets_of_nli_are_those_published():
    row = {"id": "7", "language": "qaa", "text": "Ani {beku}.", "text_pair": "Cadi?", "label": 2}
    sequence = replace(
        make_task("reviews", sequence_row), spec=TASKS["nli"], splits={"validation": pd.DataFrame([row])}
    )
    assert text_to_text(sequence).splits["validation"].to_dict("records") == [
        {
            "id": "7",
            "language": "qaa",
            "text": "xnli premise: Ani {beku}. hypothesis:  Cadi?",
            "target": "contradiction",
        }
    ]


def test_other_tasks_name_their_parts(reviews):
    converted = text_to_text(reviews)
    before, after = reviews.splits["train"], converted.splits["train"]
    assert after["text"].tolist() == [f"reviews: {text}" for text in before["text"]]
    assert after["target"].tolist() == [("negative", "positive")[label] for label in before["label"]]
    pairs = before.assign(text_pair="kilo")
    paraphrase = text_to_text(replace(reviews, spec=TASKS["paraphrase"], splits={"train": pairs}))
    assert paraphrase.splits["train"]["text"][0] == f"paraphrase sentence1: {before['text'][0]} sentence2: kilo"
    assert set(paraphrase.splits["train"]["target"]) == {"different", "paraphrase"}


def test_a_task_keeps_what_does_not_depend_on_its_form(module_home):
    sequence = load_task("nli", LANGUAGES, sizes={"train": 6, "test": 3})
    converted = text_to_text(sequence)
    assert (converted.name, converted.kind, converted.metric) == ("nli", "text2text", "exact_match")
    assert (converted.labels, converted.languages, converted.source) == (LABELS, LANGUAGES, "minibabel")
    for split, rows in sequence.splits.items():
        assert converted.splits[split][["id", "language"]].equals(rows[["id", "language"]])
    assert converted.examples("test", "qba").columns.tolist() == ["id", "language", *converted.spec.columns]
    assert sequence.examples("train").columns.tolist() == ["id", "language", *sequence.spec.columns]
    assert converted.identity == text_to_text(sequence).identity != sequence.identity
    assert converted.identity != text_to_text(replace(sequence, identity="other")).identity


def test_only_classes_of_sequences_are_generated(task):
    for other in (make_task("ner", token_row), task):
        with pytest.raises(
            ValueError, match=f"task '{other.name}': expected kind 'sequence', .*got kind '{other.kind}'"
        ):
            text_to_text(other)


def test_presets_serve_the_converted_task(task, reviews):
    assert preset("C-mT5", task).lr == 2e-4
    assert preset("minibabel", text_to_text(reviews)) == Settings()


# Batches


def test_labels_are_the_target_and_its_end(task, tokenizer):
    rows = task.splits["train"]
    (batch,) = make_batches(rows, tokenizer, "text2text", bucket=False)
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    pieces = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(target)) for target in rows["target"]]
    longest = max(map(len, pieces)) + 1
    assert batch["labels"].tolist() == [[*ids, END, *[-100] * (longest - len(ids) - 1)] for ids in pieces]
    for ids, text in zip(batch["input_ids"], rows["text"], strict=True):
        assert ids[ids != 1].tolist() == tokenizer(text)["input_ids"]


def test_the_tokenizer_of_mt5_ends_targets_once():
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁neutral", "▁ent", "ail", "ment", "▁ani"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    rows = pd.DataFrame({"text": ["ani", "ani ani"], "target": ["neutral", "entailment"]})
    (batch,) = make_batches(rows, tokenizer, "text2text")
    assert batch["input_ids"].tolist() == [[8, 1, 0], [8, 8, 1]]
    assert batch["labels"].tolist() == [[4, 1, -100, -100], [5, 6, 7, 1]]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a b " * 9, r"examples: expected targets of at most 16 sub-words .* in 'a b .*; give shorter"),
        ("neutraｌ", "got the same for 'neutral' and 'neutraｌ'; name one differently"),
        (None, "a column 'target', which kind 'text2text' needs"),
    ],
)
def test_targets_have_to_differ_and_to_be_short(target, message, tokenizer):
    rows = pd.DataFrame({"text": ["ani", "beku"], "target": ["neutral", target]})
    with pytest.raises(ValueError, match=message):
        make_batches(rows if target else rows[["text"]], tokenizer, "text2text")


def test_a_tokenizer_needs_an_end_token(tokenizer):
    poor = copy.deepcopy(tokenizer)
    poor.eos_token = None
    with pytest.raises(ValueError, match="expected one with an end token for kind 'text2text'"):
        make_batches(pd.DataFrame({"text": ["ani"], "target": ["neutral"]}), poor, "text2text")


def test_targets_longer_than_the_inputs_of_a_batch_are_not_cut(tokenizer):
    rows = pd.DataFrame({"text": ["a", "ani beku " * 9], "target": ["e n t a i l", "neutral"], "language": "qaa"})
    learnt = Rows(rows, tokenizer, "text2text", 64).__getitems__([0])
    (expected,) = make_batches(rows[:1], tokenizer, "text2text")
    assert learnt["input_ids"].shape[1] < learnt["labels"].shape[1]
    assert {name: tensor.tolist() for name, tensor in learnt.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


# Scores


@pytest.fixture
def follower():
    """A model that writes, whatever the input, what follows its last token: start → a → b → end, and c → b."""
    model = tiny_mt5(8, d_model=8, d_kv=4)
    model.lm_head.weight = nn.Parameter(torch.empty(8, 8))  # no longer that of the embeddings
    for parameter in model.parameters():
        parameter.data.zero_()
    model.shared.weight.data.copy_(torch.eye(8))
    model.decoder.final_layer_norm.weight.data.fill_(1)
    for token, following in ((1, A), (A, B), (B, END), (C, B), (END, END)):
        model.lm_head.weight.data[following, token] = 1
    return model


def answers(*targets):
    """One batch of some input and these targets."""
    longest = max(map(len, targets))
    labels = torch.tensor([[*target, *[-100] * (longest - len(target))] for target in targets])
    return {"input_ids": torch.full((len(targets), 3), A), "labels": labels}


@pytest.mark.parametrize(
    ("target", "right"),
    [
        ([A, B, END], 1),
        ([C, B, END], 0),  # told the first token, the model knows the others
        ([A, END], 0),  # a beginning of what it writes
        ([A, B, B, END], 0),  # of which it writes the beginning
    ],
)
def test_exact_match_by_hand(target, right, follower):
    assert evaluate(follower, [answers(target)], metric="exact_match") == right
    assert evaluate(follower, [answers(target, [A, B, END])], metric="exact_match") == (right + 1) / 2
    assert (
        evaluate(follower, [answers(target, [B, B, B, B, B, END])], metric="exact_match") == right / 2
    )  # padded further


def test_teacher_forcing_would_have_most_tokens_right(follower):
    batch = answers([C, B, END])
    assert evaluate(follower, [batch], metric="token_accuracy") == pytest.approx(2 / 3)
    written, gold = predictions(follower, [batch], metric="exact_match")
    assert written.tolist() == [[A, B, END]] and gold.tolist() == [[C, B, END]]


def test_the_decoder_reads_only_what_it_has_written(follower):
    read = []
    follower.decoder.register_forward_pre_hook(
        lambda _, args, inputs: read.append(inputs["input_ids"].flatten().tolist()), with_kwargs=True
    )
    evaluate(follower, [answers([C, C, C, C])], metric="exact_match")
    assert [ids[-1] for ids in read] == [1, A, B]  # the start token, then its own, up to the end
    assert C not in {token for ids in read for token in ids}


def lively(seed=0):
    """A random model whose answers differ, in float64, and a batch of inputs."""
    model = tiny_mt5(40).double()
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    ids = torch.randint(3, 40, (16, 7), generator=rng)
    mask = (torch.arange(7) < torch.randint(2, 8, (16, 1), generator=rng)).long()
    return model, {"input_ids": ids.where(mask == 1, 1), "attention_mask": mask}


def test_what_is_generated_is_the_most_probable_next_token_each_time():
    model, batch = lively()
    written = generate(model, batch, 5)
    assert written.shape == (16, 5) and len(set(map(tuple, written.tolist()))) > 4
    ids = torch.full((16, 1), 1)
    for position in range(5):
        with torch.no_grad():
            following = model(**batch, decoder_input_ids=ids).logits[:, -1].argmax(-1)
        alive = ~(ids[:, 1:] == END).any(1)
        assert torch.equal(following[alive], written[alive, position])
        ids = torch.cat([ids, following.unsqueeze(1)], 1)


def test_the_score_does_not_depend_on_batches_padding_or_mode():
    model, batch = lively()
    labels = generate(model, batch, 4)
    labels[::3, 1] = 7
    whole = {**batch, "labels": labels}
    single = [{name: tensor[i : i + 1] for name, tensor in whole.items()} for i in range(16)]
    wide = {**whole, "labels": nn.functional.pad(labels, (0, 3), value=-100)}
    expected = (generate(model, batch, 4) == labels).all(1).double().mean().item()
    assert 0.5 < expected < 1
    model.train()
    model.generation_config.do_sample, model.generation_config.num_beams = True, 2
    for batches in ([whole], single, [wide]):
        assert evaluate(model, batches, metric="exact_match") == pytest.approx(expected)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
def test_gates_act_while_text_is_generated(part):
    model, batch = lively()
    batch["labels"] = generate(model, batch, 4)
    gates = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    with head_gates(model, gates, part=part):
        written = generate(model, batch, 4)
    gated, _ = predictions(model, [batch], gates=gates, metric="exact_match", part=part)
    assert torch.equal(gated, written) and not torch.equal(gated, batch["labels"])
    masks = {"whole": None, "all": torch.ones(2, 2), "own": gates}
    table = cross_evaluate(model, {"qaa": [batch]}, masks=masks, metric="exact_match", part=part)["qaa"]
    assert table["whole"] == table["all"] == 1 > table["own"]


def test_chance_is_the_share_of_the_most_frequent_target(task, tokenizer):
    rows = task.splits["train"].iloc[:5]
    share = rows["target"].value_counts(normalize=True).max()
    batches = make_batches(rows, tokenizer, "text2text", batch_size=2)
    assert chance_level(rows["target"], "exact_match") == share
    assert chance_level([batch["labels"] for batch in batches], "exact_match") == share
    with pytest.raises(ValueError, match="at least one label that counts, got none"):
        chance_level([], "exact_match")


def test_examples_without_a_label_do_not_count(follower):
    batch = answers([A, B, END], [C, END], [-100])
    assert evaluate(follower, [batch], metric="exact_match") == 0.5
    with pytest.raises(ValueError, match="got only -100; there is nothing to score"):
        score([batch["labels"][2:]], [batch["labels"][2:]], "exact_match")


def test_what_cannot_be_matched_is_named(follower):
    batch = answers([A, B, END])
    for model in (
        XLMRobertaForMaskedLM(
            XLMRobertaConfig(vocab_size=8, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
        ),
        MT5ForSequenceClassification(follower.config),
        nn.Linear(1, 1),
    ):
        with pytest.raises(ValueError, match=f"model: .* got {type(model).__name__}; load it with"):
            evaluate(model, [batch], metric="exact_match")
    with pytest.raises(ValueError, match="dicts that hold 'labels'"):
        evaluate(follower, [{"input_ids": batch["input_ids"]}], metric="exact_match")
    with pytest.raises(ValueError, match=r"expected accuracy for labels of shape \(1,\), got 'exact_match'"):
        evaluate(follower, [batch | {"labels": torch.tensor([1])}], metric="exact_match")
    with pytest.raises(ValueError, match="expected one that scores logits, got 'exact_match' of generated text"):
        predict(forward(follower, batch)[1], batch["labels"], "exact_match")


# Fine-tuning


def test_examples_are_learnt_by_heart(task, stored, overfitted):
    rows = task.splits["train"]
    untrained, tokenizer = encoders.load_encoder(stored, "text2text")
    batches = make_batches(rows, tokenizer, "text2text", batch_size=3)
    assert evaluate(untrained, batches, metric="exact_match") == 0
    scores = pd.read_csv(overfitted / "scores.csv")
    assert scores["language"].unique() == ["qaa"] and scores["epoch"].tolist() == list(range(1, 21))
    assert scores["score"].iloc[-1] == 1 > scores["score"].iloc[0]
    model, tokenizer = load_finetuned(overfitted)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert evaluate(model, batches, metric="exact_match") == 1
    written = generate(model, batches[0], batches[0]["labels"].shape[1])
    assert set(tokenizer.batch_decode(written.clamp(0), skip_special_tokens=True)) <= set(LABELS)
    turned = rows.assign(target=rows["target"].replace({"neutral": "entailment", "entailment": "neutral"}))
    share = (rows["target"] == turned["target"]).mean()
    assert evaluate(model, make_batches(turned, tokenizer, "text2text"), metric="exact_match") == share < 1


def test_heads_of_every_part_are_searched(task, overfitted):
    model, tokenizer = load_finetuned(overfitted)
    batches = make_batches(task.splits["train"], tokenizer, "text2text", batch_size=8)
    blind = evaluate(model, batches, metric="exact_match", gates=torch.zeros(2, 2), part="cross")
    assert blind <= chance_level([batch["labels"] for batch in batches], "exact_match")
    for part in ("encoder", "decoder", "cross"):
        assert (head_importance(model, batches, part=part) > 0).any()
    own = {"metric": "exact_match", "step": 0.25, "part": "cross"}
    held_out, same_pass = find_subnetwork(model, batches, batches[:], **own), find_subnetwork(model, batches, **own)
    assert held_out.baseline == 1 and held_out.table().equals(same_pass.table())
    assert torch.equal(held_out.mask, same_pass.mask) and held_out.mask.any()


def test_a_killed_run_ends_as_if_it_had_not_been(task, stored, tmp_path, monkeypatch):
    def run(name):
        return finetune(task, stored, seed=3, out=tmp_path / name, settings=replace(COURSE, epochs=2), progress=False)

    whole = run("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(recorder.Recorder, "publish", after(1, recorder.Recorder.publish, killed))
        run("again")
    assert len(checkpoints(tmp_path / "again")) == 1
    assert content(run("again")) == content(whole)
    assert (whole / "epoch-2/generation_config.json").is_file()


def test_a_given_model_may_have_any_number_of_classes(task, tokenizer, tmp_path, capfd):
    model = tiny_mt5(len(tokenizer))
    folder = finetune(
        task, (model, tokenizer), seed=0, out=tmp_path, settings=replace(COURSE, epochs=1), progress=False
    )
    assert capfd.readouterr() == ("", "")
    assert type(load_finetuned(folder)[0]) is MT5ForConditionalGeneration


def test_a_metric_that_sees_the_target_is_refused(task):
    with pytest.raises(ValueError, match="metric: expected one of exact_match, got 'accuracy'"):
        replace(task.spec, metric="accuracy")
