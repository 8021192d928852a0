# Roost. `make` alone prints the targets; CI runs these and nothing else.

GO      ?= go
BIN     := bin/roost
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL    := $(GO) tool -modfile=tools/go.mod
FUZZTIME ?= 10s
FUZZPKGS ?= ./...
KILLS   ?= 50
# Begun first, as they end last: most of their time they wait for the disk.
LONGEST := ./snapshot/store ./integration ./agent
MUTANTS ?= 1/1
DEMO ?= configs/examples/demo.yml
LEVEL   ?= full
PKG_ARCHES ?= amd64 arm64
# A package needs a version that begins with a digit: 1.2.3 of a tag, else 0.0.0~git.COMMIT.
PKG_VERSION ?= $(or $(shell git describe --tags --exact-match 2>/dev/null | sed -n 's/^v\([0-9].*\)/\1/p'),0.0.0~git.$(shell git rev-parse --short HEAD 2>/dev/null || echo none))
PROMISES := ^Test(Kill|PowerCut|Order|Faults|Flips|FlipsOnDisk|EvilLayers|HostileTrees|FlippedSources)$$

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build test short race crash promises promises-sample mutants fuzz bench microbench lint fmt cover cross cross-vet demo demo-clean clean docs generate packages

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/roost
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/roost

test: build ## all tests, without the race detector; no C compiler needed
	$(GO) test -timeout 40m $(LONGEST) ./...
	cd plugin/example && $(GO) test ./... # a module of its own

short: ## the tests that take no more than seconds
	$(GO) test -short ./...

race: ## the tests under the race detector (needs a C compiler); integration drives processes that would not have it
	CGO_ENABLED=1 $(GO) test -race -short -timeout 40m $$($(GO) list $(LONGEST) ./... | grep -v -e /integration $(RACE_SKIP:%=-e %))

crash: ## kill -9 of agent and coordinator at every named step (root for overlay)
	$(GO) test -tags failpoints -timeout 40m ./snapshot/pack ./snapshot/view ./transfer/blob ./internal/backing ./agent ./coordinator ./integration/plugins -run 'Crash|AllPoints|Kill'
	ROOST_KILLS=$(KILLS) $(GO) test ./integration -run 'TestKill' -v -timeout 40m

promises: ## everything that the store says that it survives, in full, and the table of it (root; LEVEL=ci: a sample)
	rm -f .promises.jsonl
	ROOST_PROMISES=$(LEVEL) ROOST_PROMISES_OUT=$(CURDIR)/.promises.jsonl ROOST_TEST_REQUIRE=all \
	  $(GO) test -tags failpoints ./integration/promises ./snapshot/store -run '$(PROMISES)' -count=1 -v -timeout 120m
	$(GO) run ./integration/mutants -out $(CURDIR)/.promises.jsonl
	$(GO) run ./integration/promises/table .promises.jsonl $(LEVEL) > docs/promises.md

promises-sample: ## a sample of the same, as CI takes it
	ROOST_PROMISES=ci $(GO) test -tags failpoints ./integration/promises ./snapshot/store -run '$(PROMISES)' -count=1 -v -timeout 40m

mutants: ## break the program in ways that matter, one by one: some test has to notice each
	$(GO) run ./integration/mutants -sample $(MUTANTS)

fuzz: ## each fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list $(FUZZPKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x; done; done

bench: ## Roost and its peers in one run (root, 20 GB), into docs/performance.md; BENCH=quick: 3 minutes, nothing written there
	@mkdir -p bin
	BENCH='$(BENCH)' BENCH_JSON='$(or $(BENCH_JSON),$(CURDIR)/bin/bench.json)' \
	  BENCH_DOC='$(or $(BENCH_DOC),$(if $(BENCH),,$(CURDIR)/docs/performance.md))' \
	  $(GO) test -tags bench ./integration/bench -count=1 -v -timeout 120m

microbench: ## the Go benchmarks of every package
	$(GO) test ./... -run '^$$' -bench . -benchmem

lint: ## golangci-lint v2 with the reasons in .golangci.yml
	$(TOOL) golangci-lint run

fmt: ## gofumpt and goimports
	$(TOOL) golangci-lint fmt

cover: ## coverage of all packages, in coverage.out
	$(GO) test -short -coverpkg=./... -coverprofile=coverage.out ./... && $(GO) tool cover -func=coverage.out | tail -1

cross: ## what has to build besides this machine (as fast as can be: nobody runs it)
	GOOS=linux  GOARCH=arm64 $(GO) build -trimpath -o /dev/null ./cmd/roost
	GOOS=darwin GOARCH=arm64 $(GO) build -gcflags='all=-N -l' -o /dev/null ./cmd/roost
	GOOS=windows GOARCH=amd64 $(GO) build -gcflags='all=-N -l' -o /dev/null ./cmd/roost

cross-vet: ## the tests there, too
	GOOS=darwin  $(GO) vet ./...
	GOOS=windows $(GO) vet ./...

packages: ## Debian and RPM packages in bin/packages
	@mkdir -p bin/packages
	$(GO) build -modfile=tools/nfpm.mod -o bin/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
	@set -e; for arch in $(PKG_ARCHES); do \
	  GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/packages/roost ./cmd/roost; \
	  for kind in deb rpm; do \
	    GOARCH=$$arch PKG_VERSION='$(PKG_VERSION)' ROOST_BINARY=bin/packages/roost bin/nfpm package -f packaging/nfpm.yaml -p $$kind -t bin/packages/; done; \
	done; rm -f bin/packages/roost

generate: ## regenerate the Go of plugin/wire/plugin.proto (needs protoc: apt install protobuf-compiler)
	@mkdir -p bin
	$(GO) build -modfile=tools/go.mod -o bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/bin:$$PATH" protoc --go_out=. --go_opt=module=github.com/roost-ci/roost \
	  --go-grpc_out=. --go-grpc_opt=module=github.com/roost-ci/roost plugin/wire/plugin.proto

docs: build ## regenerate docs/configuration.md, the example file and the guide's table from the code
	$(BIN) config reference > docs/configuration.md
	$(BIN) config example > configs/roost.toml
	$(BIN) config variables --into docs/gitlab.md

demo: build ## a real pipeline on two hosts, with sticky workspaces; run it twice
	@mkdir -p .demo
	$(BIN) run $(DEMO) --hosts 2 --state .demo --report .demo/report.json \
	  --var GOPROXY="$$($(GO) env GOPROXY)" --var GOSUMDB="$$($(GO) env GOSUMDB)"

demo-clean: build ## forget what the demo kept
	@[ ! -e .demo ] || rmdir .demo 2>/dev/null || $(BIN) gc --all --state .demo

clean: ## remove what make built
	rm -rf bin coverage.out
