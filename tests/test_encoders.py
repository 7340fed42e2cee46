"""Encoders: loading every layout from a local directory, seeded heads, twins, tokenizers and pre-training."""

import json
import logging
import shutil
from itertools import pairwise

import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen3Config,
    Trainer,
    TrainingArguments,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from xsub_utils.evaluation.forward import forward
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models import encoders
from xsub_utils.models.batches import make_batches
from xsub_utils.models.encoders import load_encoder, random_twin
from xsub_utils.models.pretraining import pretrain_encoder
from xsub_utils.models.tokenizers import train_tokenizer

TEXTS = [f"{a} {b} {c}." for a in ("ani", "beku", "cadi") for b in ("dofe", "gilu") for c in ("hamo", "jenu")]
TINY = {"layers": 1, "heads": 2, "width": 8, "intermediate": 16, "vocab_size": 50, "max_length": 16}
TINY_DECODER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LAYOUTS = {
    "xlm-r": lambda size: XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=size,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=40,
        )
    ),
    "bert": lambda size: BertForMaskedLM(
        BertConfig(
            vocab_size=size,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=1,
        )
    ),
    "mt5": lambda size: MT5ForConditionalGeneration(
        MT5Config(
            vocab_size=size,
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny random model of every layout, saved with a tokenizer, by its name."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=50)
    folders = {}
    for name, build in LAYOUTS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        build(len(tokenizer)).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return pretrain_encoder(TEXTS, tmp_path_factory.mktemp("enc"), steps=3, progress=False, **TINY)


def same(a, b):
    """Whether two models have the same parameters, bit by bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Loading


@pytest.mark.parametrize(
    ("layout", "kind", "cls"),
    [
        ("xlm-r", "sequence", "XLMRobertaForSequenceClassification"),
        ("xlm-r", "token", "XLMRobertaForTokenClassification"),
        ("xlm-r", "mlm", "XLMRobertaForMaskedLM"),
        ("xlm-r", "text", "XLMRobertaModel"),
        ("bert", "sequence", "BertForSequenceClassification"),
        ("bert", "token", "BertForTokenClassification"),
        ("bert", "mlm", "BertForMaskedLM"),
        ("mt5", "text2text", "MT5ForConditionalGeneration"),
        ("mt5", "token", "MT5ForTokenClassification"),
        ("mt5", "text", "MT5Model"),
    ],
)
def test_kind_chooses_the_class(stored, layout, kind, cls):
    labels = ["no", "yes", "perhaps"] if kind in ("sequence", "token") else None
    model, tokenizer = load_encoder(str(stored[layout]), kind, labels)
    assert type(model).__name__ == cls
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    if labels:
        assert model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
        assert model.config.label2id == {"no": 0, "yes": 1, "perhaps": 2}
    assert tokenizer.get_vocab() == train_tokenizer(TEXTS, vocab_size=50).get_vocab()


def test_loading_says_nothing_and_restores_transformers_logging(stored, capfd):
    from transformers.utils import logging as hf_logging

    def hook(make, args, kwargs):
        return make(*args, **kwargs)

    verbosity, before = hf_logging.get_verbosity(), hf_logging.set_tqdm_hook(hook)
    hf_logging.set_verbosity_warning()  # training arguments of other tests may have left another
    try:
        load_encoder(stored["xlm-r"], "sequence", ["a", "b"])
        assert hf_logging.set_tqdm_hook(before) is hook
        assert hf_logging.get_verbosity() == logging.WARNING
    finally:
        hf_logging.set_tqdm_hook(before)
        hf_logging.set_verbosity(verbosity)
    assert capfd.readouterr() == ("", "")


def test_a_new_head_depends_on_the_seed_alone(stored):
    state = torch.get_rng_state()
    first, _ = load_encoder(stored["xlm-r"], "sequence", ["a", "b"], seed=3)
    torch.rand(5)
    again, _ = load_encoder(stored["xlm-r"], "sequence", ["a", "b"], seed=3)
    torch.set_rng_state(state)
    other, _ = load_encoder(stored["xlm-r"], "sequence", ["a", "b"], seed=4)
    assert same(first, again) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.classifier.dense.weight, other.classifier.dense.weight)
    assert same(first.base_model, other.base_model)


def test_a_stored_head_comes_back_with_its_labels(stored, tmp_path):
    model, tokenizer = load_encoder(stored["xlm-r"], "token", ["O", "B-PER"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for labels in (None, ["O", "B-PER"]):
        again, _ = load_encoder(tmp_path, "token", labels)
        assert same(again, model) and again.config.id2label == {0: "O", 1: "B-PER"}
    with pytest.raises(ValueError, match=r"labels: expected \['O', 'B-PER'\], .* got \['B-PER', 'O'\]"):
        load_encoder(tmp_path, "token", ["B-PER", "O"])
    sequence, _ = load_encoder(tmp_path, "sequence", ["x", "y", "z"])
    assert sequence.config.num_labels == 3


def test_an_unnamed_stored_head_takes_names(stored, tmp_path):
    model, tokenizer = load_encoder(stored["bert"], "sequence", ["LABEL_0", "LABEL_1"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    named, _ = load_encoder(tmp_path, "sequence", ["no", "yes"])
    assert same(named, model) and named.config.id2label == {0: "no", 1: "yes"}
    with pytest.raises(ValueError, match=r"labels: expected .*LABEL_0"):
        load_encoder(tmp_path, "sequence", ["no", "yes", "perhaps"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ner"}, "kind: expected one of sequence, token, mlm, clm, text, text2text, got 'ner'"),
        (
            {"kind": "text2text"},
            r"kind: expected one that xlm-roberta can load \(sequence, token, mlm, text\), got 'text2text'",
        ),
        ({"kind": "clm"}, r"can load \(sequence, token, mlm, text\), got 'clm'"),
        ({"kind": "token"}, "labels: expected names for kind 'token'"),
        ({"kind": "sequence", "labels": []}, "labels: expected names for kind 'sequence'"),
    ],
)
def test_bad_arguments_are_named(stored, options, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(stored["xlm-r"], **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minibabel-bas", "did you mean 'minibabel-base'"),
        ("./nowhere", "encoder: expected a folder that exists, got './nowhere'"),
        ("some/where/else", "encoder: expected a folder that exists"),
        ("nobody/no-such-encoder", "a hub id has to be in the local cache"),
    ],
)
def test_a_missing_encoder_is_named_with_a_remedy(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_encoder(name)


def test_a_directory_without_a_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"which lacks config\.json and model\.safetensors"):
        load_encoder(tmp_path)


def test_the_packaged_encoder_is_found_in_the_package(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "files", lambda package: tmp_path / package)
    with pytest.raises(FileNotFoundError, match="make pretrain"):
        load_encoder("minibabel-base")
    (tmp_path / "xsub_utils" / "assets").mkdir(parents=True)
    (tmp_path / "xsub_utils" / "assets" / "minibabel-base").symlink_to(stored["xlm-r"])
    assert same(load_encoder("minibabel-base")[0], load_encoder(stored["xlm-r"])[0])


# Decoder-only models

DECODERS = {
    "llama": lambda size: LlamaConfig(**TINY_DECODER, vocab_size=size, num_key_value_heads=1),
    "qwen3": lambda size: Qwen3Config(**TINY_DECODER, vocab_size=size, num_key_value_heads=1, head_dim=4),
    "gpt2": lambda size: GPT2Config(
        vocab_size=size, n_embd=8, n_layer=1, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=2
    ),
}


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request, tmp_path_factory):
    """Folder of a tiny decoder-only model whose tokenizer has no padding token, as usual."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer(TEXTS, vocab_size=50)
    tokenizer.pad_token = None
    AutoModelForCausalLM.from_config(DECODERS[request.param](len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_decoder_only_language_model_loads_and_scores(decoder):
    model, tokenizer = load_encoder(decoder, "clm")
    assert type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")) and not model.training
    assert tokenizer.pad_token == tokenizer.eos_token and model.config.pad_token_id == tokenizer.pad_token_id
    frame = pd.DataFrame({"text": [*TEXTS, "ani"]})
    scores = [
        evaluate(model, make_batches(frame, tokenizer, "clm", batch_size=size), metric="perplexity") for size in (1, 5)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5) and scores[0] > 1
    with pytest.raises(ValueError, match=r"kind: expected one that \w+ can load .* got 'mlm'"):
        load_encoder(decoder, "mlm")


def test_a_decoder_only_classifier_reads_the_last_token_of_each_example(decoder):
    model, tokenizer = load_encoder(decoder, "sequence", ["no", "yes"], seed=1)
    frame = pd.DataFrame({"text": [*TEXTS, "ani", "beku beku beku beku"], "label": 0})
    alone, together = (
        [forward(model, batch)[1] for batch in make_batches(frame, tokenizer, "sequence", batch_size=size)]
        for size in (1, 20)
    )
    torch.testing.assert_close(torch.cat(alone), torch.cat(together))


def test_a_tokenizer_that_has_nothing_to_pad_with_is_an_error(decoder, tmp_path):
    shutil.copytree(decoder, tmp_path, dirs_exist_ok=True)
    poor = AutoTokenizer.from_pretrained(tmp_path)
    poor.eos_token = None
    poor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder: expected a tokenizer with a padding or an end token"):
        load_encoder(tmp_path, "sequence", ["no", "yes"])


# Folders of others


def test_a_checkpoint_of_a_trainer_loads(stored, tmp_path):
    model, tokenizer = load_encoder(stored["xlm-r"], "sequence", ["no", "yes"])
    arguments = TrainingArguments(tmp_path, max_steps=1, save_steps=1, report_to=[], use_cpu=True)
    frame = pd.DataFrame({"text": TEXTS, "label": 0})
    rows = [
        {name: column[0] for name, column in batch.items()}
        for batch in make_batches(frame, tokenizer, "sequence", batch_size=1)
    ]
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    again, _ = load_encoder(tmp_path / "checkpoint-1", "sequence")
    assert same(again, model) and again.config.id2label == {0: "no", 1: "yes"}
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json and .*; did you mean .*checkpoint-1"):
        load_encoder(tmp_path, "sequence")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_without_a_tokenizer_is_an_error(stored, layout, tmp_path):
    shutil.copytree(stored[layout], tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="encoder: expected a model stored with its tokenizer"):
        load_encoder(tmp_path, "text")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_an_error(stored, file, tmp_path):
    shutil.copytree(stored["xlm-r"], tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"which lacks {file}; model.save_pretrained"):
        load_encoder(tmp_path)


# Twins


@pytest.mark.parametrize(("layout", "kind"), [("xlm-r", "mlm"), ("bert", "sequence"), ("mt5", "text2text")])
def test_a_twin_has_the_shape_but_not_the_weights(stored, layout, kind):
    model, _ = load_encoder(stored[layout], kind, ["a", "b"] if kind == "sequence" else None)
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    twin, again, other = random_twin(model, seed=1), random_twin(model, seed=1), random_twin(model, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(twin) is type(model) and twin.config.to_dict() == model.config.to_dict()
    assert twin.config is not model.config and twin.training == model.training
    assert {n: t.shape for n, t in twin.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert same(twin, again) and not same(twin, other) and not same(twin, model)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_twin_follows_dtype_and_mode(stored):
    model, _ = load_encoder(stored["xlm-r"], "mlm")
    twin = random_twin(model.double().train())
    assert twin.training and twin.dtype == torch.float64
    assert twin.lm_head.decoder.weight is twin.get_input_embeddings().weight


# Tokenizers


def test_a_tokenizer_is_the_same_for_the_same_texts():
    texts = [*TEXTS, *(chr(0x4E00 + i) * 2 for i in range(10))]
    first, again = train_tokenizer(iter(texts), vocab_size=60), train_tokenizer(texts, vocab_size=60)
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()


def test_a_tokenizer_has_the_layout_of_xlm_r():
    tokenizer = train_tokenizer(TEXTS, vocab_size=50, max_length=77)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 4]
    pair = tokenizer.convert_ids_to_tokens(tokenizer("ani", "gilu")["input_ids"])
    first, second = tokenizer.tokenize("ani"), tokenizer.tokenize("gilu")
    assert pair == ["<s>", *first, "</s>", "</s>", *second, "</s>"] and first[0].startswith("▁")
    assert tokenizer.decode(tokenizer("ani dofe")["input_ids"], skip_special_tokens=True) == "ani dofe"
    assert len(tokenizer) <= 50 and tokenizer.is_fast and tokenizer.model_max_length == 77


def test_rare_characters_become_unknown():
    rare = [chr(code) for code in range(0x4E00, 0x4E40)]
    tokenizer = train_tokenizer(
        ["aaaa bbbb", "ab" * 9, *rare], vocab_size=30
    )  # 15 characters: ▁, a, b and the first rare ones
    known = [tokenizer.unk_token_id not in tokenizer(character)["input_ids"] for character in rare]
    assert known == [True] * 12 + [False] * 52 and len(tokenizer) == 30


# Pre-training


def test_pretraining_leaves_an_encoder_that_loads_everywhere(pretrained):
    written = "config.json model.safetensors pretraining.json tokenizer.json tokenizer_config.json"
    assert [path.name for path in sorted(pretrained.iterdir())] == written.split()
    model, tokenizer = load_encoder(pretrained)
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (1, 2)
    assert (model.config.hidden_size, model.config.intermediate_size) == (8, 16)
    assert model.config.hidden_dropout_prob == 0.0
    assert type(AutoTokenizer.from_pretrained(pretrained)) is type(tokenizer)
    long = pd.DataFrame({"id": ["0"], "text": [" ".join(TEXTS)]})
    (batch,) = make_batches(long, tokenizer, "mlm", max_length=512)
    assert batch["input_ids"].shape == (1, 16) and model(**batch).loss.isfinite()


def test_pretraining_records_what_was_done(pretrained):
    record = json.loads((pretrained / "pretraining.json").read_text())
    assert record["settings"]["steps"] == 3 and record["settings"]["width"] == 8
    assert record["texts"] == len(TEXTS) and record["parameters"] > 0
    assert [point["step"] for point in record["loss"]] == [3]


def test_pretraining_is_reproducible_and_leaves_the_generators_alone(pretrained, tmp_path):
    state = torch.get_rng_state()
    pretrain_encoder(iter(TEXTS), tmp_path / "again", steps=3, progress=False, **TINY)
    pretrain_encoder(TEXTS, tmp_path / "other", steps=3, progress=False, seed=1, **TINY)
    assert torch.equal(torch.get_rng_state(), state)
    for path in pretrained.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    weights = "model.safetensors"
    assert (pretrained / weights).read_bytes() != (tmp_path / "other" / weights).read_bytes()


def test_half_precision_is_half_the_size_and_loads_as_float32(pretrained, tmp_path):
    half = pretrain_encoder(TEXTS, tmp_path, steps=3, progress=False, dtype="float16", **TINY)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, pretrained)]
    assert sizes[0] < 0.75 * sizes[1]
    model, reference = load_encoder(half)[0], load_encoder(pretrained)[0]
    assert model.dtype == torch.float32
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_pairs_and_a_tokenizer_of_ones_own(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=50, max_length=500)
    texts = [*TEXTS[:3], *pairwise(TEXTS)]
    out = pretrain_encoder(texts, tmp_path, tokenizer=tokenizer, steps=1, progress=False, **TINY)
    assert tokenizer.model_max_length == 500 and load_encoder(out)[1].model_max_length == 16
    assert load_encoder(out)[1].get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("texts", "settings", "error", "message"),
    [
        ([], {}, ValueError, "texts: expected at least one"),
        (TEXTS, {"width": 10, "heads": 3}, ValueError, "heads: expected a divisor of width=10, got 3"),
        (TEXTS, {"dtype": "int8"}, ValueError, "dtype: expected one of float32, float16, got 'int8'"),
        (TEXTS, {"depth": 3}, TypeError, "depth"),
    ],
)
def test_bad_settings_are_named(texts, settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pretrain_encoder(texts, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_needs_texts():
    with pytest.raises(ValueError, match="texts: expected at least one"):
        train_tokenizer([])


@pytest.mark.network
def test_a_hub_encoder_loads():
    model, tokenizer = load_encoder("hf-internal-testing/tiny-random-XLMRobertaModel", "mlm")
    assert tokenizer.is_fast and model.config.model_type == "xlm-roberta"
