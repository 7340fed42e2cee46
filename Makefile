# `make help` lists the verbs. Each first creates .venv, with the tested versions, where it is absent or out of date.

PYTHON ?= python3
STUDY ?= minibabel
DATA ?=
PROFILE ?= default
NB ?=

BIN := .venv/bin
READY := .venv/.ready
PROFILES := $(patsubst workflow/profiles/%/config.yaml,%,$(wildcard workflow/profiles/*/config.yaml))
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# Long notebooks first: at the end, one process would wait for the other.
FIRST := $(foreach n,03 04 06 07 05,$(wildcard notebooks/$(n)_*.ipynb))
NOTEBOOKS := $(FIRST) $(filter-out $(FIRST) $(wildcard notebooks/02_*),$(wildcard notebooks/*.ipynb))
# A word of the shell, whatever stands in it; a value of Snakemake's --config, which is YAML.
quoted = '$(subst ','\'',$(1))'
setting = $(call quoted,$(1)="$(subst ",\",$(subst \,\\,$(2)))")
OLDER := XSUB_HOME=$(call quoted,$(CURDIR))/runs/other-processor ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2

export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # or each of a hundred processes would compile torch again

.DEFAULT_GOAL := help
.PHONY: help figures redraw test native older lab notebooks bench pretrain clean

help:  ## list the verbs
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

figures: $(READY)  ## run a study and draw its figures: STUDY=minibabel (default), extended, or ud with DATA=folder; PROFILE=slurm
	@test -f workflow/profiles/$(call quoted,$(PROFILE))/config.yaml \
	  || { echo PROFILE: expected one of $(PROFILES), got $(call quoted,$(PROFILE)); exit 2; }
	$(BIN)/snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/$(call quoted,$(PROFILE)) \
	  --config $(call setting,study,$(STUDY)) $(if $(DATA),$(call setting,data,$(DATA)))

redraw: $(READY)  ## draw every figure again from the tables beside it
	$(BIN)/python -m xsub_utils.study.drawing figures

test native older: export HF_HUB_OFFLINE := 1
test: $(READY)  ## check style, code and notebooks (02 with the instructions of an older processor)
	@echo "── 1 of 3: style and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "── 2 of 3: the package, and the examples in its docstrings"
	$(BIN)/pytest tests xsub_utils --doctest-modules --ignore=tests/scripts $(PARALLEL)
	@echo "── 3 of 3: the notebooks compute what they show"
	@$(MAKE) --no-print-directory -j2 native older

native: $(READY)
	$(BIN)/pytest --nbval $(NOTEBOOKS) $(PARALLEL)

older: $(READY)
	@echo "── meanwhile 02, which trains and searches, with the instructions of an older processor"
	@mkdir -p runs
	@$(OLDER) $(BIN)/pytest --nbval notebooks/02_*.ipynb > runs/older.log 2>&1 \
	  && tail -n 1 runs/older.log || { cat runs/older.log; exit 1; }

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)  ## run the committed notebooks again and normalise them: NB=notebooks/02_prune.ipynb, default all
	$(BIN)/python -m xsub_utils._internal.notebooks run $(NB)

bench: $(READY)  ## measure time and memory beside those of the published procedures; QUICK=1 takes minutes and writes nothing
	@for script in benchmarks/bench_*.py; do echo "── $$script"; $(BIN)/python $$script $(if $(QUICK),--quick) || exit 1; done

pretrain: $(READY)  ## pre-train minibabel-base, the encoder that ships with the package
	$(BIN)/python -m xsub_utils.study.shipped_encoder

clean:  ## forget every artifact and run; .venv and figures/ stay
	rm -rf artifacts runs .snakemake

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "── Creating .venv"; $(PYTHON) -m venv .venv; }
	@echo "── Installing torch, then all other tested versions, into .venv (about two minutes)"
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt torch
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@
