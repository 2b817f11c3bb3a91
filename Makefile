# The commands of this project; `make` or `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
MINIMA := .venv-minima
TOOLS := .venv-tools
# File by file, in the order of tests/conftest.py: what fails most often, then the longest files, so that no process ends
# alone. Three processes, also on two cores: the tests wait for processes and clocks a quarter of their time.
SPREAD := --numprocesses=3 --dist=loadfile --no-loadscope-reorder

# Silent in a pipe; on a terminal pip shows what it downloads.
PIP = --disable-pip-version-check $$(test -t 1 || echo --quiet)

.DEFAULT_GOAL := help
.PHONY: help install constraints audit paper demo tensorboard verify study test test-all test-minima test-planted bench gpu docs lint clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 21

install: $(VENV)/installed ## Make .venv and install ireg with what running and testing it needs (once)

# Files are compared with the hashes in constraints.txt: auto (where it fits, see tests/constraints.py), yes or no.
HASHES ?= auto
# No wheel of it is on the package index.
SOURCE_ONLY := antlr4-python3-runtime
HASHED = $(VENV)/bin/pip install $(PIP) --no-compile --require-hashes --only-binary :all: --no-binary $(SOURCE_ONLY) --no-build-isolation

# The stamp is written last: a broken installation is taken up again, a finished one is not repeated.
# setuptools comes first and alone, because what has no wheel is built with it. pip compiles one file after the other:
# we do it with all cores. Some packages have files for other Pythons, which fail and are never imported.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; use make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@echo "Installing PyTorch, ireg and what the tests need in $(VENV), once: some minutes, and 7 GB on the disk with CUDA"
	@echo "(much less with PyTorch's CPU wheels, see README). Nothing is installed outside of this folder."
	$(PYTHON) -m venv $(VENV)
	@set -e; case "$(HASHES)" in \
		auto) misfit=$$($(RUN) tests/constraints.py);; \
		yes) misfit=;; \
		no) misfit="HASHES=no";; \
		*) echo "error: HASHES=$(HASHES): must be auto, yes or no" >&2; exit 1;; \
	esac; \
	if [ -n "$$misfit" ]; then \
		echo "Without the hashes of constraints.txt: $$misfit"; \
		$(VENV)/bin/pip install $(PIP) --editable '.[test]'; \
	else \
		echo "Every file is compared with its hash in constraints.txt"; \
		$(RUN) tests/constraints.py setuptools > $(VENV)/first.txt; \
		$(HASHED) --requirement $(VENV)/first.txt && $(HASHED) --requirement constraints.txt || \
			{ echo "error: what constraints.txt names could not be installed. If a hash differs, the file may have been replaced;" \
				"otherwise make install HASHES=no does without the hashes" >&2; exit 1; }; \
		$(VENV)/bin/pip install $(PIP) --no-deps --no-build-isolation --editable .; \
		$(RUN) -m compileall -q --workers 0 $(VENV)/lib > /dev/null || true; \
	fi
	@touch $@

$(TOOLS)/installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install $(PIP) 'uv>=0.9' 'pip-audit>=2.10'
	@touch $@

constraints: $(TOOLS)/installed ## Write constraints.txt: the newest versions allowed, with PyPI's hashes
	@{ echo "# The versions and hashes that make install takes; made by make constraints, and never by hand."; \
		$(TOOLS)/bin/uv pip compile pyproject.toml --extra test --universal --python-version 3.11 \
			--generate-hashes --no-annotate --no-header --quiet; \
	} > constraints.tmp
	@mv constraints.tmp constraints.txt

# Strict: a package that could not be asked about is an error, and not "no known vulnerabilities".
audit: $(TOOLS)/installed ## Ask PyPI's advisories about each version in constraints.txt (pip-audit)
	$(TOOLS)/bin/pip-audit --requirement constraints.txt --require-hashes --disable-pip --strict

paper: install ## Run Singh's experiment (300 epochs) and draw its figures in multirun/paper
	$(RUN) train.py experiment=paper

demo: install ## Does Adam generalize worse? Three optimizers, three seeds, at equal training loss and at the end
	$(RUN) train.py experiment=demo

NAME ?= paper
tensorboard: install ## Browse multirun/NAME (NAME=paper) in TensorBoard; prints the link to the figures
	$(RUN) -m ireg.browse multirun/$(NAME)

verify: install ## Certify the theory and every logged value on this machine (2 minutes)
	$(RUN) -m ireg.verify

STUDIED ?= mnist10k
# Runs are named by what is set, and recorded by their names: those of the default data set do not have it.
DATA := $(if $(filter-out mnist10k,$(STUDIED)),data=$(STUDIED))
STUDY := experiment=study_tuning $(DATA)
STARTS := multirun/study_start_$(STUDIED)
study: install ## Run the study: tuning, final runs, barriers, drift, tables (about 7 hours of one core; STUDIED=mnist10k)
	$(RUN) train.py $(STUDY)
	$(RUN) train.py $(STUDY) optimizer=momentum lr=1e-3,3.2e-3,1e-2,3.2e-2,1e-1,3.2e-1
	$(RUN) train.py $(STUDY) optimizer=sgd lr=3.2e-3,1e-2,3.2e-2,1e-1,3.2e-1,1
	$(RUN) -m study multirun/study_tuning_$(STUDIED)
	$(RUN) train.py experiment=study_ties $(DATA)
	$(RUN) train.py experiment=study_ties $(DATA) optimizer=sgd lr=3.2e-3,1e-2,3.2e-2,1e-1,3.2e-1,1
	$(RUN) -m study --ties multirun/study_ties_$(STUDIED)
	set -e; for runs in "study_tuning --experiment study_start" "study_tuning --experiment study_final" \
			"study_ties --choice end --experiment study_end"; do \
		$(RUN) -m study --finals $${runs%% *}_$(STUDIED) $${runs#* } > multirun/study.runs; \
		while read -r line; do $(RUN) train.py $$line $(DATA); done < multirun/study.runs; \
	done
	$(RUN) -m ireg.basins $(STARTS)/sgd_* --optimizers sgd momentum rmsprop adam --loss 0.4 --output multirun/study_basins_$(STUDIED)
	$(RUN) -m ireg.drift $(STARTS)/rmsprop_* $(STARTS)/adam_* --orders 8 --refinements 2 4 --flow-lr 1e-7 \
		--output multirun/adaptive/study_drift_$(STUDIED)
	$(RUN) -m ireg.drift $(STARTS)/sgd_* --orders 8 --refinements 2 4 --flow-lr 1e-2 \
		--output multirun/sgd/study_drift_$(STUDIED)
	$(RUN) -m study multirun/study_final_$(STUDIED) multirun/study_end_$(STUDIED) multirun/study_basins_$(STUDIED) \
		multirun/adaptive/study_drift_$(STUDIED) multirun/sgd/study_drift_$(STUDIED)

test: install ## Run the tests, in three processes
	$(RUN) -m pytest $(SPREAD)

test-all: install ## The same, and those that take long: kills, requeued jobs, long comparisons (twice the time)
	IREG_SLOW=1 $(RUN) -m pytest $(SPREAD)

test-minima: ## The same with the oldest dependencies allowed, in .venv-minima (Python 3.11 or 3.12, 6 GB)
	$(PYTHON) -m venv $(MINIMA)
	$(PYTHON) tests/minima.py > $(MINIMA)/pins.txt
	$(MINIMA)/bin/pip install $(PIP) --requirement $(MINIMA)/pins.txt --editable '.[test]'
	IREG_SLOW=1 $(MINIMA)/bin/python -m pytest $(SPREAD)

test-planted: install ## Plant errors in the constants, one at a time: the certificates must reject each (10 minutes)
	IREG_PLANTED=1 $(RUN) -m pytest tests/certify/test_planted.py

bench: install ## Measure epochs, terms and curvature; writes tables on four pages of docs (about 50 minutes)
	$(RUN) -m benchmarks.methods
	$(RUN) -m benchmarks.costs
	$(RUN) -m benchmarks.sets
	$(RUN) -m benchmarks.penalties
	$(RUN) -m benchmarks.guard
	$(RUN) -m benchmarks.steps
	$(RUN) -m benchmarks.epoch

gpu: install ## On a CUDA device: tests against the CPU, then time and memory of terms (8 minutes; NOT TESTED without one)
	$(RUN) -m benchmarks.gpu

$(VENV)/site: $(VENV)/installed
	$(VENV)/bin/pip install $(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/site ## Build the pages as a site in docs/_build, and run the examples of docstrings (installs Sphinx)
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(RUN) -m sphinx -W -q -D nb_execution_mode=off -b doctest docs docs/_build/doctest
	@echo "docs/_build/html/index.html"

$(VENV)/linters: $(VENV)/installed
	$(VENV)/bin/pip install $(PIP) --editable '.[dev]'
	@touch $@

lint: $(VENV)/linters ## Check style and types (installs ruff and mypy)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## Remove .venv, .venv-minima, .venv-tools and caches; results in multirun stay
	rm -rf $(VENV) $(MINIMA) $(TOOLS) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
