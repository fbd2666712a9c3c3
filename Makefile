# Every target sets up .venv by itself, from a bare Python 3.11 or 3.12, as constraints.txt says; a second call installs
# nothing. To use a Python of your own: make test PYTHON=/path/to/python3.12

PYTHON := python3.12 python3.11 python3 python
BIN    := .venv/bin
PY     := $(BIN)/python
STAMP  := .venv/.installed
PYTEST := $(PY) -m pytest
BOTH   := -n 2 --dist loadfile
ARGS   :=

# What `make quickstart` does, once everything is installed.
define QUICKSTART
$(BIN)/cmm train experiment=image/digits name=quickstart
$(BIN)/cmm evaluate run=runs/quickstart 'steps=[1,2,4,8]' 'diagonal=[1,2,4,8,100]'
endef

# Tests see the shared data sets where there are any and nobody says otherwise.
DATA = if [ -z "$${CMM_DATA+set}" ] && [ -d ../shared/data ]; then CMM_DATA=$$(cd ../shared/data && pwd); export CMM_DATA; fi

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format coverage robustness smoke soak readme bench clean

help:                 ## say what can be made
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 20

setup: $(STAMP)       ## install everything into .venv (about 5 GB; only what is missing)

quickstart: $(STAMP)  ## train on real digits for a few minutes, score the samples, show them: runs/quickstart
	$(QUICKSTART)

test: $(STAMP)        ## the tests, but for the slow ones (more options: ARGS="-k paths -x")
	@$(DATA); $(PYTEST) $(BOTH) -m "not slow" $(ARGS)

lint: $(STAMP)        ## ruff and the type checker
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)      ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

coverage: $(STAMP)    ## the tests, and the lines that none of them reaches
	@$(DATA); $(PYTEST) $(BOTH) -m "not slow" --cov --cov-report=term $(ARGS)

robustness: $(STAMP)  ## every fault there is a test for
	@$(DATA); $(PYTEST) $(BOTH) -m robustness $(ARGS)

smoke: $(STAMP)       ## every modality from data to samples
	@$(DATA); $(PYTEST) -m smoke $(ARGS)

soak: $(STAMP)        ## random kills in one run: make soak KILLS=100
	@$(DATA); KILLS=$${KILLS:-100} $(PYTEST) -m soak $(ARGS)

readme: $(STAMP)      ## every command of the README, for real
	@$(DATA); $(PYTEST) -m readme $(ARGS)

bench: $(STAMP)       ## the speed of the training loop and of the U-Net
	$(PY) benchmarks/loop_overhead.py
	$(PY) benchmarks/unet_step.py

clean:                ## remove .venv, caches and built files; runs/ and data/ stay
	rm -rf .venv build dist .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp holds the folder that the environment was made for. Without it the environment is half made, or it was copied
# from elsewhere: it is made anew.
ifneq ($(shell $(PY) -c 'print(open("$(STAMP)").read().strip())' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@[ "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" ] && $(PY) -c '' 2>/dev/null || rm -rf .venv
	@[ -d .venv ] || for python in $(PYTHON); do \
	  $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || continue; \
	  echo "Setting up .venv with $$($$python --version): about 5 GB, once."; $$python -m venv .venv || exit; break; \
	done
	@[ -d .venv ] || { echo "There is no Python 3.11 or 3.12 with its venv module among: $(PYTHON). Install one (on Debian:" \
	  "apt-get install python3-venv), or name yours: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@rm -f $@
	$(PY) -m pip install -c constraints.txt pip setuptools hatchling editables
	$(PY) -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	@echo '$(CURDIR)' > $@
