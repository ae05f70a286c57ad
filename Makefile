# What takes too long for every run of the tests. PYTHON names the Python of an environment with the "dev" extra.
PYTHON ?= python
SAMPLE ?= 250
SECONDS ?= 1000000

.PHONY: mutants crash-points long-run

mutants: ## change the code in small places and count the changes that the tests notice (docs/testing.md)
	$(PYTHON) benchmarks/mutants.py --sample $(SAMPLE) --seconds $(SECONDS) --results mutants.jsonl

crash-points: ## cut everything that is written at every system call and go on from there (docs/testing.md)
	$(PYTHON) -m tests.crash.points

long-run: ## 2,000 epochs with three resumes, and 500 runs listed (docs/testing.md)
	$(PYTHON) benchmarks/long_run.py
