# The one command surface. `make help` lists the targets; pre-commit, CI and the README call the same ones.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= run,test,dev
JOBS ?= 2
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.paramem-stamp
SITE_STAMP := $(VENV)/.paramem-site-stamp
UV_VERSION := 0.13.8

# One thread per process: OpenMP barriers spin, so processes that share cores are many times slower with two.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Wheels named to pip by PIP_FIND_LINKS are named to uv too, which listens to its own variable.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 400 --nbval-sanitize-with tests/nbval.cfg

.PHONY: help run run-all full test test-unit test-notebooks test-other-cpu test-browser test-clone check format generated lab notebooks sync testbeds bench \
        site constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

run: $(STAMP) ## run a tour of the notebooks headless, compare with the committed results, print the scoreboard
	$(BIN)/paramem run --tour --jobs $(JOBS) $(ARGS)

run-all: $(STAMP) ## the same with every notebook (one testbed each)
	$(BIN)/paramem run --jobs $(JOBS) $(ARGS)

full: $(STAMP) ## run every notebook over all its testbeds and rewrite results/
	$(BIN)/paramem run --profile full --jobs $(JOBS) $(ARGS)

test: test-unit test-notebooks ## unit and property tests, then the stored notebook outputs (strict nbval)

test-unit: $(STAMP) ## unit and property tests only
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not browser and not clone" tests $(ARGS)

test-notebooks: $(STAMP) ## execute the notebooks again and compare with what they store
	TQDM_DISABLE=1 $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(NBVAL) $$($(PY) scripts/longest_first.py) $(ARGS)

# Kinds of CPU add up in different orders: a digit that this changes has no place in a stored output.
test-other-cpu: $(STAMP) ## the stored outputs again, with the plainest arithmetic in place of this CPU's own
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(MAKE) test-notebooks

test-browser: $(STAMP) $(SITE_STAMP) ## JupyterLab and the site in a headless Chromium
	$(PY) -m pytest -m browser tests/test_browser.py tests/test_site_browser.py $(ARGS)

test-clone: $(STAMP) ## the README's commands in a fresh clone
	$(PY) -m pytest -m clone tests/test_project.py $(ARGS)

check: $(STAMP) ## lint, types, taxonomy, bibliography, notebooks, README
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/paramem check

format: $(STAMP) ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generated: $(STAMP) ## what follows from papers.bib, taxonomy/ and results/: layout, start page, README, docs/papers
	$(BIN)/paramem format
	$(BIN)/paramem notebooks index
	$(BIN)/paramem show --write

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(BIN)/paramem lab $(ARGS)

sync: $(STAMP) ## carry the .py halves over to the .ipynb halves (outputs stay)
	$(BIN)/paramem sync $(ARGS)

notebooks: $(STAMP) ## sync, then execute the committed notebooks in place
	$(BIN)/paramem notebooks $(ARGS)

testbeds: $(STAMP) ## train the bundled models again (resumable)
	$(BIN)/paramem testbeds $(ARGS)

bench: $(STAMP) ## speed of core, methods, bounds and fusion, as ratios to plain forwards; seconds to check 500 papers
	$(PY) benchmarks/core.py $(ARGS)
	$(PY) benchmarks/detection.py $(ARGS)
	$(PY) benchmarks/editing.py $(ARGS)
	$(PY) benchmarks/bounds.py $(ARGS)
	$(PY) benchmarks/fusion.py $(ARGS)
	$(PY) benchmarks/literature.py

site: $(SITE_STAMP) ## build the web site below build/site/html, offline; what did not change is not built again
	$(BIN)/paramem site --jobs $(JOBS) $(ARGS)

constraints: $(STAMP) ## pin the versions of every extra for every platform again
	$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.11 --no-header --no-annotate --all-extras pyproject.toml \
	  | grep -vE '^(nvidia-|cuda-|triton|torch==)' > constraints.tmp
	echo "torch==$$($(PY) -c 'import importlib.metadata as m; print(m.version("torch").split("+")[0])')" >> constraints.tmp
	sort -f constraints.tmp -o constraints.tmp && mv constraints.tmp constraints.txt

clean: ## remove what runs, tests and tools wrote (the virtual environment stays)
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build dist
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 | xargs -0 rm -rf

# Compiled once, here: where PYTHONDONTWRITEBYTECODE is set, every kernel would compile torch and all else again (6 s).
$(STAMP): pyproject.toml constraints.txt
	@python=$$(test -x $(PY) && echo $(PY) || echo $(PYTHON)); \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "paramem needs Python 3.11 to 3.13; $$python is $$($$python -V 2>&1)." \
	       "Try: rm -rf $(VENV); make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(PY) -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install -q --compile-bytecode --python $(PY) -e ".[$(EXTRAS)]" -c constraints.txt
	@$(PY) -m compileall -q lib
	@touch $@

$(SITE_STAMP): $(STAMP)
	$(BIN)/uv pip install -q --compile-bytecode --python $(PY) -e ".[site]" -c constraints.txt
	@touch $@
