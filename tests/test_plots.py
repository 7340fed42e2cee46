"""Figures, tested on the data of their artists and on the bytes of their files; no pixel is compared."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from xsub_utils import plots
from xsub_utils.drawings import pruning
from xsub_utils.drawings.__main__ import main

TASKS, LANGUAGES, SEEDS = ["nli", "ner"], ["qaa", "qba"], [0, 1]


def grid(**values):
    """A tidy table with one row for every combination."""
    return pd.MultiIndex.from_product(values.values(), names=values.keys()).to_frame(index=False)


def with_numbers(table, *columns):
    rng = np.random.default_rng(0)
    return table.assign(**{column: rng.random(len(table)).round(3) for column in columns})


PAIRS = grid(task=TASKS, source=LANGUAGES, target=LANGUAGES, seed=SEEDS)
SEARCHES = {"task": TASKS, "seed": SEEDS, "mask_seed": [0, 1], "language": LANGUAGES}
HEADS = grid(task=TASKS, language=LANGUAGES, layer=[1, 2, 3], head=[1, 2])
TABLES = {
    "00_family": pd.DataFrame(
        {
            "node": ["qaa", "qab", "A"],
            "parent": ["A", "A", ""],
            "leaf": [True, True, False],
            "order": ["SVO", "SOV", ""],
            "script": ["Latn", "Cyrl", ""],
        }
    ),
    "00_distances": with_numbers(grid(kind=["tree", "lexical"], a=LANGUAGES, b=LANGUAGES), "distance"),
    "00_pretraining": with_numbers(grid(model=["untrained twin", "pre-trained"], language=LANGUAGES), "perplexity"),
    "01_scores": with_numbers(
        grid(
            task=TASKS,
            metric=["accuracy"],
            language=LANGUAGES,
            model=["fine-tuned", "bag of words"],
            seed=SEEDS,
        ),
        "score",
    ),
    "01_learning": with_numbers(grid(task=TASKS, seed=SEEDS, language=LANGUAGES, epoch=[1, 2, 3]), "score"),
    "01_zero_shot": with_numbers(PAIRS, "score"),
    "01_kinship": with_numbers(PAIRS.assign(family="unrelated"), "score", "relatedness"),
    "02_importance": with_numbers(HEADS, "importance"),
    "02_survival": with_numbers(HEADS, "survival"),
    "02_layers": with_numbers(grid(**SEARCHES, layer=[1, 2]), "kept"),
    "02_retention": with_numbers(grid(**SEARCHES, removed=[0.0, 0.5, 1.0]), "retention"),
    "02_sizes": with_numbers(grid(**SEARCHES, retain=[0.9, 0.95, 0.98]), "kept"),
    "02_cross_evaluation": with_numbers(grid(**SEARCHES, mask=LANGUAGES), "difference"),
    "02_controls": with_numbers(grid(**SEARCHES, control=["own", "random", "union"]), "retention"),
}


@pytest.fixture(autouse=True)
def closed_afterwards():
    yield
    plt.close("all")


def test_every_drawing_has_a_table_here():
    assert {name[3:] for name in TABLES} == set(plots.DRAWINGS)
    assert pruning.CONTROLS.keys() >= set(TABLES["02_controls"]["control"])


@pytest.mark.parametrize("name", TABLES)
def test_same_table_same_bytes_and_redraw(name, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        plots.save(plots.draw(name, TABLES[name]), name, TABLES[name], folder)
    written = {suffix: (folders[0] / f"{name}{suffix}").read_bytes() for suffix in (".png", ".pdf", ".csv")}
    for suffix, content in written.items():
        assert (folders[1] / f"{name}{suffix}").read_bytes() == content, suffix
    (folders[0] / f"{name}.png").unlink()
    assert plots.redraw(folders[0]) == [name]
    assert (folders[0] / f"{name}.png").read_bytes() == written[".png"]


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("00_family",)])
def test_axes_are_labelled(name):
    figure = plots.draw(name, TABLES[name])
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    for ax in shown:
        own = ax.get_xlabel() or ax.get_ylabel() or ax.get_title()
        assert own or figure.get_supxlabel(), f"an axis of {name} says nothing"


def test_heat_maps_hold_means_in_the_order_of_the_table():
    figure = plots.draw("01_zero_shot", TABLES["01_zero_shot"])
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == LANGUAGES
    nli = TABLES["01_zero_shot"].query("task == 'nli'")
    mean = nli.query("source == 'qaa' and target == 'qba'")["score"].mean()
    assert ax.collections[0].get_array().reshape(2, 2)[0, 1] == pytest.approx(mean)


def test_head_maps_have_layers_upwards():
    figure = plots.draw("02_survival", TABLES["02_survival"])
    first = TABLES["02_survival"].query("task == 'nli' and language == 'qaa'")
    image = figure.axes[0].images[0]
    assert image.origin == "lower"
    np.testing.assert_allclose(image.get_array()[0], first.query("layer == 1")["survival"])


@pytest.mark.parametrize("name", ["01_scores", "01_kinship", "01_learning", "02_layers", "02_retention", "02_sizes"])
def test_one_legend_stands_above_all_panels(name):
    figure = plots.draw(name, TABLES[name])
    assert len(figure.legends) == 1 and not any(ax.get_legend() for ax in figure.axes)
    column = {"01_scores": "model", "01_kinship": "family"}.get(name, "language")
    assert [text.get_text() for text in figure.legends[0].texts] == list(TABLES[name][column].unique())


def test_kinship_prints_spearman_without_the_diagonal():
    table = TABLES["01_kinship"]
    off = table[(table["task"] == "nli") & (table["source"] != table["target"])]
    rho = off["score"].corr(off["relatedness"], method="spearman")
    assert f"{rho:.2f}" in plots.draw("01_kinship", table).axes[0].get_title()


def test_no_folder_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plots.save(plots.draw("02_sizes", TABLES["02_sizes"]), "02_sizes", TABLES["02_sizes"], "")
    assert not list(tmp_path.iterdir())


def test_unknown_figures_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="no such figure"):
        plots.draw("09_nothing", TABLES["02_sizes"])
    with pytest.raises(ValueError, match="empty"):
        plots.draw("02_sizes", TABLES["02_sizes"].iloc[:0])


def test_redraw_says_what_it_drew(tmp_path, capsys):
    plots.save(plots.draw("02_sizes", TABLES["02_sizes"]), "02_sizes", TABLES["02_sizes"], tmp_path / "ud")
    assert main([str(tmp_path)]) == 0
    assert "1 figures" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 1
