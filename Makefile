# Every target makes .venv first and installs what is missing; see scripts/bootstrap.
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
# For example: make test ARGS="-k digest -x"
ARGS :=

.PHONY: help install check format test coverage interop interop-full fuzz fuzz-short sim sim-mutations soak soak-linux times bench bench-components bench-growth demo clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: ## make .venv with the commands and the development tools
	@scripts/bootstrap

check: install ## formatting, lint, types, and who may import whom
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test: ## unit, property and FUSE tests
	@scripts/bootstrap test
	$(BIN)/pytest $(ARGS)

coverage: ## the tests, and which lines they leave out
	@scripts/bootstrap test
	$(BIN)/pytest --cov --cov-report=term $(ARGS)

interop: ## against Linux kernels in qemu, short: 8 MiB, two digest modes
	@scripts/bootstrap peers
	$(BIN)/pytest tests/interop -m "peer and not full" $(ARGS)

interop-full: ## the whole matrix: Linux 6.12 and 6.1, 512 B and 4096 B, all digest modes
	@scripts/bootstrap peers
	INTEROP_MIB=$${INTEROP_MIB:-32} $(BIN)/pytest tests/interop -m peer $(ARGS)

fuzz: install ## hostile peers for an hour, by coverage
	$(BIN)/python -m tests.fuzz.run --seconds 3600 $(ARGS)

fuzz-short: install ## the same for two minutes, with the same seed every time
	$(BIN)/python -m tests.fuzz.run --seconds 120 --seed 1 $(ARGS)

sim: ## 10,000 scenarios of faults against the whole host and controller, in memory
	@scripts/bootstrap test
	$(BIN)/python -m tests.sim --scenarios 10000 --workers 2 $(ARGS)

sim-mutations: ## that the simulation finds what is broken on purpose
	@scripts/bootstrap test
	$(BIN)/python -m tests.sim.mutations $(ARGS)

soak: ## verified writes for ten minutes each while connections are cut and targets killed
	@scripts/bootstrap test
	$(BIN)/python -m tests.reliability.soak --mode cut --lba 512 $(ARGS)
	$(BIN)/python -m tests.reliability.soak --mode cut --lba 4096 --digests $(ARGS)
	$(BIN)/python -m tests.reliability.soak --mode kill --target nvmfd-file --digests $(ARGS)
	$(BIN)/python -m tests.reliability.soak --mode kill --target nvmfd-volatile $(ARGS)

soak-linux: ## the same cuts, with the target of a Linux kernel in qemu
	@scripts/bootstrap peers
	$(BIN)/python -m tests.reliability.soak --mode cut --target linux $(ARGS)

times: ## how soon losses are found and I/O goes on, and what waiting I/O costs others
	@scripts/bootstrap test
	$(BIN)/python -m tests.reliability.times $(ARGS)
	$(BIN)/python -m tests.reliability.isolation

bench: ## beside nbdfuse and qemu-storage-daemon, in turns: about 40 minutes, needs root
	@scripts/bootstrap bench
	$(BIN)/python -m benchmarks $(ARGS)

bench-components: ## what each component costs by itself, in CPU time
	@scripts/bootstrap test
	@mkdir -p benchmarks/results
	$(BIN)/pytest benchmarks/components --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name \
		--benchmark-json=benchmarks/results/components.json $(ARGS)

bench-growth: ## what things cost as there are more of them, measured and plotted
	@scripts/bootstrap test
	$(BIN)/python -m benchmarks.growth $(ARGS)

demo: install ## mount a namespace, lose the controller, get it back
	@scripts/demo

clean: ## remove what the other targets made
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
