# make help lists what there is. Each target is a plain command that works without make.

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: ## run the example: from .proto to calls, in one process
	go run ./examples/quickstart

.PHONY: orders
orders: ## run the example of events: groups, retries, dead letters and their replay
	go run ./examples/orders

.PHONY: test
test: ## run the tests of all modules, against real NATS and etcd servers in-process
	go test work

.PHONY: race
race: ## run the same tests with the race detector
	go test -race work

.PHONY: lint
lint: ## run golangci-lint over all modules, and what else reads without running
	go vet work
	bash tools/imports.sh
	bash tools/links.sh
	bash tools/lint.sh

.PHONY: generate
generate: ## write all generated code anew, after a change of a .proto or a template
	bash tools/generate.sh
	go test ./internal/generator -update

.PHONY: bench
bench: ## run the benchmarks of all modules
	go test -run '^$$' -bench . -benchmem work

.PHONY: compare
compare: ## compare with other libraries: some 45 minutes; bench/README.md
	go run ./bench -out .bin/bench

.PHONY: fuzz
fuzz: ## run every fuzz target for 1,000,000 executions
	bash tools/fuzz.sh 1000000x

.PHONY: ci
ci: ## run every check, as it runs for a change
	.ci/run
