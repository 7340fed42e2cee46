"""The sweep: what it runs, runs again and refuses. On a copy whose notebooks compute nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from xsub_utils._internal import paths
from xsub_utils.study import drawing

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "xsub_utils" / "study" / "configs"
STUDIES = sorted(path.stem for path in CONFIG.glob("*.yaml") if path.stem != "schema")
TINY = {
    "notebooks": ["00_minibabel", "01_finetune", "02_prune"],
    "parameters": {"source": "minibabel", "tasks": ["nli"], "languages": ["qaa"], "seeds": [0, 1]},
}
# Executes the cells in its own process, without a kernel: a run takes a tenth of a second.
EXECUTOR = """
import json, shutil, sys, yaml
from pathlib import Path

notebook, out, parameters = Path(sys.argv[2]), sys.argv[3], Path(sys.argv[5])
defaults, *rest = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
names = {}
exec(defaults, names)
names |= yaml.safe_load(parameters.read_text())
exec("\\n".join(rest), names)
shutil.copy(notebook, out)
"""
# Notes which run this is; a file `hold` keeps the runs of seed 1 from ending.
BODY = """
import os, time
from pathlib import Path

home = Path(os.environ["XSUB_HOME"])
run = "{name}/" + ("figures" if figures != "{undrawn}" else "-".join([*tasks, *map(str, seeds)]))
with open(home / "ran.txt", "a") as ran:
    print(run, os.getpid(), os.environ["OMP_NUM_THREADS"], file=ran)
while seeds == [1] and (home / "hold").exists():
    time.sleep(0.05)
""".replace("{undrawn}", drawing.UNDRAWN)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that everything goes to."""
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def repository(tmp_path, home):
    """A copy of the workflow with stand-ins for the package and the notebooks, and a study `tiny`."""
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    write_study(tmp_path)
    (tmp_path / "xsub_utils" / "_internal").mkdir(parents=True)
    (tmp_path / "xsub_utils" / "_internal" / "notebooks.py").write_text(EXECUTOR)
    (tmp_path / "notebooks").mkdir()
    for name in TINY["notebooks"]:
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", BODY.replace("{name}", name))
    return tmp_path


def write_study(repository, **parameters):
    """The study `tiny`, with other parameters."""
    study = {**TINY, "parameters": {**TINY["parameters"], **parameters}}
    (repository / "tiny.yaml").write_text(yaml.safe_dump(study))


def write_notebook(path, body, outputs=()):
    """A notebook with every parameter that a study may set, and a cell of code."""
    schema = yaml.safe_load((CONFIG / "schema.yaml").read_text())
    names = [*schema["definitions"]["parameters"]["properties"], "data", "figures"]
    told = nbformat.v4.new_code_cell("\n".join(f"{name} = None" for name in names))
    told.metadata.tags = ["parameters"]
    cells = [told, nbformat.v4.new_code_cell(body, outputs=list(outputs))]
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)


def command(*arguments):
    """What `make figures` calls."""
    snakemake = Path(sys.executable).with_name("snakemake")
    files = ["--snakefile", "workflow/Snakefile", "--workflow-profile", "workflow/profiles/default"]
    return [snakemake, *files, "--cores", "2", *arguments]


def sweep(repository, *config, study="tiny", options=(), status=0):
    """Lines that a sweep prints; its exit status has to be `status`."""
    done = subprocess.run(
        command(*options, "--config", f"study={study}" + (".yaml" if study == "tiny" else ""), *config),
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout.splitlines()


def runs(home):
    """The runs since the last call, sorted."""
    ran = home / "ran.txt"
    lines = ran.read_text().splitlines() if ran.exists() else []
    ran.unlink(missing_ok=True)
    return sorted(line.split()[0] for line in lines)


def wait_until(condition):
    """Looks again and again, for a minute at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited in vain")


CELLS = ("figures", "nli-0", "nli-1")
EVERYTHING = [
    "00_minibabel/figures",
    *(f"{notebook}/{cell}" for notebook in ("01_finetune", "02_prune") for cell in CELLS),
]


def test_each_notebook_runs_per_cell_and_once_more_for_its_figures(repository, home):
    lines = sweep(repository)
    order = [line.split() for line in (home / "ran.txt").read_text().splitlines()]
    position = {run: place for place, (run, _, _) in enumerate(order)}
    assert runs(home) == EVERYTHING
    assert {threads for _, _, threads in order} == {"1"}
    for seed in (0, 1):
        assert position[f"01_finetune/nli-{seed}"] < position[f"02_prune/nli-{seed}"]
        assert position[f"02_prune/nli-{seed}"] < position["02_prune/figures"]

    receipt = json.loads((home / "runs/tiny/02_prune/nli-1.json").read_text())
    assert receipt["parameters"] == {**TINY["parameters"], "seeds": [1], "figures": drawing.UNDRAWN}
    assert {"notebook", "package", "seconds"} < receipt.keys()
    drawn = json.loads((home / "runs/tiny/02_prune/figures.json").read_text())
    assert drawn["parameters"] == {**TINY["parameters"], "figures": str(home / "figures" / "tiny")}
    assert (home / "runs/tiny/02_prune/nli-1.ipynb").exists()

    assert "tiny: 7 notebook runs to do" in lines
    assert sum(line.startswith("7/7 done   02_prune figures") for line in lines) == 1
    assert lines[-1] == f"tiny: done; the figures are in {home / 'figures' / 'tiny'}"
    assert not {"runs", "figures", "artifacts"} & {path.name for path in repository.iterdir()}


def test_a_notebook_with_one_cell_runs_once(repository, home):
    write_study(repository, seeds=[0])
    table = [line.split("\t") for line in sweep(repository, options=["--dry-run", "--summary"])]
    rules = {row[0].split("/")[2]: row[2] for row in table if row[0].startswith("runs/")}
    assert rules == {"00_minibabel": "figures", "01_finetune": "cell", "02_prune": "cell"}, "it gets a cell's resources"
    sweep(repository)
    order = [line.split()[0] for line in (home / "ran.txt").read_text().splitlines()]
    assert runs(home) == ["00_minibabel/figures", "01_finetune/figures", "02_prune/figures"]
    assert order.index("01_finetune/figures") < order.index("02_prune/figures")


def test_only_what_changed_is_run_again(repository, home):
    prune = repository / "notebooks" / "02_prune.ipynb"
    body = BODY.replace("{name}", "02_prune")
    sweep(repository)
    runs(home)

    write_notebook(prune, body, outputs=[nbformat.v4.new_output("stream", text="saved again")])
    assert "tiny: nothing to do" in sweep(repository)[-1]
    assert runs(home) == []

    figures = [run for run in EVERYTHING if run.endswith("figures")]
    write_study(repository, seeds=[0, 1, 2])
    sweep(repository)
    assert runs(home) == sorted([*figures, "01_finetune/nli-2", "02_prune/nli-2"])

    write_study(repository)
    write_notebook(prune, f"{body}\nedited = True")
    sweep(repository)
    assert runs(home) == sorted([*figures, "02_prune/nli-0", "02_prune/nli-1"])

    (repository / "xsub_utils" / "module.py").write_text("edited = True")
    sweep(repository)
    assert runs(home) == EVERYTHING


def test_a_killed_sweep_goes_on_and_leaves_nothing_running(repository, home):
    ran = home / "ran.txt"
    (home / "hold").touch()
    first = subprocess.Popen(
        command("--config", "study=tiny.yaml"),
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (home / "runs/tiny/02_prune/nli-0.json").exists() and "01_finetune/nli-1" in ran.read_text())
        assert f"a sweep is running in {home} (process {first.pid})" in sweep(repository, status=1)[-1]
    finally:
        first.kill()
        first.wait()
    (held,) = [int(line.split()[1]) for line in ran.read_text().splitlines() if "01_finetune/nli-1" in line]
    wait_until(lambda: not psutil.pid_exists(held))
    done = {line.split()[0] for line in ran.read_text().splitlines()} - {"01_finetune/nli-1"}
    runs(home)

    (home / "hold").unlink()
    sweep(repository)
    again = runs(home)
    assert not {"01_finetune/nli-0", "02_prune/nli-0"} & set(again)
    assert {*again, *done} == set(EVERYTHING)


def test_a_failed_notebook_is_kept_and_named_in_the_last_line(repository, home):
    shutil.copytree(ROOT / "xsub_utils", repository / "xsub_utils", dirs_exist_ok=True)  # kernels and all
    finetune, study = repository / "notebooks" / "01_finetune.ipynb", "notebooks=[01_finetune]"
    write_notebook(finetune, "assert seeds != [1], 'a bad seed'")
    lines = sweep(repository, study, status=1)
    folder = home / "runs" / "tiny" / "01_finetune"
    assert lines[-1] == f"1 of 3 runs failed, kept with the traceback: {folder / 'nli-1.ipynb'}"
    assert any("AssertionError: a bad seed" in line for line in lines)
    *_, failed = nbformat.read(folder / "nli-1.ipynb", as_version=4).cells
    assert failed.outputs[-1].ename == "AssertionError"
    assert [path.name for path in folder.glob("*.json")] == ["nli-0.json"]


OVER = {
    "01_finetune": ["tasks", "seeds"],
    "02_prune": ["tasks", "seeds"],
    "03_similarity": ["tasks"],
    "04_stitching": ["end_tasks"],
    "05_tracin": ["tasks", "seeds"],
    "06_sft": ["tasks", "seeds"],
    "07_tickets": ["target_tasks", "seeds"],
}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_suits_the_notebooks(home, study):
    content = yaml.safe_load((CONFIG / f"{study}.yaml").read_text())
    for language in content["parameters"]["languages"]:
        (home / f"{language}.conllu").touch()
    data = [f"data={home}"] if content["parameters"]["source"] == "local" else []
    lines = sweep(ROOT, *data, study=study, options=["--dry-run"])
    shown = [line.split()[1:] for line in lines if line.split()[0] == "run"]
    expected = [*product(content["notebooks"], ["figures"])]
    for notebook in set(content["notebooks"]) - {"00_minibabel"}:
        values = content["parameters"] | content.get("overrides", {}).get(notebook, {})
        cells = list(product(*(map(str, values[name]) for name in OVER[notebook])))
        expected += [(notebook, "-".join(cell)) for cell in cells if len(cells) > 1]
    assert sorted(map(tuple, shown)) == sorted(expected)
    assert not (home / "runs").exists()


def test_the_extended_study_goes_on_from_the_default_one():
    default, extended = (
        yaml.safe_load((CONFIG / f"{name}.yaml").read_text())["parameters"]
        for name in (paths.DEFAULT_STUDY, "extended")
    )
    assert extended.items() <= default.items(), "models and masks of notebooks 01 and 02 serve both"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["study=tinny"], "study: expected one of extended, minibabel"),
        (["dota=x"], "did you mean 'data'?"),
        (["study={x}.yaml"], "path: expected one without braces"),
        (["parameters={langages: [qaa]}"], "did you mean 'languages'?"),
    ],
)
def test_unknown_names_are_refused_in_one_line(repository, home, config, message):
    lines = sweep(repository, *config, status=1)
    assert message in lines[-1]
    assert not any("Traceback" in line or "File" in line for line in lines)
    assert runs(home) == []


def make(repository, *arguments):
    """What `make` prints in a repository whose environment is this one; its exit status."""
    (repository / ".venv").mkdir(exist_ok=True)
    if not (repository / ".venv" / "bin").exists():
        (repository / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, repository)
    (repository / ".venv" / ".ready").touch()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments],
        cwd=repository,
        env=outside,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout, done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with spaces", "多言語 ü", 'it\'s "quoted" $(x)'])
def test_a_sweep_runs_wherever_the_repository_lies(repository, tmp_path_factory, name, monkeypatch):
    place = tmp_path_factory.mktemp("place") / name
    shutil.copytree(repository, place)
    shutil.copytree(ROOT / "xsub_utils", place / "xsub_utils", dirs_exist_ok=True)  # kernels and all
    monkeypatch.setenv("XSUB_HOME", str(place / "its home"))
    study, data = place / "a study's.yaml", place / "some data"
    parameters = TINY["parameters"] | {"source": "local", "languages": ["de"]}
    study.write_text(yaml.safe_dump({"notebooks": ["01_finetune"], "parameters": parameters}))
    data.mkdir()
    (data / "de.jsonl").touch()
    body = "from pathlib import Path\nassert (Path(data) / 'de.jsonl').exists() and languages == ['de']"
    write_notebook(place / "notebooks" / "01_finetune.ipynb", body)
    printed, status = make(place, "figures", f"STUDY={study.name}", "DATA=some data")
    assert status == 0 and f"done; the figures are in {place / 'its home' / 'figures' / study.stem}" in printed, printed
    receipts = (place / "its home" / "runs" / study.stem / "01_finetune").glob("*.json")
    assert sorted(path.stem for path in receipts) == ["figures", "nli-0", "nli-1"]


def test_an_unknown_profile_is_refused(repository):
    printed, status = make(repository, "figures", "PROFILE=slrum")
    assert status != 0
    assert printed.splitlines()[0] == "PROFILE: expected one of default slurm, got slrum"


@pytest.mark.slow
def test_smoke_sweep(home):
    sweep(ROOT, study="smoke")
    drawn = {path.name for path in (home / "figures" / "smoke").iterdir()}
    assert {name[:2] for name in drawn} == {"00", "01", "02", "03", "04", "05", "06", "07"}
    stems = {Path(name).stem for name in drawn}
    assert drawn == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "csv")}
    assert "nothing to do" in sweep(ROOT, study="smoke")[-1]
    assert not list(home.rglob(drawing.UNDRAWN))
