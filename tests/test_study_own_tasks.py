"""A study of a task of its own: three labels in local files, parallel, whose columns have other names."""

import pandas as pd
import pytest

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.study.labels import labelled
from xsub_utils.study.nb01_finetuning import tables as finetuning
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity import kinship, overlaps
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.study import Study, collect

WORDS = {"en": "qaa", "de": "qab"}  # the words are invented
LABELS = ["travel", "sports", "food"]
TOPIC = {"kind": "sequence", "labels": LABELS, "columns": {"id": "key", "text": "sentence", "label": "topic"}}
SMALL = {"train_size": 24, "importance_size": 8, "validation_size": 12, "test_size": 16, "pool": 2, "epochs": 1}
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "topic").mkdir()
    for code, language in WORDS.items():
        rows = minibabel.examples("parallel", language, range(120))
        table = pd.DataFrame({"key": rows["id"], "sentence": rows["text"]})
        table["topic"] = [LABELS[number % 3] for number in range(len(table))]
        table.to_csv(folder / "topic" / f"{code}.csv", index=False)
    return folder


def study_of(folder, **changes):
    return Study(list(WORDS), source="local", data=str(folder), own_tasks={"topic": TOPIC | changes}, **SMALL)


@pytest.fixture(scope="module")
def study(folder):
    return study_of(folder, parallel=True)


def test_the_task_is_as_described(study):
    task = study.task("topic")
    assert (task.kind, list(task.labels), task.metric) == ("sequence", LABELS, "accuracy")
    assert {split: len(rows) for split, rows in task.splits.items()} == {
        "train": 48,
        "importance": 32,
        "validation": 48,
        "test": 32,
    }


def test_tables_of_notebook_01(study):
    scores = pd.concat([collect(finetuning.scores, study, ["topic"], [0]), finetuning.baseline_scores(study, "topic")])
    assert set(scores["model"]) == {"finetuned", "bag_of_words", "constant"} and scores["score"].between(0, 1).all()
    assert set(labelled(scores, "model")["model"]) == {"fine-tuned", "bag of words", "constant answer"}
    assert len(finetuning.transfer(study, "topic", 0)) == 4


def test_tables_of_notebook_02(study):
    crossed = pruning.cross_evaluation(study, "topic", 0, 0)
    assert set(crossed["control"]) == {
        "own",
        "other_language",
        "random",
        "shuffled_within",
        "shuffled_over",
        "inverted",
        "constant",
    }
    assert (pruning.trajectories(study, "topic", 0, 0)["sparsity"].diff().dropna() != 0).all()


def test_tables_of_notebook_03(study):
    pairs = overlaps.pairs(overlaps.all_masks(study, ["topic"], [0], [0, 1]))
    assert set(pairs["differs"]) == {"mask_seed", "language"}
    across = states.across_languages(study, "topic", 0, 0)
    assert {"related", "related_own"} <= set(kinship.with_relation(across, study)["relation"])


def test_sentences_are_those_of_a_parallel_task_that_no_model_is_trained_on(study, folder):
    texts, task = states.parallel(study), study.task("topic")
    ids = [task.examples("test", code).set_index("text")["id"][texts[code]].tolist() for code in WORDS]
    assert ids[0] == ids[1] and len(ids[0]) == SMALL["test_size"]
    assert not set(ids[0]) & set(task.examples("train")["id"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sequense"}, r"own_tasks\['topic'\], kind: expected one of .*did you mean 'sequence'"),
        ({"labels": None}, r"own_tasks\['topic'\], labels: expected the names of at least two classes"),
        ({"label": LABELS}, "entry of .* expected one of .* did you mean 'labels'"),
        ({"metric": "f1"}, r"own_tasks\['topic'\], metric: expected one of accuracy"),
        ({"dataset": "own/topic"}, "entry of .* with source 'local': expected one of"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        study_of(folder, **changes)


def test_own_tasks_need_a_source_that_has_them():
    with pytest.raises(ValueError, match="own_tasks: expected none for source 'minibabel', got topic"):
        Study(["qaa"], own_tasks={"topic": TOPIC})
    with pytest.raises(ValueError, match=r"own_tasks.*expected an entry 'kind', got only labels"):
        Study(["en"], source="hub", own_tasks={"topic": {"labels": LABELS}})
    with pytest.raises(ValueError, match="own_tasks: expected at most one parallel task, got topic, genre"):
        both = dict.fromkeys(["topic", "genre"], TOPIC | {"parallel": True})
        Study(["en"], source="hub", own_tasks=both)


def test_equal_descriptions_make_equal_studies(study, folder):
    again = study_of(folder, parallel=True)
    assert again == study and hash(again) == hash(study) and again.task("topic") is study.task("topic")
    assert study_of(folder) != study
