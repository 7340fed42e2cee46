"""A study of two languages, so small that it means nothing: what holds for the tables of every notebook."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils._internal import store
from xsub_utils.study.model_cache import ModelCache
from xsub_utils.study.nb00_languages import tables as languages
from xsub_utils.study.nb01_finetuning import tables as finetuning
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb02_pruning.searches import RETAIN
from xsub_utils.study.study import Study, collect, encoder_identity

PAIR = ("qaa", "qba")
SMALL = {"train_size": 24, "importance_size": 8, "validation_size": 12, "test_size": 16, "epochs": 1}
HEADS = (4, 12)  # layers and heads of the shipped encoder
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(PAIR, **SMALL)


def test_joint_scores_and_baselines_have_the_same_columns(study):
    scores, baselines = finetuning.scores(study, "nli", 0), finetuning.baseline_scores(study, "nli")
    assert set(scores) == set(baselines)
    assert list(scores["language"]) == list(PAIR)
    assert set(baselines["model"]) == {"bag_of_words", "constant"}
    assert scores["score"].between(0, 1).all()


def test_transfer_has_every_ordered_pair_and_its_relatedness(study):
    table = finetuning.with_relatedness(finetuning.transfer(study, "nli", 0))
    assert {(a, b) for a in PAIR for b in PAIR} == set(zip(table["source"], table["target"], strict=True))
    own = table[table["source"] == table["target"]]
    assert (own["relatedness"] == 1).all() and set(own["family"]) == {"family A", "family B"}
    assert set(table["family"]) == {"family A", "family B", "unrelated"}


def test_learning_curve_has_every_epoch(study):
    assert sorted(set(finetuning.learning_curve(study, "nli", 0)["epoch"])) == [1]


def test_nothing_is_trained_twice(study, monkeypatch):
    folder = study.model_folder("nli", 0)
    monkeypatch.setattr("xsub_utils.training.finetune.finetune", lambda *_, **__: pytest.fail("trained again"))
    assert Study(list(PAIR), **SMALL).model_folder("nli", 0) == folder
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        study.model_folder("nli", 1)


def test_mask_seeds_take_different_examples_and_languages_the_same(study):
    def rows(language, seed):
        return {
            tuple(row[row > 2].tolist())
            for b in study.batches("ner", "importance", language, seed)
            for row in b["input_ids"]
        }

    drawn = [rows("qaa", seed) for seed in range(study.pool)]
    assert [len(one) for one in drawn] == [SMALL["importance_size"]] * study.pool
    assert len(set.union(*drawn)) == SMALL["importance_size"] * study.pool
    assert drawn[0] == rows("qaa", 0)
    with pytest.raises(ValueError, match="raise pool to 4"):
        rows("qaa", 3)


def test_code_that_a_stage_imports_decides_its_artifacts(study):
    code = store.describe(study.model_folder("nli", 0))["code"]
    assert code.keys() >= {
        f"xsub_utils.{name}"
        for name in ("study.study", "training.trainer", "models.batches", "models.encoders", "data.minibabel.examples")
    }
    assert "xsub_utils.study.nb02_pruning.tables" not in code and "xsub_utils.study.labels" not in code


def test_kinship_by_hand():
    names = ["qaa", "qab", "qac", "qba"]
    close = {frozenset(p): c for p, c in zip(combinations(names, 2), [0.9, 0.6, 0.3, 0.5, 0.2, 0.1], strict=True)}
    rows = [
        (
            task,
            a,
            b,
            1.0 if a == b else sign * close[frozenset((a, b))] ** 2,
            1.0 if a == b else close[frozenset((a, b))],
        )
        for task, sign in (("nli", 1), ("ner", -1))
        for a in names
        for b in names
    ]
    table = pd.DataFrame(rows, columns=["task", "source", "target", "score", "relatedness"])
    found = finetuning.kinship(table).set_index("task")
    assert found.loc["nli", "rho"] == pytest.approx(1) and found.loc["ner", "rho"] == pytest.approx(-1)
    assert found.loc["nli", "p"] == pytest.approx(1 / 24), "no relabelling of four different languages does as well"
    assert found.loc["ner", "p"] == 1


def test_a_stored_search_is_the_search(study):
    first = pruning.search(study, "nli", 0, "qaa", 0)
    again = pruning.search(study, "nli", 0, "qaa", 0)
    assert first.mask.shape == HEADS and first.trajectory[-1].kept == 0
    assert first.table().equals(again.table())
    assert torch.equal(first.mask, first.at(RETAIN).mask)
    for one, other in zip(first.trajectory, again.trajectory, strict=True):
        assert torch.equal(one.mask, other.mask)
    assert again.trajectory[-1].importance is None


def test_tables_of_the_search(study):
    heads = pruning.kept_heads(study, "nli", 0, 0)
    sizes = pruning.sizes(study, "nli", 0, 0)
    assert len(heads) == len(PAIR) * HEADS[0] * HEADS[1]
    assert set(heads["layer"]) == {1, 2, 3, 4} and heads["head"].max() == 12
    share = heads.groupby("language")["kept"].mean()
    at = sizes[sizes["retain"] == RETAIN].set_index("language")["kept"]
    assert share.to_dict() == pytest.approx(at.to_dict())
    importance = pruning.full_importance(study, "nli", 0, 0)
    norms = importance.groupby(["language", "layer"])["importance"].agg(lambda x: np.sqrt((x**2).sum()))
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert (pruning.trajectories(study, "nli", 0, 0).query("sparsity == 0")["retention"] == 1).all()


def test_cross_evaluation_refers_to_the_own_mask_of_the_column(study):
    table = pruning.cross_evaluation(study, "nli", 0, 0)
    own = table[table["control"] == "own"]
    assert (own["difference"] == 0).all() and (own["mask"] == own["language"]).all()
    foreign = table[table["control"] == "other_language"]
    reference = own.set_index("language")["score"]
    np.testing.assert_allclose(foreign["difference"], foreign["score"] - foreign["language"].map(reference).to_numpy())
    sizes = table.pivot(index="language", columns="control", values="kept").drop(columns="other_language")
    np.testing.assert_allclose(sizes["random"], sizes["own"])
    np.testing.assert_allclose(sizes["inverted"], 1 - sizes["own"])


def test_merged_masks_grow_and_shrink_as_they_should(study):
    table = pruning.merged(study, "nli", 0, (0, 1)).pivot(index="language", columns="control", values="kept")
    assert (table["intersection"] <= table["majority"]).all() and (table["majority"] <= table["union"]).all()


def test_collect_goes_over_all_combinations(study):
    def stage(study, task, seed):
        return pd.DataFrame({"task": [task], "seed": [seed]})

    assert len(collect(stage, study, ["nli", "ner"], [0, 1, 2])) == 6


def test_an_own_encoder_is_pretrained_on_training_texts_once(study, monkeypatch):
    monkeypatch.setattr(
        "xsub_utils.study.small_encoder.SMALL", {"layers": 1, "heads": 2, "width": 8, "vocab_size": 60, "steps": 2}
    )
    own = Study(PAIR, encoder="pretrain", **SMALL)
    folder = own.encoder_folder()
    described = store.describe(Path(folder))
    assert described["kind"] == "encoder"
    assert described["key"]["texts"] == store.digest(own.task("mlm").examples("train")["text"].tolist())
    assert Study(PAIR, encoder="pretrain", **SMALL).encoder_folder() == folder


def test_no_encoder_is_pretrained_where_tasks_may_be_split_apart(tmp_path):
    for code in PAIR:
        (tmp_path / f"{code}.csv").write_text("text,label\nani,0\n")
    own = Study(PAIR, source="local", data=str(tmp_path), encoder="pretrain", **SMALL)
    with pytest.raises(ValueError, match=r"encoder: expected a hub id .*only treebanks .* are split alike"):
        own.encoder_folder()


def test_encoder_identity_follows_its_files(tmp_path):
    assert encoder_identity("FacebookAI/xlm-roberta-base") == "FacebookAI/xlm-roberta-base"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    before = encoder_identity(str(tmp_path))
    (tmp_path / "config.json").write_text("{ }")
    assert encoder_identity(str(tmp_path)) != before


def test_pretraining_table_ranks_the_models(study):
    table = languages.pretraining(PAIR, 20).pivot(index="language", columns="model", values="perplexity")
    assert (table["pretrained"] < table["word_frequencies"]).all()


def test_true_distances_are_tidy():
    table = languages.true_distances(PAIR)
    assert len(table) == 4 * 4
    assert (table[table["a"] == table["b"]]["distance"] == 0).all()


def test_the_model_cache_keeps_the_last_few():
    cache, loaded = ModelCache(size=2), []

    def model_of(name):
        return cache.get(name, lambda: loaded.append(name) or torch.nn.Identity())

    first = model_of("a")
    assert model_of("b") is not first and model_of("a") is first and loaded == ["a", "b"]
    model_of("c")  # "b" was used least recently
    assert model_of("a") is first and loaded == ["a", "b", "c"]
    model_of("b")
    cache.clear()
    assert model_of("a") is not first and loaded == ["a", "b", "c", "b", "a"]
