# Every target runs on a clean checkout with Go; `generate` also needs protoc,
# `race` a C compiler. `make help` lists the targets.

GO ?= go
DURATION ?= 10m
FUZZTIME ?= 30s
OPS ?= 100000
PROTOS := chainfire/entry/v1/entry.proto chainfire/v1/cluster.proto chainfire/v1/lease.proto chainfire/v1/seed.proto chainfire/v1/peer.proto \
  v3lockpb/v3lock.proto v3electionpb/v3election.proto
# The simulator runs on one goroutine.
CONCURRENT = $(shell $(GO) list ./... | grep -E '/(raftlog|transfer|node)(/|$$)|/(snapshot|internal/state)$$' | grep -v '/node/sim$$')

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## build every package
	$(GO) build ./...

.PHONY: test
test: ## unit, property and simulation tests
	$(GO) test ./...

.PHONY: race
race: ## short tests of the concurrent packages under the race detector
	CGO_ENABLED=1 $(GO) test -race -short $(CONCURRENT)

.PHONY: e2e
e2e: ## whole processes: kills, joins, etcd's client
	$(GO) test -tags e2e -count=1 -timeout 20m ./node/e2e/... ./cmd/cfseed/internal/bench ./cmd/cfseed/internal/netbench ./cmd/cfseed/internal/seedbench ./cmd/cfseed/internal/kvbench

.PHONY: differential
differential: ## OPS random operations against etcd's own server, answers and events compared
	CFSEED_DIFFERENTIAL_OPS=$(OPS) $(GO) test -tags e2e -count=1 -timeout 2h -v -run '^TestDifferential' ./node/e2e

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	FUZZ_EACH=$(FUZZTIME) .ci/run fuzz

.PHONY: bench-join
bench-join: ## what a join costs, beside copying the files (minutes)
	$(GO) run ./cmd/cfseed bench join --out bench-join.json

.PHONY: bench-net
bench-net: ## what a pull makes of a long line (minutes)
	$(GO) run ./cmd/cfseed bench net --out bench-net.json

.PHONY: etcd
etcd: ## etcd's own server into .bin, for bench-seed and bench-kv to compare with
	mkdir -p .bin
	cd testdata/etcd && $(GO) build -o ../../.bin/etcd .

.PHONY: bench-seed
bench-seed: ## what a seed costs, table by table, with pictures; with etcd after make etcd (most of an hour)
	mkdir -p .bin
	PATH="$(CURDIR)/.bin:$$PATH" $(GO) run ./cmd/cfseed bench seed --out .bin/bench-seed.json --plots .bin/bench-seed

.PHONY: bench-kv
bench-kv: etcd ## puts, reads, watches, leases, memory and restarts, beside etcd (a quarter of an hour)
	PATH="$(CURDIR)/.bin:$$PATH" $(GO) run ./cmd/cfseed bench kv --out .bin/bench-kv.json

.PHONY: bench
bench: ## micro benchmarks of the packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e ./...
	$(GO) tool staticcheck ./...

.PHONY: generate
generate: ## regenerate the committed protobuf code (plugins are pinned in go.mod)
	mkdir -p .bin
	$(GO) build -o .bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	$(GO) build -o .bin/protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/.bin:$$PATH" protoc -I proto -I proto/etcd --go_out=proto --go_opt=paths=source_relative \
	  --go-grpc_out=proto --go-grpc_opt=paths=source_relative $(PROTOS)

# The line with protoc's own version depends on the machine and is not compared.
.PHONY: generate-check
generate-check: generate ## fail when the committed code is not what generate makes
	git -c safe.directory='*' diff --exit-code -I '^// .*protoc +v' -- proto
	@test -z "$$(git -c safe.directory='*' ls-files --others --exclude-standard -- proto)" || \
	  { echo "generated files are not committed:"; git ls-files --others --exclude-standard -- proto; exit 1; }

.PHONY: demo
demo: ## a cluster of processes, two joins, the leader killed, all verified
	$(GO) run ./cmd/cfseed demo

.PHONY: soak
soak: ## random faults on a simulated cluster for DURATION
	.ci/soak $(DURATION)

.PHONY: soak-net
soak-net: ## bad lines and interruptions at full length: minutes of silence, ten times as many kills
	CFSEED_E2E_SOAK=1 $(GO) test -tags e2e -count=1 -timeout 30m -v -run 'BadLine|RandomInterruptions|Blackhole' ./node/e2e
