# `make` lists what there is. Everything runs on a machine that has only Go: `make deps` installs the rest.

GO ?= go
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: help deps build run test faults bench lint fmt tidy vuln image clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

deps: ## install redis-server and postgresql where they are missing
	@scripts/install-deps.sh

build: ## build bin/stockstream
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/stockstream ./cmd/stockstream

run: deps build ## run the service with a Redis and a Postgres of its own
	@exec bin/stockstream dev

test: deps ## run every test, on real servers and with the race detector; a skipped test is a failure
	@$(GO) test -race -count 1 -json $(TESTFLAGS) ./... | $(GO) run ./internal/testsummary

faults: deps ## the tests that kill processes, many more times than `make test` does
	@STOCKSTREAM_TEST_KILLS=12 $(GO) test -race -json -count 1 -timeout 30m -run 'Kill|Crowd' ./cmd/stockstream | $(GO) run ./internal/testsummary

bench: deps build ## measure, as ratios taken side by side in one run
	$(GO) run ./cmd/bench $(BENCHFLAGS)

lint: ## vet, golangci-lint, go.mod
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(GOLANGCI_LINT) run

fmt: ## format the code
	gofmt -w .

tidy: ## bring go.mod in line with the code
	$(GO) mod tidy

vuln: ## look for known vulnerabilities in what the code calls
	$(GO) run $(GOVULNCHECK) ./...

image: ## build the container image
	docker build --build-arg VERSION=$(VERSION) -t stockstream:$(VERSION) .

clean: ## remove what was built; the data of `make run` stay in .stockstream
	rm -rf bin
