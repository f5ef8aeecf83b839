# make demo   render the sample map with the shipped model
# make test   linters, type checks, documentation and tests, but for tests that take long
# make test-all  the same with all tests
# make docs   the documentation as a site, in site/
# make faults the long form of tests/faults; its table goes into docs/reliability.md
# make audit  known flaws of what is installed, where the service that knows them can be reached
# All need nothing but Python 3.11 to 3.13 with its venv module.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: demo test test-all faults audit lint docs wheel check-wheel sample clean

demo: .venv/user
	mkdir -p demo
	$(BIN)/maptile2sat render -o demo/helsinki.tif --preview demo/helsinki.png --overwrite
	@echo "open demo/helsinki.tif in QGIS; demo/helsinki.png shows map and result side by side"

test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile

test-all: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m ""

faults: .venv/developer
	MAPTILE2SAT_FAULTS=long MAPTILE2SAT_FAULTS_TABLE=docs/reliability.md \
		$(BIN)/pytest -m "" tests/faults

audit: .venv/developer
	@if $(BIN)/python -c "import requests; \
		requests.get('https://api.osv.dev/v1/vulns/PYSEC-2021-108', timeout=10).raise_for_status()" \
		2>/dev/null; \
	then $(BIN)/pip-audit --local --skip-editable --vulnerability-service osv; \
	else echo "pip-audit: skipped, its service cannot be reached"; fi

lint: .venv/developer docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml maptile2sat
	$(BIN)/lint-imports

# --quiet would keep --strict from noticing anything
docs: .venv/developer
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: .venv/developer
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# the wheel alone, in a fresh environment outside the checkout, must be able to render
check-wheel: wheel
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/pip" install --quiet dist/*.whl; \
	cd "$$folder"; \
	venv/bin/maptile2sat render -o sample.tif --preview sample.png; \
	venv/bin/maptile2sat info sample.tif; \
	venv/bin/maptile2sat doctor

# the sample maps anew, from OpenStreetMap data
sample: .venv/developer
	mkdir -p demo
	$(BIN)/python examples/fetch_helsinki.py demo
	$(BIN)/maptile2sat draw demo/Helsinki.osm.pbf -o examples/helsinki.mbtiles --zoom 16 \
		--style maps --overwrite
	$(BIN)/maptile2sat draw demo/Helsinki.osm.pbf -o examples/helsinki-osm.mbtiles --zoom 16 \
		--style osm --overwrite

.venv/made:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with its venv module is needed"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/user: .venv/made pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/developer: .venv/made pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/user

clean:
	rm -rf .venv dist demo site
