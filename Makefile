# Logic lives in Go; a target is one to three lines. Tools are pinned in tools/, outside the workspace.
MODULES := platform $(patsubst %/go.mod,%,$(wildcard services/*/go.mod)) cmd/bijou deploy/e2e
PROTOS  := $(patsubst %/buf.yaml,%,$(wildcard platform/buf.yaml services/*/buf.yaml))
TOOLS   := $(CURDIR)/.bijou/tools
export PATH := $(TOOLS):$(PATH)

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## run the platform: as containers where a Docker engine answers, else as processes
	@if [ -f deploy/Dockerfile ] && docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; \
	then exec docker compose up --build; else exec bin/bijou up; fi

down: build ## stop it
	@if [ -f .bijou/run.json ]; then bin/bijou down; else docker compose down; fi

build: ## build the command line into bin/bijou
	@CGO_ENABLED=0 go build -o bin/bijou ./cmd/bijou

test: ## test every module with the race detector; the stories last, with the machine to themselves
	go test -race $$(go list work | grep -v /deploy/e2e)
	go test -race -count=1 -p 1 -timeout 20m ./deploy/e2e/...

test-containers: ## tell the stories over docker compose; needs Linux and an engine (deploy/engine.sh)
	deploy/base-image.sh
	BIJOU_TEST_CONTAINERS=1 go test -count=1 -timeout 30m -run '^TestContainers$$' ./deploy/e2e

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## lint every module and every contract
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && golangci-lint run ./...) || exit 1; done
	@for p in $(PROTOS); do (cd $$p && buf lint && buf format --diff --exit-code) || exit 1; done

AGAINST ?= main
breaking: $(TOOLS)/buf ## check that no contract changed in a way that breaks those in use on main
	@for p in $(PROTOS); do (cd $$p && buf breaking --against "$(CURDIR)/.git#ref=$(AGAINST),subdir=$$p") || exit 1; done

policy: ## test the rules of the house: imports, modules, documents
	go test -count=1 ./deploy/e2e/policy/...

vuln: $(TOOLS)/govulncheck ## report known vulnerabilities in code that is called
	@for m in $(MODULES); do echo "vuln $$m"; (cd $$m && GOWORK=off govulncheck ./...); done

generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## generate code from the contracts
	@for p in $(PROTOS); do (cd $$p && buf generate) || exit 1; done

check-generate: generate ## fail if generated code is not up to date
	git diff --exit-code -- '*.pb.go'

bench: ## measure, and print one table
	go run ./deploy/e2e/bench

fix: $(TOOLS)/gofumpt ## bring code up to date and format it
	go fix work
	gofumpt -w platform services cmd deploy

tidy: ## tidy every module
	@for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done

$(TOOLS)/buf: tools/buf/go.mod
	GOWORK=off GOBIN=$(TOOLS) go -C tools/buf install github.com/bufbuild/buf/cmd/buf

$(TOOLS)/%: tools/go.mod
	GOWORK=off GOBIN=$(TOOLS) go -C tools install $$(GOWORK=off go -C tools list tool | grep '/$*$$')

.PHONY: help up down build test test-containers lint breaking policy vuln generate check-generate bench fix tidy
