"""Tasks and their splits."""

import json
from dataclasses import FrozenInstanceError, replace
from itertools import combinations

import pandas as pd
import pytest
from test_local import PUD, PUD_LANGUAGES, needs_pud

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel.languages import LANGUAGES, Language
from xsub_utils.data.schema import TASKS
from xsub_utils.data.splits import SPLITS, draw_splits
from xsub_utils.data.tasks import load_task

SMALL = {"train": 20, "importance": 5, "validation": 5, "test": 10}
ALL = [language.code for language in LANGUAGES]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for every test."""
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "home"))


def texts(rows, spec):
    """Every text of the rows; of a pair, each half by itself."""
    return {str(text) for column in spec.inputs for text in rows[column]}


def assert_disjoint(task):
    """No id and no text, in any language, stands in two splits."""
    for one, other in combinations(task.splits.values(), 2):
        assert_apart(one, other, task.spec)


def assert_apart(a, b, spec):
    assert not set(a["id"]) & set(b["id"])
    assert not texts(a, spec) & texts(b, spec)


def assert_sized(task, sizes):
    for split, size in sizes.items():
        assert task.examples(split)["language"].value_counts().to_dict() == dict.fromkeys(task.languages, size)


# MiniBabel


@pytest.mark.parametrize("name", minibabel.ROWS)
def test_minibabel_tasks_are_sized_and_disjoint(name):
    task = load_task(name, ALL[:3], sizes=SMALL)
    assert task.spec is TASKS[name]
    assert (task.name, task.source, task.languages) == (name, "minibabel", tuple(ALL[:3]))
    assert task.examples("train").columns.tolist() == ["id", "language", *task.spec.columns]
    assert_sized(task, SMALL)
    assert_disjoint(task)
    if task.labels:
        used = set(task.examples("train")[task.spec.columns[-1]].explode())
        assert used <= set(range(len(task.labels)))


@pytest.mark.parametrize("name", minibabel.PARALLEL)
def test_parallel_rows_stand_side_by_side(name):
    task = load_task(name, ["qba", "qaa"], sizes=SMALL)
    for split in SMALL:
        ids = [task.examples(split, language)["id"].tolist() for language in ("qba", "qaa")]
        assert ids[0] == ids[1]
    assert task.examples("train")["language"].unique().tolist() == ["qba", "qaa"]


def test_the_examples_are_minibabel_s_own():
    task = load_task("nli", ["qab"], sizes={"train": 6}, difficulty=2, language_seed=3)
    made = minibabel.examples("nli", "qab", range(20), seed=3, difficulty=2).set_index("id")
    drawn = task.examples("train").set_index("id")
    pd.testing.assert_frame_equal(drawn, made.loc[drawn.index])


def test_splits_of_any_size_and_seed_never_meet_in_minibabel():
    big = load_task("nli", ["qaa"], sizes={"train": 300})
    small = load_task("nli", ["qaa"], sizes={"test": 50})
    other = load_task("nli", ["qaa"], sizes={"train": 300}, seed=1)
    assert not set(big.examples("train")["id"]) & set(small.examples("test")["id"])
    assert not set(big.examples("train")["id"]) & set(other.examples("train")["id"])


def test_even_the_simplest_meanings_suffice():
    task = load_task("reviews", ["qaa"], sizes={"train": 200, "test": 100}, difficulty=0)
    assert_sized(task, {"train": 200, "test": 100})
    assert_disjoint(task)


def test_languages_of_one_s_own_can_be_added():
    mine = Language("qad", "qaa", "SOV", "Grek", 0.8)
    task = load_task("nli", ["qad", "qaa"], sizes={"train": 3}, known=(*LANGUAGES, mine))
    assert_sized(task, {"train": 3})


# Splits


def rows_of(have, part=None):
    """Rows with the ids given per language, each with a text of its own."""
    rows = [(name, language, part, f"{language} {name}") for language, names in have.items() for name in names]
    return pd.DataFrame(rows, columns=["id", "language", "part", "text"])


def draw(rows, sizes, seed=0):
    return draw_splits(rows, list(dict.fromkeys(rows["language"])), sizes, seed, ["text"])


def test_splits_are_drawn_over_ids():
    names = [str(i) for i in range(10)]
    drawn = draw(rows_of({"de": names, "en": names[::-1]}), {"train": 6, "test": 4})
    for split in drawn.values():
        by_language = split.groupby("language")["id"].agg(list)
        assert by_language["de"] == by_language["en"]
    assert set(drawn["train"]["id"]) | set(drawn["test"]["id"]) == set(names)


def test_ids_of_one_language_fill_up_after_shared_ones():
    rows = rows_of({"de": ["1", "2", "a", "b"], "en": ["1", "2", "c", "d"]})
    drawn = draw(rows, {"train": 2, "test": 2})
    assert set(drawn["train"]["id"]) == {"1", "2"}
    assert set(drawn["test"]["id"]) == {"a", "b", "c", "d"}


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows():
    rows = rows_of({"de": [str(i) for i in range(50)]})
    first = draw(rows, {"train": 20})["train"]
    again = draw(rows.sample(frac=1, random_state=1), {"train": 20})["train"]
    pd.testing.assert_frame_equal(first, again)
    assert set(first["id"]) != set(draw(rows, {"train": 20}, seed=1)["train"]["id"])


def test_equal_texts_keep_one_id_and_the_test_split_keeps_its_own():
    rows = pd.concat(
        [
            rows_of({"de": ["train-1", "train-2"], "en": ["train-1", "train-2"]}, "train"),
            rows_of({"de": ["test-1"], "en": ["test-1"]}, "test"),
        ],
        ignore_index=True,
    )
    rows.loc[rows["id"].isin(["train-2", "test-1"]) & (rows["language"] == "de"), "text"] = "the same"
    drawn = draw(rows, {"train": 1, "test": 1})
    assert set(drawn["test"]["id"]) == {"test-1"}
    assert set(drawn["train"]["id"]) == {"train-1"}  # in no language the translation of a text of the test split
    with pytest.raises(ValueError, match=r"texts in part 'train': de 1, en 1, got train 2 = 2 of each language"):
        draw(rows, {"train": 2, "test": 1})


@pytest.mark.parametrize(
    ("parts", "origin"),
    [
        (["train", "validation", "test"], ["train", "validation", "validation", "test"]),
        (["train", "test"], ["train", "train", "train", "test"]),
        (["train", "validation"], ["train", "validation", "validation", "train"]),
        (["train", "importance", "test"], ["train", "importance", "train", "test"]),
    ],
)
def test_parts_of_the_source_are_respected(parts, origin):
    rows = pd.concat([rows_of({"de": [f"{part}-{i}" for i in range(9)]}, part) for part in parts])
    drawn = draw(rows, dict.fromkeys(SPLITS, 2))
    found = {split: {name.split("-")[0] for name in rows["id"]} for split, rows in drawn.items()}
    assert found == {split: {part} for split, part in zip(SPLITS, origin, strict=True)}


def test_sources_without_a_train_part_are_one_pool():
    rows = pd.concat([rows_of({"de": [f"{part}{i}" for i in range(4)]}, part) for part in ("test", "validation")])
    assert {split: len(rows) for split, rows in draw(rows, dict.fromkeys(SPLITS, 2)).items()} == dict.fromkeys(
        SPLITS, 2
    )


def test_parts_that_are_the_splits_asked_for_need_no_train_part():
    rows = pd.concat([rows_of({"de": [f"{part}-{i}" for i in range(3)]}, part) for part in ("validation", "test")])
    drawn = draw(rows, {"validation": 3, "test": 3})
    assert {name.split("-")[0] for name in drawn["test"]["id"]} == {"test"}
    assert not set(draw(rows, {"train": 3, "test": 3})["train"]["id"]) & set(
        draw(rows, {"train": 3, "test": 3})["test"]["id"]
    )


def test_too_few_rows_are_counted_per_language():
    rows = rows_of({"de": ["1", "2", "3"], "en": ["1", "2"], "fr": []})
    with pytest.raises(ValueError, match=r"different texts: en 2, fr 0, got train 2 \+ test 1 = 3 of each language"):
        draw_splits(rows, ["de", "en", "fr"], {"train": 2, "test": 1}, 0, ["text"])


# Texts that several rows share


def pairs_of(premises, part=None, languages=("de", "en")):
    """Three hypotheses a premise, in order, as in XNLI; no text of a language stands in the other."""
    start = f"{part}-" if part else ""
    rows = [
        (f"{start}{i}", language, part, f"{language} {start}p{i // 3}", f"{language} {start}h{i}", i % 3)
        for i in range(3 * premises)
        for language in languages
    ]
    return pd.DataFrame(rows, columns=["id", "language", "part", "text", "text_pair", "label"])


def draw_pairs(rows, sizes, seed=0):
    """Splits of pairs, checked: as large as asked, the same ids in all languages, no text in two of them."""
    languages = sorted(set(rows["language"]))
    drawn = draw_splits(rows, languages, sizes, seed, TASKS["nli"].inputs)
    for split, size in sizes.items():
        ids = drawn[split].groupby("language")["id"].agg(list)
        assert [len(ids[language]) for language in languages] == [size] * len(languages)
        assert all(ids[language] == ids[languages[0]] for language in languages)
    for one, other in combinations(drawn.values(), 2):
        assert_apart(one, other, TASKS["nli"])
    return drawn


@pytest.mark.parametrize("parts", [[None], ["train", "validation", "test"], ["train"], ["validation", "test"]])
@pytest.mark.parametrize("seed", range(3))
def test_a_premise_stands_in_one_split_with_all_its_hypotheses(parts, seed):
    rows = pd.concat([pairs_of(30, part) for part in parts])
    draw_pairs(rows, {"train": 31, "importance": 10, "validation": 10, "test": 20}, seed)


def test_groups_are_drawn_the_same_whatever_the_order_of_rows():
    rows = pairs_of(20)
    first, again = draw_pairs(rows, SMALL), draw_pairs(rows.sample(frac=1, random_state=1), SMALL)
    for split in SMALL:
        pd.testing.assert_frame_equal(first[split], again[split])
    assert set(first["test"]["id"]) != set(draw_pairs(rows, SMALL, seed=1)["test"]["id"])


def test_what_is_too_much_for_a_split_is_in_none():
    rows = pairs_of(2)
    drawn = draw_pairs(rows, {"train": 2, "test": 2})
    assert {split: set(rows["text"].str[4:]) for split, rows in drawn.items()} in (
        {"train": {"0"}, "test": {"1"}},
        {"train": {"1"}, "test": {"0"}},
    )
    with pytest.raises(ValueError, match=r"de 6, en 6 \(rows that share a text stay together: up to 3 ids"):
        draw_pairs(rows, {"train": 4, "test": 2})


@pytest.mark.parametrize(
    ("language", "column", "text"),
    [("de", "text_pair", "de h0"), ("en", "text", "en p0"), ("en", "text_pair", "de p0"), ("de", "text", "en h0")],
)
def test_texts_link_over_languages_and_over_both_halves(language, column, text):
    rows = pairs_of(2)
    rows.loc[(rows["id"] == "3") & (rows["language"] == language), column] = text
    with pytest.raises(ValueError, match="up to 6 ids"):
        draw_pairs(rows, {"train": 1, "test": 1})


def test_a_large_group_goes_where_most_of_it_fits():
    rows = pairs_of(40)
    rows.loc[rows["id"].astype(int) % 6 == 0, "text_pair"] = "Yes."  # links half of the premises
    for seed in range(5):
        drawn = draw_pairs(rows, {"importance": 10, "train": 60, "test": 10}, seed)
        assert "Yes." in set(drawn["train"]["text_pair"])


def test_half_a_pair_of_the_test_part_is_not_trained_on():
    rows = pd.concat([pairs_of(5, "train"), pairs_of(3, "validation"), pairs_of(2, "test")], ignore_index=True)
    rows.loc[(rows["id"] == "train-4") & (rows["language"] == "en"), "text"] = "en test-h0"
    rows.loc[rows["id"] == "train-7", "text_pair"] = "de validation-h1"
    rows.loc[rows["id"].isin(["train-9", "validation-2"]), "text_pair"] = "en validation-h2"
    rows.loc[rows["id"] == "validation-2", "text"] = "de test-p1"  # lost to the test part, so train-9 is not
    drawn = draw_pairs(rows, {"train": 13, "validation": 8, "test": 6})
    assert set(drawn["train"]["id"]) == {f"train-{i}" for i in range(15)} - {"train-4", "train-7"}
    assert set(drawn["validation"]["id"]) == {f"validation-{i}" for i in range(9)} - {"validation-2"}


# Local files


def write_pairs(folder, count=40):
    folder.mkdir(exist_ok=True)
    for language in ("de", "en"):
        rows = [{"premise": f"{language} {i}", "hypothesis": f"h {i}", "label": i % 3} for i in range(count)]
        pd.DataFrame(rows).to_parquet(folder / f"{language}.parquet")
    return folder


def test_local_files_give_parallel_splits(tmp_path):
    path = write_pairs(tmp_path / "data")
    task = load_task("nli", ["en", "de"], source="local", path=path, sizes=SMALL)
    assert_sized(task, SMALL)
    assert_disjoint(task)
    de, en = task.examples("test", "de"), task.examples("test", "en")
    assert de["id"].tolist() == en["id"].tolist()
    assert de["text"].str[3:].tolist() == en["text"].str[3:].tolist()
    assert de["label"].tolist() == en["label"].tolist() == [int(i) % 3 for i in en["id"]]


@needs_pud
@pytest.mark.parametrize("name", ["upos", "mlm", "parallel"])
def test_pud_gives_the_same_sentences_in_every_language(name):
    languages = PUD_LANGUAGES[:2]
    sizes = {"train": 600, "importance": 100, "validation": 100, "test": 200}
    task = load_task(name, languages, source="local", path=PUD, sizes=sizes)
    assert_sized(task, sizes)
    assert_disjoint(task)
    for split in sizes:
        ids = task.examples(split, "ar")["id"].tolist()
        assert all(task.examples(split, language)["id"].tolist() == ids for language in languages)


# The store


def test_a_task_is_read_once(tmp_path):
    path = write_pairs(tmp_path / "data")
    options = {"source": "local", "path": path, "sizes": SMALL}
    first = load_task("nli", ["de"], **options)
    again = load_task("nli", ["de"], **options)
    stored = list((tmp_path / "home" / "artifacts" / "task").glob("[!.]*"))
    assert len(stored) == 1
    assert first.identity == again.identity
    for split in SMALL:
        pd.testing.assert_frame_equal(first.splits[split], again.splits[split])
    write_pairs(path, 41)
    assert load_task("nli", ["de"], **options).identity != first.identity


def test_the_identity_is_that_of_the_content(tmp_path):
    task = load_task("ner", ["qaa"], sizes=SMALL)
    for split in SMALL:
        task.examples(split).to_json(tmp_path / f"qaa_{split}.jsonl", orient="records", lines=True)
    assert load_task("ner", ["qaa"], sizes=SMALL, seed=1).identity != task.identity
    assert load_task("ner", ["qaa"], sizes=SMALL, difficulty=2).identity != task.identity
    one = load_task("ner", ["qaa"], sizes={"train": 20}, source="local", path=tmp_path / "qaa_train.jsonl")
    assert sorted(one.examples("train")["id"]) == sorted(task.examples("train")["id"])


def test_words_and_labels_come_back_as_lists():
    row = load_task("ner", ["qaa"], sizes={"train": 2}).examples("train").iloc[0]
    assert type(row["tokens"]) is list
    assert type(row["labels"]) is list
    json.dumps([row["tokens"], row["labels"]])


def test_a_task_cannot_be_changed_by_its_examples():
    task = load_task("nli", ["qaa"], sizes={"train": 2})
    rows = task.examples("train")
    rows["label"] = 9
    assert (task.examples("train")["label"] < 3).all()
    with pytest.raises(FrozenInstanceError):
        task.source = "hub"
    assert replace(task, source="hub").source == "hub"


# Arguments


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "nil"}, "did you mean 'nli'"),
        ({"name": "upos"}, "source 'minibabel'.*expected one of nli.*got 'upos'"),
        ({"languages": ["qax"]}, "expected one of qaa.*got 'qax'"),
        ({"languages": "qaa"}, "languages: expected a list of different codes"),
        ({"languages": []}, "languages: expected a list of different codes"),
        ({"languages": ["qaa", "qaa"]}, "different codes"),
        ({"source": "minibable"}, "did you mean 'minibabel'"),
        ({"difficulti": 2}, "did you mean 'difficulty'"),
        ({"drop_invalid": True}, "got 'drop_invalid'"),
        ({"source": "hub", "reversion": "abc"}, "did you mean 'revision'"),
        ({"path": "here"}, "path: expected None for source 'minibabel', got 'here'"),
        ({"source": "local"}, "path: expected a file or folder for source 'local', got None"),
        ({"sizes": {"report": 5}}, "expected one of train, importance, validation, test, got 'report'"),
        ({"sizes": {"train": 0}}, r"sizes\['train'\]: expected at least 1, got 0"),
        ({"sizes": {}}, "sizes: expected rows per language.*got none"),
    ],
)
def test_wrong_arguments_are_named(change, said):
    arguments = {"name": "nli", "languages": ["qaa"]} | change
    with pytest.raises(ValueError, match=said):
        load_task(arguments.pop("name"), arguments.pop("languages"), **arguments)


def test_wrong_splits_and_languages_are_named():
    task = load_task("nli", ["qaa"], sizes={"train": 2})
    with pytest.raises(ValueError, match="split: expected one of train, got 'test'"):
        task.examples("test")
    with pytest.raises(ValueError, match="language: expected one of qaa, got 'qba'"):
        task.examples("train", "qba")
