# Every target runs on a clean checkout with Go; `generate` also needs protoc.

GO ?= go
PROTOS := chainfire/entry/v1/entry.proto chainfire/v1/cluster.proto chainfire/v1/seed.proto chainfire/v1/peer.proto

.PHONY: build
build: ## build every package
	$(GO) build ./...

.PHONY: generate
generate: ## regenerate the committed protobuf code (plugins are pinned in go.mod)
	mkdir -p .bin
	$(GO) build -o .bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	$(GO) build -o .bin/protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/.bin:$$PATH" protoc -I proto --go_out=proto --go_opt=paths=source_relative \
	  --go-grpc_out=proto --go-grpc_opt=paths=source_relative $(PROTOS)
