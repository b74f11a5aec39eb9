# `make reproduce` and `make test` do everything on a fresh machine; `make help` lists all targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

FIRST := $(addprefix tests/test_, $(addsuffix .py, commands ranks index small unplugged cache wheel verify grid reproduce_clean pixels eccv published formats review))# the longest begin first
REST := $(filter-out $(FIRST), $(wildcard tests/test_*.py))
ONE := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE# more threads than cores only wait for each other
ONE += MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864# as `keep_freed_memory`
PYTEST := $(ONE) $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder# three on two cores: some tests wait
OTHERS := $(filter-out scenes flickr8k, $(notdir $(patsubst %/,%,$(dir $(wildcard data/results/*/*.json)))))
FLICKR8K ?=

.PHONY: help env reproduce check test test-slow figures readme docs bench
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

env: $(READY) ## the environment in .venv, which the other targets make too

reproduce: $(READY) ## tables, figures and report on the generated scenes, in reports/scenes; changes no tracked file
	$(BIN)/amsps reproduce

check: $(READY) ## the gates: clean notebooks, library and README in step, shape of the code
	$(BIN)/python .ci/check.py

test: check ## gates, notebooks, records and tests
	$(ONE) $(BIN)/nbdev_test --n_workers 2
	$(PYTEST) $(FIRST) $(REST)

test-slow: $(READY) ## the tests marked slow, which `make test` skips
	$(PYTEST) --slow -m slow $(FIRST) $(REST)

# the figure of examples retrieved from Flickr8k shows its photographs: make figures FLICKR8K=DIR
figures: $(READY) ## for maintainers: renew the committed records of the scenes, and everything in figures/
	$(BIN)/amsps reproduce --records data/results/scenes --output figures/scenes
	for d in $(sort $(OTHERS)); do $(BIN)/amsps report data/results/$$d --output figures/$$d || exit 1; done
	$(if $(FLICKR8K),$(BIN)/amsps report data/results/flickr8k --output figures/flickr8k --data-root $(FLICKR8K),\
	    @echo "figures/flickr8k is left as it is: make figures FLICKR8K=DIR renews it")
	$(BIN)/amsps compare --output figures/comparison

readme: $(READY) ## README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

docs: $(READY) ## the documentation site, in _docs
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[docs]'
	$(BIN)/python .ci/docs.py _docs

bench: $(READY) ## speed and memory beside plain references
	$(BIN)/python benchmarks/speed.py

$(READY): constraints.txt settings.ini setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "amsps needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
