# `make` lists the targets. They need only Go: `make deps` installs Redis, Postgres and PgBouncer.

GO ?= go
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# For test-one, keep and profile: which tests, in which package. Set RUN to a test's name, or to a regular expression.
PKG ?= ./cmd/stockstream
RUN ?=

# For profile: which part of the benchmark, unless RUN names a test.
PART ?= pipeline

.PHONY: help deps build run test test-one keep faults bench profile lint fmt tidy vuln image clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 16

deps: ## install redis-server, postgresql and pgbouncer if they are missing
	@scripts/install-deps.sh

build: ## build bin/stockstream
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/stockstream ./cmd/stockstream

run: deps build ## run the service with its own Redis and Postgres
	@exec bin/stockstream dev

test: deps ## run all tests on real servers, with the race detector; a skipped test counts as a failure
	@$(GO) test -race -count 1 -timeout 20m -json $(TESTFLAGS) ./... | $(GO) run ./internal/testsummary

test-one: deps ## run some tests, with their log: make test-one PKG=./commands RUN=TestReserve
	$(GO) test -race -count 1 -v -run '$(RUN)' $(TESTFLAGS) $(PKG)

keep: deps ## like test-one, but a failed test keeps its servers until Ctrl-C and prints how to connect
	STOCKSTREAM_TEST_KEEP=1 $(GO) test -count 1 -v -timeout 0 -run '$(RUN)' $(TESTFLAGS) $(PKG)

faults: deps ## run the tests that kill processes, with many more kills than `make test`
	@STOCKSTREAM_TEST_KILLS=12 $(GO) test -race -json -count 1 -timeout 30m -run 'Kill|Crowd' ./cmd/stockstream | $(GO) run ./internal/testsummary
	@STOCKSTREAM_TEST_KILLS=12 $(GO) test -race -json -count 1 -timeout 30m -run Failover ./cmd/stockstream | $(GO) run ./internal/testsummary

bench: deps build ## measure StockStream beside its baselines; BENCHFLAGS='-rounds 3' takes other flags
	$(GO) run ./cmd/bench $(BENCHFLAGS)

# One part of the benchmark each.
.PHONY: bench-http bench-pipeline bench-latency bench-rebuild bench-restore bench-audit
bench-http bench-pipeline bench-latency bench-rebuild bench-restore bench-audit: bench-%: deps build
	$(GO) run ./cmd/bench -only $* $(BENCHFLAGS)

# bench runs the work of pipeline, restore and audit in its own process. In the other parts, the service is a child
# process, and the profile shows the load generator.
profile: deps build ## write bin/cpu.pprof, the CPU profile of a benchmark (PART=pipeline, restore or audit) or a test (PKG= RUN=)
ifeq ($(RUN),)
	$(GO) run ./cmd/bench -only $(PART) -rounds 1 -cpuprofile bin/cpu.pprof $(BENCHFLAGS)
else
	$(GO) test -count 1 -run '$(RUN)' -cpuprofile bin/cpu.pprof -o bin/profiled.test $(PKG)
endif
	@echo "To open the profile: $(GO) tool pprof -http 127.0.0.1:0 bin/cpu.pprof"

lint: ## run go vet and golangci-lint, and check go.mod
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(GOLANGCI_LINT) run

fmt: ## format the code
	gofmt -w .

tidy: ## make go.mod match the code
	$(GO) mod tidy

vuln: ## look for known vulnerabilities in the code that is called
	$(GO) run $(GOVULNCHECK) ./...

image: ## build the container image
	docker build --build-arg VERSION=$(VERSION) -t stockstream:$(VERSION) .

clean: ## remove build results; the data of `make run` stay in .stockstream
	rm -rf bin
