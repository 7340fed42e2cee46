"""Figures, tested on the data of their artists and on the bytes of their files; no pixel is compared."""

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager

from xsub_utils.study import drawing, fonts
from xsub_utils.study.conditions import Differs
from xsub_utils.study.csv_tables import parse_table
from xsub_utils.study.labels import LABELS

TASKS, LANGUAGES, SEEDS = ["nli", "ner"], ["qaa", "qba"], [0, 1]
EIGHT = ["en", "de", "fr", "es", "ru", "zh", "ar", "hi"]


def grid(**values):
    """A tidy table with one row for every combination."""
    return pd.MultiIndex.from_product(values.values(), names=values.keys()).to_frame(index=False)


def with_numbers(table, *columns):
    rng = np.random.default_rng(0)
    return table.assign(**{column: rng.random(len(table)).round(3) for column in columns})


PAIRS = grid(task=TASKS, source=LANGUAGES, target=LANGUAGES, seed=SEEDS)
SEARCHES = {"task": TASKS, "seed": SEEDS, "mask_seed": [0, 1], "language": LANGUAGES}
FIVE = list(Differs)
ESTIMATES = grid(task=TASKS, sign=["positive", "negative"], condition=["own", "random_heads"])
HEADS = grid(task=TASKS, language=LANGUAGES, layer=[1, 2, 3], head=[1, 2])
VARIANTS = ["full_finetuning", "sparse_own"]
MODELS = ["full_all", "sparse_through_own"]
MASKS = ["ticket", "ticket_other_seed", "random_weights"]
DIFFERS = ["another_language", "another_seed"]
PAIR = {"pair": ["qaa + qab"], "language": ["qaa", "qab"]}
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
    "00_pretraining": with_numbers(grid(model=["untrained", "pretrained"], language=LANGUAGES), "perplexity"),
    "01_scores": with_numbers(
        grid(
            task=TASKS,
            metric=["accuracy"],
            language=LANGUAGES,
            model=["finetuned", "bag_of_words"],
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
    "02_retention": with_numbers(grid(**SEARCHES, sparsity=[0.0, 0.5, 1.0]), "retention"),
    "02_sizes": with_numbers(grid(**SEARCHES, retain=[0.9, 0.95, 0.98]), "kept"),
    "02_cross_evaluation": with_numbers(grid(**SEARCHES, mask=LANGUAGES), "difference"),
    "02_controls": with_numbers(grid(**SEARCHES, control=["own", "random", "union"]), "retention"),
    "03_overlap": with_numbers(
        grid(differs=FIVE, measure=["jaccard", "expected_within", "adjusted_within"]), "mean"
    ).assign(low=0.0, high=1.0),
    "03_variance": with_numbers(
        grid(quantity=["heads_kept", "head_importance"], component=["task", "model", "data"]), "share"
    ).assign(low=0.0, high=1.0),
    "03_languages": with_numbers(grid(task=TASKS, a=LANGUAGES, b=LANGUAGES), "adjusted_within"),
    "03_tasks": with_numbers(grid(a=TASKS, b=TASKS), "adjusted_within"),
    "03_survivors": with_numbers(grid(task=[*TASKS, "all"], language=[*LANGUAGES, "all"]), "expected").assign(kept=2),
    "03_importance_map": with_numbers(grid(**SEARCHES, method=["t-SNE", "MDS"]), "x", "y"),
    "03_cka": with_numbers(
        grid(
            against=["full", "own"],
            other=["random_heads", "own"],
            task=TASKS,
            pool=["first", "mean"],
            level=[1, 2],
        ),
        "cka",
    ),
    "03_levels": with_numbers(grid(other=["same_model", "another_task"], level=[0, 1, 2], level_b=[0, 1, 2]), "cka"),
    "03_parallel": with_numbers(
        grid(task=TASKS, measure=["cka", "rsa"], relation=["related", "unrelated"], level=[0, 1, 2]), "value"
    ),
    "03_perplexity": with_numbers(grid(model=["pretrained", "finetuned"], **SEARCHES), "perplexity"),
    "03_masked_crossed": with_numbers(grid(mask=LANGUAGES, language=LANGUAGES, seed=SEEDS), "ratio"),
    "03_truth": with_numbers(
        grid(measure=["mask_jaccard", "zero_shot_transfer"], kind=["tree", "script"]), "rho"
    ).assign(low=0.0, high=1.0, p=[0.01, 0.2, 0.3, 0.04]),
    "03_stability": with_numbers(
        grid(measure=["mask_jaccard", "cka_of_states"], seed=["mask_seed", "model_seed"]), "mean", "chance", "ceiling"
    ).assign(low=0.0, high=1.0),
    "04_conditions": with_numbers(
        grid(
            group=["subnetworks", "controls"],
            condition=["itself", "task"],
            map=["closed_form", "trained"],
            level=[1, 2],
            task=TASKS,
        ),
        "ra",
        "above_chance",
    ),
    "04_maps": with_numbers(
        grid(condition=["itself", "task"], map=["closed_form", "trained"], level=[1, 2]), "above_chance"
    ),
    "04_languages_stitched": with_numbers(grid(level=[1, 2], a=LANGUAGES, b=LANGUAGES), "above_chance"),
    "04_tasks_stitched": with_numbers(grid(level=[1, 2], a=TASKS, b=TASKS), "above_chance"),
    "04_pairs": with_numbers(grid(level=[1, 2], a=TASKS, b=TASKS), "above_chance"),
    "04_against": with_numbers(
        grid(front=["subnetwork_of_task", "heads_shuffled"], task=TASKS, level=[1, 2], kind=["jaccard", "cka_mean"]),
        "likeness",
        "above_chance",
    ),
    "05_influence": with_numbers(grid(condition=["full", "own"], task=TASKS, a=LANGUAGES, b=LANGUAGES), "share"),
    "05_specialisation": with_numbers(ESTIMATES, "mean").assign(low=0.0, high=1.0),
    "05_contrasts": with_numbers(ESTIMATES, "mean").assign(low=0.0, high=1.0),
    "05_damage": with_numbers(
        grid(task=TASKS, condition=["own", "random_heads"], language=LANGUAGES), "retained", "rise"
    ),
    "05_epochs": with_numbers(
        grid(task=TASKS, seed=SEEDS, condition=["full", "own"], language=LANGUAGES, epoch=[1, 2]),
        "share",
    ).assign(chance=0.5),
    "05_groups": with_numbers(
        grid(task=TASKS, group=["all", "embeddings", "head"], language=LANGUAGES), "share"
    ).assign(chance=0.5),
    "05_translations": with_numbers(grid(task=TASKS, seed=SEEDS, condition=["full", "own"]), "translated", "chance"),
    "05_influence_pairs": with_numbers(
        grid(measure=["mask_jaccard", "true_relatedness_tree"], task=TASKS, a=LANGUAGES, b=LANGUAGES),
        "likeness",
        "share",
    ),
    "05_imbalance": with_numbers(
        grid(seed=SEEDS, changed=LANGUAGES, examples=["of_language", "of_others"], chance=[0.1, 0.3]), "share"
    ),
    "05_unseen": with_numbers(grid(a=LANGUAGES, b=["qab", "qbb"]), "share"),
    "05_removals": with_numbers(
        grid(seed=SEEDS, language=LANGUAGES, removed=["nothing", "proponents", "random_examples"]), "change", "loss"
    ),
    "06_variants": with_numbers(
        grid(task=TASKS, seed=SEEDS, variant=VARIANTS, heads=["all_heads", "own"], language=LANGUAGES),
        "score",
    ).assign(chance=0.3),
    "06_by_language": with_numbers(grid(task=TASKS, seed=SEEDS, model=MODELS, language=LANGUAGES), "score"),
    "06_own_shares": with_numbers(grid(task=TASKS, variant=VARIANTS, condition=["all_heads", "own"]), "mean").assign(
        low=0.0, high=1.0, chance=0.5
    ),
    "06_each_shares": with_numbers(
        grid(task=TASKS, variant=VARIANTS, condition=["each_own", "each_swapped"]), "mean"
    ).assign(low=0.0, high=1.0, chance=0.5),
    "06_differences": with_numbers(grid(task=[*TASKS, "all"], what=["full_own_all", "sparse_own_all"]), "mean").assign(
        low=0.0, high=1.0
    ),
    "06_each_differences": with_numbers(
        grid(task=[*TASKS, "all"], what=["each_swapped_sparse", "each_sparse_one_language"]), "mean"
    ).assign(low=0.0, high=1.0),
    "06_dynamics": with_numbers(grid(task=TASKS, seed=SEEDS, model=MODELS, epoch=[1, 2]), "share").assign(chance=0.5),
    "06_dials": with_numbers(
        grid(dial=["sparsity", "difficulty"], value=[0, 1], variant=VARIANTS, language=LANGUAGES),
        "score",
        "share",
        "kept",
    ).assign(score_chance=0.4, share_chance=0.2),
    "06_composition": with_numbers(
        grid(task=TASKS, seed=SEEDS, way=["union_of_heads", "full_changes_sum"], **PAIR), "score"
    ).assign(chance=0.4),
    "06_composed_shares": with_numbers(
        grid(task=TASKS, seed=SEEDS, way=["union_of_heads", "own_heads"], **PAIR), "own", "other"
    ).assign(chance=0.2),
    "06_left_out": with_numbers(
        grid(
            task=TASKS,
            seed=SEEDS,
            variant=VARIANTS,
            trained=["with_language", "without_language"],
            heads=["all_heads", "own"],
        ),
        "score",
    ).assign(chance=0.4),
    "07_ticket_curves": with_numbers(
        grid(task=["nli", "mlm"], seed=SEEDS, language=LANGUAGES, sparsity=[0.0, 0.5]), "score", "chance"
    ),
    "07_ticket_kinds": with_numbers(
        grid(task=TASKS, seed=SEEDS, kind=["ticket", "random_weights"], language=LANGUAGES), "relative"
    ),
    "07_ticket_layers": with_numbers(grid(task=TASKS, differs=DIFFERS, part=[1, 2], a=LANGUAGES), "jaccard"),
    "07_ticket_components": with_numbers(grid(task=TASKS, differs=DIFFERS, part=["query", "key"]), "jaccard"),
    "07_ticket_overlap": with_numbers(grid(task=TASKS, a=LANGUAGES, b=LANGUAGES), "jaccard"),
    "07_ticket_departures": with_numbers(grid(task=TASKS, differs=DIFFERS, a=LANGUAGES), "jaccard", "expected"),
    "07_ticket_transfer": with_numbers(
        grid(sparsity=[0.5, 0.8], task=TASKS, seed=SEEDS, mask=MASKS, source=LANGUAGES, target=LANGUAGES), "relative"
    ),
    "07_ticket_relatives": with_numbers(
        grid(sparsity=[0.5, 0.8], task=TASKS, seed=SEEDS, whose=["family", "own_another_seed"]), "relative"
    ),
    "07_ticket_tasks": with_numbers(grid(task=TASKS, source=[*TASKS, "random_weights"], target=LANGUAGES), "relative"),
    "07_ticket_pairs": with_numbers(
        grid(measure=["departures_above_chance", "true_kinship_tree"], task=TASKS, a=LANGUAGES), "likeness", "share"
    ),
    "07_ticket_retrieval": with_numbers(
        grid(task=TASKS, seed=SEEDS, model=["trained_full", "before_training"], language=LANGUAGES, level=[0, 1]),
        "accuracy",
    ).assign(chance=0.1),
    "07_ticket_published": with_numbers(
        grid(
            where=["ours", "published"],
            task=TASKS,
            mask=["random_weights", "another_languages_ticket"],
            target=LANGUAGES,
        ),
        "relative",
    ),
}


@pytest.fixture(autouse=True)
def closed_afterwards():
    yield
    plt.close("all")


def test_every_drawing_has_a_table_here():
    assert {name[3:] for name in TABLES} == set(drawing.figures())


def pixels(figure):
    """As rendered; the figure is closed."""
    figure.canvas.draw()
    rendered = np.array(figure.canvas.buffer_rgba())
    plt.close(figure)
    return rendered


@pytest.mark.parametrize("name", TABLES)
def test_figures_are_labelled_and_drawn_alike_from_their_csv(name):
    figure = drawing.draw(name, TABLES[name])
    assert figure.get_visible()
    for ax in figure.axes if name != "00_family" else []:  # a tree has no axes
        labelled = ax.get_xlabel() or ax.get_ylabel() or ax.get_title() or figure.get_supxlabel()
        assert labelled or not (ax.get_visible() and ax.axison), f"an axis of {name} says nothing"
    read = parse_table(TABLES[name].to_csv(index=False))
    np.testing.assert_array_equal(pixels(figure), pixels(drawing.draw(name, read)))


@pytest.mark.parametrize("name", ["00_family", "01_zero_shot", "02_importance", "03_overlap", "05_removals"])
def test_redraw_gives_the_same_bytes(name, tmp_path):
    drawing.save(drawing.draw(name, TABLES[name]), name, TABLES[name], tmp_path)
    written = {suffix: (tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".png", ".pdf", ".csv")}
    (tmp_path / f"{name}.png").unlink()
    assert drawing.redraw(tmp_path) == [name]
    for suffix, content in written.items():
        assert (tmp_path / f"{name}{suffix}").read_bytes() == content, suffix


def test_heat_maps_hold_means_in_the_order_of_the_table():
    figure = drawing.draw("01_zero_shot", TABLES["01_zero_shot"])
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == LANGUAGES
    nli = TABLES["01_zero_shot"].query("task == 'nli'")
    mean = nli.query("source == 'qaa' and target == 'qba'")["score"].mean()
    assert ax.collections[0].get_array().reshape(2, 2)[0, 1] == pytest.approx(mean)


def test_head_maps_have_layers_upwards():
    figure = drawing.draw("02_survival", TABLES["02_survival"])
    first = TABLES["02_survival"].query("task == 'nli' and language == 'qaa'")
    image = figure.axes[0].images[0]
    assert image.origin == "lower"
    np.testing.assert_allclose(image.get_array()[0], first.query("layer == 1")["survival"])


@pytest.mark.parametrize("name", ["01_scores", "01_kinship", "01_learning", "02_layers", "02_retention", "02_sizes"])
def test_one_legend_stands_above_all_panels(name):
    figure = drawing.draw(name, TABLES[name])
    assert len(figure.legends) == 1 and not any(ax.get_legend() for ax in figure.axes)
    column = {"01_scores": "model", "01_kinship": "family"}.get(name, "language")
    assert [text.get_text() for text in figure.legends[0].texts] == [
        LABELS.get(name, name) for name in TABLES[name][column].unique()
    ]


def test_kinship_prints_spearman_without_the_diagonal():
    table = TABLES["01_kinship"]
    off = table[(table["task"] == "nli") & (table["source"] != table["target"])]
    rho = off["score"].corr(off["relatedness"], method="spearman")
    assert f"{rho:.2f}" in drawing.draw("01_kinship", table).axes[0].get_title()


def test_no_folder_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing.save(drawing.draw("02_sizes", TABLES["02_sizes"]), "02_sizes", TABLES["02_sizes"], "")
    assert not list(tmp_path.iterdir())


def test_a_cell_of_a_sweep_draws_nothing(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "draw", lambda *given: drawn.append(given))
    drawing.show("02_sizes", TABLES["02_sizes"], drawing.UNDRAWN)
    assert not drawn and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["03_truth", "02_cross_evaluation"])  # lines; squares
def test_the_layout_is_made_once(name):
    """Labels fit into the figure, and later renderings, at any resolution, move nothing."""
    figure = drawing.draw(name, TABLES[name])
    places = [ax.get_position().bounds for ax in figure.axes]
    figure.savefig(io.BytesIO(), dpi=37)
    assert [ax.get_position().bounds for ax in figure.axes] == places
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert (box.min > -0.1).all() and (box.max < size + 0.1).all()


def test_unknown_figures_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="name: expected one of"):
        drawing.draw("09_nothing", TABLES["02_sizes"])
    with pytest.raises(ValueError, match="table: expected rows to draw"):
        drawing.draw("02_sizes", TABLES["02_sizes"].iloc[:0])


def test_redraw_says_what_it_drew(tmp_path, capsys):
    drawing.save(drawing.draw("02_sizes", TABLES["02_sizes"]), "02_sizes", TABLES["02_sizes"], tmp_path / "ud")
    assert drawing.main([str(tmp_path)]) == 0
    assert "1 figures" in capsys.readouterr().out
    assert drawing.main([str(tmp_path / "nowhere")]) == 1


# Notebook 03


def texts(ax):
    """What stands in the cells of a heat map."""
    return [text.get_text() for text in ax.texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def bars(ax):
    """Means and ranges of a panel: one (x, low, high) each, from above."""
    circles = [line for line in ax.lines if line.get_marker() == "o"]
    found = []
    for line, arms in zip(circles, ax.collections, strict=True):
        found += [(y, x, *arm[:, 0]) for x, y, arm in zip(*line.get_data(), arms.get_segments(), strict=True)]
    return [tuple(row) for row in np.array(sorted(found))[:, 1:]]


def assert_cells_hold_their_texts(figure):
    """No text of a heat map is wider than its cell."""
    figure.canvas.draw()
    for ax in (ax for ax in figure.axes if ax.texts):
        (left, _), (right, _) = ax.transData.transform([(0, 0), (1, 0)])
        assert max(text.get_window_extent().width for text in ax.texts) <= abs(right - left), ax.get_title()


def test_overlap_stands_beside_chance():
    table = TABLES["03_overlap"]
    one, two = drawing.draw("03_overlap", table).axes
    rows = {name: rows["mean"].to_numpy() for name, rows in table.groupby("measure")}
    np.testing.assert_allclose(bars(one), [(mean, 0, 1) for mean in rows["jaccard"]])
    np.testing.assert_allclose(bars(two), [(mean, 0, 1) for mean in rows["adjusted_within"]])
    chance = next(line for line in one.lines if line.get_label() == "chance")
    np.testing.assert_allclose(chance.get_data(), [rows["expected_within"], range(5)])
    assert ticks(one.yaxis) == [LABELS[differs] for differs in Differs] and one.get_ylim() == (4.5, -0.5)
    legend = [text.get_text() for text in one.figure.legends[0].texts]
    assert sorted(legend) == ["chance", "measured"]


@pytest.mark.parametrize("name", ["03_overlap", "03_variance", "03_truth", "03_stability"])
def test_unknown_intervals_are_not_drawn(name):
    figure = drawing.draw(name, TABLES[name].assign(low=np.nan, high=np.nan))
    arms = [arm for ax in figure.axes for lines in ax.collections for arm in lines.get_segments()]
    assert arms and all(np.ptp(arm[:, 0]) == 0 for arm in arms)


def test_variance_shares_are_bars_in_their_order():
    table = TABLES["03_variance"]
    figure = drawing.draw("03_variance", table)
    for ax, (_, rows) in zip(figure.axes, table.groupby("quantity", sort=False), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], rows["share"])
    assert ticks(figure.axes[0].yaxis) == ["task", "model", "data"] and figure.axes[0].yaxis_inverted()
    missing = table.assign(share=table["share"].where(table["component"] != "data"))
    assert np.isnan(drawing.draw("03_variance", missing).axes[0].patches[-1].get_width())


def test_maps_of_languages_share_one_scale():
    table = TABLES["03_languages"].assign(adjusted_within=[-0.2, *np.linspace(0.1, 0.7, 7)])
    figure = drawing.draw("03_languages", table)
    assert [ax.get_title() for ax in figure.axes] == TASKS
    assert {ax.collections[0].get_clim() for ax in figure.axes} == {(-0.2, 0.7)}
    assert texts(figure.axes[0])[0] == "-0.20" and ticks(figure.axes[1].yaxis) == LANGUAGES


@pytest.mark.parametrize("tasks", [["nli"], ["nli", "ner", "mlm", "upos"]])
def test_eight_languages_fit(tasks):
    numbers = with_numbers(grid(task=tasks, a=EIGHT, b=EIGHT), "value").eval("value = value - 0.5")
    assert_cells_hold_their_texts(drawing.draw("03_languages", numbers))
    table = grid(task=[*tasks, "all"], language=[*EIGHT, "all"]).assign(kept=48, expected=40.25)
    assert_cells_hold_their_texts(drawing.draw("03_survivors", table))
    ratios = with_numbers(grid(mask=EIGHT, language=EIGHT), "ratio")
    assert_cells_hold_their_texts(drawing.draw("03_masked_crossed", ratios))


def test_a_diagonal_may_be_unknown():
    languages, tasks = (TABLES[name].copy() for name in ("03_languages", "03_tasks"))
    for name, table in (("03_languages", languages), ("03_tasks", tasks)):
        table.loc[table["a"] == table["b"], "adjusted_within"] = np.nan
        assert len(texts(drawing.draw(name, table).axes[0])) == 2
    single = drawing.draw("03_languages", languages[languages["task"] == "nli"]).axes
    assert len(single) == 1 and ticks(single[0].xaxis) == LANGUAGES


def test_tasks_stand_in_their_order():
    ax = drawing.draw("03_tasks", TABLES["03_tasks"]).axes[0]
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == TASKS
    assert texts(ax) == [f"{value:.2f}" for value in TABLES["03_tasks"]["adjusted_within"]]


def test_survivors_stand_beside_their_expectation():
    table = TABLES["03_survivors"].assign(kept=range(9))
    ax = drawing.draw("03_survivors", table).axes[0]
    assert texts(ax) == [f"{i} ({chance:.1f})" for i, chance in enumerate(table["expected"])]
    assert ticks(ax.xaxis) == [*LANGUAGES, "all"] and ticks(ax.yaxis) == [*TASKS, "all"]


def test_importance_maps_have_a_point_for_every_vector():
    table = TABLES["03_importance_map"]
    for ax, method in zip(drawing.draw("03_importance_map", table).axes, ["t-SNE", "MDS"], strict=True):
        assert ax.get_title() == method
        points = table.loc[table["method"] == method, ["x", "y"]]
        np.testing.assert_allclose(ax.collections[0].get_offsets(), points)
    assert [text.get_text() for text in ax.get_legend().texts] == ["task", *TASKS, "language", *LANGUAGES]


def test_curves_of_likeness_hold_means_of_tasks():
    table = TABLES["03_cka"]
    figure = drawing.draw("03_cka", table)
    assert [ax.get_title() for ax in figure.axes] == ["first token", "mean of tokens"] * 2
    sides = [ax.get_ylabel() for ax in figure.axes]
    assert sides == [f"CKA with the {one}" for one in ("full model", "own subnetwork") for _ in range(2)]
    rows = table.query("against == 'own' and pool == 'first' and other == 'random_heads'")
    line = figure.axes[2].lines[1]  # of the order that all panels share
    np.testing.assert_allclose(line.get_data(), [[1, 2], rows.groupby("level")["cka"].mean()])
    assert [text.get_text() for text in figure.legends[0].texts] == ["own subnetwork", "random heads"]


def test_every_curve_is_in_the_legend_though_the_first_panel_lacks_it():
    table = TABLES["03_cka"].query("against == 'own' or other == 'own'")
    figure = drawing.draw("03_cka", table)
    assert [text.get_text() for text in figure.legends[0].texts] == ["own subnetwork", "random heads"]
    assert not any(ax.get_legend() for ax in figure.axes)


def test_levels_go_upwards():
    table = TABLES["03_levels"]
    figure = drawing.draw("03_levels", table)
    assert [ax.get_title() for ax in figure.axes] == ["the same model", "another task"]
    assert all(not ax.yaxis_inverted() for ax in figure.axes)  # a heat map has its first row above
    np.testing.assert_allclose(figure.axes[1].collections[0].get_array().ravel(), table["cka"][9:])


def test_likeness_of_translations_has_a_line_for_every_relation():
    table = TABLES["03_parallel"]
    figure = drawing.draw("03_parallel", table)
    rows = table.query("measure == 'rsa' and relation == 'unrelated'").groupby("level")["value"].mean()
    np.testing.assert_allclose(figure.axes[1].lines[1].get_data(), [rows.index, rows])
    assert [text.get_text() for text in figure.legends[0].texts] == ["related", "unrelated"]


def test_perplexities_begin_at_one():
    table = TABLES["03_perplexity"].assign(
        language=lambda t: t["language"], perplexity=lambda t: 1 + 9 * t["perplexity"]
    )
    ax = drawing.draw("03_perplexity", table).axes[0]
    assert ax.get_ylim()[0] == 1
    heights = sorted(y for points in ax.collections for _, y in points.get_offsets())
    np.testing.assert_allclose(heights, sorted(table["perplexity"]))
    assert [text.get_text() for text in ax.get_legend().texts] == ["pre-trained", "fine-tuned"]


def test_ratios_of_perplexity_are_coloured_by_their_logarithm():
    table = grid(mask=LANGUAGES, language=LANGUAGES).assign(ratio=[1.0, 4.0, 0.5, 1.0])
    ax = drawing.draw("03_masked_crossed", table).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_array().ravel(), np.log([1, 4, 0.5, 1]))
    assert ax.collections[0].get_clim() == pytest.approx((-np.log(4), np.log(4)))
    assert texts(ax) == ["1.00", "4.00", "0.50", "1.00"]


def test_points_are_filled_where_they_are_sure():
    table = TABLES["03_truth"]
    for ax, (kind, rows) in zip(drawing.draw("03_truth", table).axes, table.groupby("kind", sort=False), strict=True):
        np.testing.assert_allclose(bars(ax), [(rho, 0, 1) for rho in rows["rho"]])
        circles = [line for line in ax.lines if line.get_marker() == "o"]
        filled = {y: line.get_markerfacecolor() != "white" for line in circles for y in line.get_ydata()}
        assert filled == dict(enumerate(rows["p"] < 0.05)), kind
        assert ax.get_ylim() == (1.5, -0.5) and ax.get_title() == kind
    unknown = drawing.draw("03_truth", table.assign(rho=np.nan, p=np.nan))
    drawn = [line for line in unknown.axes[0].lines if line.get_marker() == "o" and len(line.get_ydata())]
    assert all(line.get_markerfacecolor() == "white" for line in drawn)


def test_stability_stands_between_chance_and_ceiling():
    table = TABLES["03_stability"].assign(ceiling=[1.0, 0.9, 1.0, np.nan])
    ax = drawing.draw("03_stability", table).axes[0]
    lines = {line.get_label(): line.get_xdata() for line in ax.lines}
    np.testing.assert_allclose(lines["chance"], table["chance"])
    np.testing.assert_allclose(lines["ceiling"], table["ceiling"])
    assert ticks(ax.yaxis)[0] == "mask Jaccard, mask seed" and len(bars(ax)) == 4


def test_stitched_scores_are_drawn_by_condition_for_trained_maps_alone():
    table = TABLES["04_conditions"]
    figure = drawing.draw("04_conditions", table)
    rows = table.query("group == 'controls' and map == 'trained' and condition == 'task'")
    np.testing.assert_allclose(figure.axes[2].lines[1].get_ydata(), rows.groupby("level")["ra"].mean())
    assert [ax.get_legend() is None for ax in figure.axes] == [True, False] * 2
    assert [text.get_text() for text in figure.axes[3].get_legend().texts] == ["itself", "task"]


def test_stitched_matrices_have_fronts_as_rows():
    table = TABLES["04_tasks_stitched"]
    figure = drawing.draw("04_tasks_stitched", table)
    assert [ax.get_title() for ax in figure.axes] == ["after layer 1", "after layer 2"]
    np.testing.assert_allclose(figure.axes[1].collections[0].get_array().ravel(), table["above_chance"][4:])
    assert figure.axes[0].get_ylabel() == "front, task" and figure.axes[0].get_xlabel() == "end, task"
    ax = drawing.draw("04_pairs", table).axes[0]
    assert ticks(ax.yaxis)[1] == "nli → ner"


def test_likeness_beside_relative_accuracy_has_a_point_for_each_row():
    table = TABLES["04_against"]
    for ax, (_, rows) in zip(drawing.draw("04_against", table).axes, table.groupby("kind", sort=False), strict=True):
        points = np.concatenate([points.get_offsets() for points in ax.collections])
        np.testing.assert_allclose(sorted(points.tolist()), sorted(rows[["likeness", "above_chance"]].values.tolist()))


# Notebook 05


def test_positive_and_negative_examples_stand_side_by_side():
    table = TABLES["05_specialisation"]
    figure = drawing.draw("05_specialisation", table)
    for ax, (_, rows) in zip(figure.axes, table.groupby("task", sort=False), strict=True):
        found = sorted(mean for mean, *_ in bars(ax))
        np.testing.assert_allclose(found, sorted(rows["mean"]))
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "most positive examples",
        "most negative examples",
    ]


def test_influence_has_a_panel_for_each_task_and_set_of_heads():
    table = TABLES["05_influence"]
    figure = drawing.draw("05_influence", table)
    assert [ax.get_title() for ax in figure.axes] == [
        f"{task}, {name}" for task in TASKS for name in ("full model", "own subnetwork")
    ]
    first = table[(table["task"] == "nli") & (table["condition"] == "full")]
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array().ravel(), first["share"])
    assert_cells_hold_their_texts(figure)


def test_nothing_removed_is_not_drawn():
    table = TABLES["05_removals"]
    figure = drawing.draw("05_removals", table)
    assert ticks(figure.axes[-1].xaxis) == ["most\nhelpful", "random"]
    losses = table[table["language"] == "qaa"].set_index(["removed", "seed"])["loss"]
    rise = (losses["proponents"] - losses["nothing"]).to_numpy()
    points = figure.axes[2].collections[0].get_offsets()
    np.testing.assert_allclose(sorted(points[:, 1]), sorted(rise))


@pytest.mark.parametrize(
    ("name", "table", "values"),
    [
        (
            "06_own_shares",
            grid(task=TASKS, variant=VARIANTS, condition=["all_heads"]),
            ("mean", "low", "high", "chance"),
        ),
        (
            "07_ticket_retrieval",
            grid(task=TASKS, model=["trained_full"], seed=SEEDS, level=[0, 1]),
            ("accuracy", "chance"),
        ),
    ],
)
def test_no_panel_cuts_what_the_next_one_draws_higher(name, table, values):
    table = table.assign(**dict.fromkeys(values, table["task"].map({TASKS[0]: 0.1, TASKS[1]: 0.9})))
    figure = drawing.draw(name, table)
    across = name == "06_own_shares"
    assert all((ax.get_xlim() if across else ax.get_ylim())[1] > 0.9 for ax in figure.axes)
    plt.close(figure)


@pytest.mark.parametrize("name", ["07_ticket_kinds", "07_ticket_relatives", "07_ticket_published"])
def test_perplexities_many_times_as_high_are_not_cut(name):
    table = TABLES[name]
    low = -8.0 * (table["task"] == TASKS[1])
    figure = drawing.draw(name, table.assign(relative=low))
    scales = [(ax.get_xscale(), ax.get_xlim()[0] < -8.1) for ax in figure.axes]
    assert scales == [("linear", False), ("symlog", True)]
    plt.close(figure)


# Labels


@pytest.fixture
def font(tmp_path, monkeypatch):
    """A font that has the characters 中 and क, as boxes, and makes itself known to matplotlib while a test runs."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 500), (500, 500), (500, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder, names = FontBuilder(1000), [".notdef", "one", "two"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord("中"): "one", ord("क"): "two"})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Two Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "boxes.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    monkeypatch.setattr(fonts, "_warned", set())
    return str(tmp_path / "boxes.ttf")


def learning(*languages):
    return with_numbers(grid(task=["nli"], seed=[0], language=languages, epoch=[1, 2]), "score")


def test_glyphs_come_from_a_font_that_has_them(font, tmp_path):
    font_manager.fontManager.addfont(font)
    table = learning("中क", "de")
    drawing.save(drawing.draw("01_learning", table), "01_learning", table, tmp_path)  # warnings are errors
    assert plt.rcParams["font.family"] == ["sans-serif", "Two Boxes"]
    drawing.draw("01_learning", learning("de", "fr"))
    assert plt.rcParams["font.family"] == ["sans-serif"], "where the usual font will do, nothing changes"


def test_the_user_may_name_a_file(font, monkeypatch):
    monkeypatch.setenv("XSUB_FONT", font)
    drawing.draw("01_learning", learning("中", "de"))
    assert plt.rcParams["font.family"] == ["sans-serif", "Two Boxes"]


def test_a_script_without_a_font_is_named_once(font):
    with pytest.warns(UserWarning, match="expected a font for Cherokee, got none that is installed; .*XSUB_FONT"):
        drawing.draw("01_learning", learning("\U0000ab70", "de"))  # a letter that DejaVu lacks
    with warnings.catch_warnings(record=True) as again:
        drawing.draw("01_learning", learning("\U0000ab70", "de"))
    assert not again
