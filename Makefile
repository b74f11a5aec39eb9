# Two commands do everything on a fresh machine: `make reproduce` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

LONGEST := tests/test_unplugged.py tests/test_grid.py# they begin first

.PHONY: reproduce test readme docs bench
reproduce: $(READY)
	$(BIN)/amsps reproduce

test: $(READY)
	$(BIN)/python .ci/check.py
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/amsps verify
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(LONGEST) $(filter-out $(LONGEST), $(wildcard tests/test_*.py))

bench: $(READY)
	$(BIN)/python benchmarks/speed.py

docs: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[docs]'
	$(BIN)/python .ci/docs.py _docs

readme: $(READY)
	$(BIN)/python .ci/readme.py

$(READY): constraints.txt settings.ini setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "amsps needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
