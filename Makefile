# One list of commands for people and CI. Everything runs in .venv, which is made when it is missing or pyproject.toml changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo console test check check-long load soak audit check-torch check-gpu bench bench-networks curves pictures docs clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; the first time this takes a few minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)           ## start Alice, the wire, Bob and, on a desktop, the console; transmit the sample
	@$(BIN)/codelength demo

console: $(STAMP)        ## the same with two quick codes, and leave the services and the page up until Ctrl-C
	@$(BIN)/codelength demo --stay --codes frequency,ngram

check: $(STAMP)          ## linters and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: check              ## check, then the tests with branch coverage
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q -m "not long" -n 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/coverage combine -q
	$(BIN)/coverage report

check-long: $(STAMP)     ## the tests that take minutes, 200 queued transmissions, processes that stop, MINUTES=30 of random faults, the audit
	$(BIN)/python -m pytest -q -m long
	$(MAKE) load
	$(BIN)/python -m benchmarks.pressure
	$(MAKE) soak
	$(MAKE) audit

soak: $(STAMP)           ## random faults over transmissions of all presets: soak MINUTES=30 SEED=0
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0)

audit: $(STAMP)          ## weaknesses known of what is installed; says NOT DONE where nobody can be asked
	$(BIN)/python -m benchmarks.audit

load: $(STAMP)           ## 200 queued transmissions: all verified, in order, and nothing grows
	$(BIN)/python -m benchmarks.load

check-torch:             ## the golden vectors under another torch: make check-torch VERSION=2.12.0
	@test -n "$(VERSION)" || { echo "say which: make check-torch VERSION=2.12.0"; exit 2; }
	@test -x .venv-torch-$(VERSION)/bin/python || $(PYTHON) -m venv .venv-torch-$(VERSION)
	@.venv-torch-$(VERSION)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(VERSION) numba numpy pydantic
	.venv-torch-$(VERSION)/bin/python -m shared.service.vectors --check

check-gpu: $(STAMP)      ## the golden vectors on CUDA, and Alice on it with Bob on the CPU; says so where there is none
	$(BIN)/python -m pytest -q -rs tests/golden/test_gpu.py

bench: $(STAMP)          ## measure; DATA=DIR, CODES=a,b, FILES=a,b, LABEL=NAME; what docs/results has is not measured again
	@test -n "$(DATA)" || { echo "say what: make bench DATA=DIR"; exit 2; }
	$(BIN)/codelength bench --data $(DATA) --out docs/results $(if $(CODES),--codes $(CODES)) $(if $(FILES),--files $(FILES)) $(if $(LABEL),--label $(LABEL)) > /dev/null
	$(BIN)/python -m benchmarks.tables

bench-networks: $(STAMP) ## steps of the networks: native, float64, int8
	$(BIN)/python -m benchmarks.networks

curves: $(STAMP)         ## the picture of docs/mathematics.md: make curves FILE=alice29.txt CORPUS=asyoulik.txt, of the Canterbury corpus
	@test -n "$(FILE)" -a -n "$(CORPUS)" || { echo "say of what: make curves FILE=alice29.txt CORPUS=asyoulik.txt"; exit 2; }
	$(BIN)/codelength curve $(FILE) --corpus $(CORPUS) --code ngram,mixing,recurrent --steps 0,1,3,10,30,100,245 \
	    --online --png docs/curves.png

pictures: $(STAMP)       ## the picture of the console, in Chromium
	$(BIN)/python -m benchmarks.pictures

docs: $(STAMP)           ## rewrite the generated parts of docs/
	$(BIN)/python -m harness.document docs/protocol.md

clean:
	rm -rf .venv .venv-torch-* build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
