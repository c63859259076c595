# Logic lives in Go; a target is one to three lines. Tools are pinned in tools/, outside the workspace.
MODULES := platform platform/kv/kvetcd/etcdtest services/gateway/acmetest services/gateway/authtest services/gateway/grpcwebtest services/gateway/suitetest $(patsubst %/go.mod,%,$(wildcard services/*/go.mod)) cmd/bijou deploy/e2e
PROTOS  := $(patsubst %/buf.yaml,%,$(wildcard platform/buf.yaml services/*/buf.yaml))
TOOLS   := $(CURDIR)/.bijou/tools
export PATH := $(TOOLS):$(PATH)

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## run the platform: as containers where a Docker engine answers, else as processes
	@if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; \
	then deploy/base-image.sh && exec docker compose up --build; else exec bin/bijou up; fi

dev: ## run the platform as containers; save a file of a service, and it is built again and replaced
	docker compose up --build --watch

down: build ## stop it
	@if [ -f .bijou/run.json ]; then bin/bijou down; else docker compose down; fi

build: $(if $(shell command -v npm),services/console/dist/index.html) ## build bin/bijou, and with npm the pages of the console
	@CGO_ENABLED=0 go build -o bin/bijou ./cmd/bijou

services/console/dist/index.html: $(shell find services/console/ui -name node_modules -prune -o -type f -print)
	@cd services/console/ui && npm ci --no-audit --no-fund && npm run build || \
		echo "the pages of the console could not be built, see above; the console will have none"

test: ## test every module with the race detector; the end-to-end tests run last, without other tests beside them
	go test -race -timeout 30m $$(go list work | grep -v /deploy/e2e)
	go test -run 'TestManySlowClients|TestMemoryOfIdle|TestHandlerAllocatesNothing|TestSpanIsOneAllocation|TestAllocationsOfARequest' ./services/gateway ./platform/trace # not with -race
	go test -race -count=1 -p 1 -timeout 40m ./deploy/e2e/...
	GOWORK=off go -C tools/hosts test -count=1 ./...
	GOWORK=off go -C tools/mutate test -count=1 ./...

test-containers: ## run the end-to-end tests over docker compose; needs Linux and an engine (deploy/engine.sh)
	deploy/base-image.sh
	BIJOU_TEST_CONTAINERS=1 go test -count=1 -timeout 30m -run '^TestContainers$$' ./deploy/e2e

SUITES ?= most
edge-suites: ## run suites of other projects over the edge: HTTP/2, gRPC, Connect, TLS, WebSocket; SUITES=all runs every case
	deploy/suites.sh
	BIJOU_TEST_SUITES=$(SUITES) go test -v -count=1 -timeout 40m ./services/gateway/suitetest

CORE ?= circuit config discovery errs httpapi kv=./kv,./kv/kvmem,./kv/driver kv/driver=./kv/driver,./kv/kvmem kv/kvmem \
	load overload pace retry route rpc service text trace
N ?= 10
mutate: ## change one thing at a time in the core packages, see which tests notice, and write docs/mutation.md
	GOWORK=off go -C tools/mutate run . -n $(N) -seed $(SEED) -out $(CURDIR)/docs/mutation.md $(CORE)

SEED ?= 1
faults: .bijou/peers/bin/caddy ## inject faults under load, and write docs/faults.md; needs a quiet machine and 45 minutes
	go test -count=1 -timeout 60m -v -run '^TestFaults$$' ./deploy/e2e -faults $(CURDIR)/docs/faults.md -seed $(SEED)

AGAINST ?= main
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## lint modules and contracts; contracts must be compatible with AGAINST (main)
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && golangci-lint run ./...) || exit 1; done
	@for p in $(PROTOS); do (cd $$p && buf lint && buf format --diff --exit-code && \
		buf breaking --against "$(CURDIR)/.git#ref=$(AGAINST),subdir=$$p") || exit 1; done

generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## generate code, and files for other hosts
	@for p in $(PROTOS); do (cd $$p && buf generate) || exit 1; done
	GOWORK=off go -C tools/hosts run .

bench: ## measure, and print one table
	go run ./deploy/e2e/bench

peers: ## install other proxies, to measure them beside the edge (faults, bench-edge): linux/amd64, needs pip
	deploy/peers.sh

.bijou/peers/bin/caddy: deploy/peers.txt
	deploy/peers.sh

bench-edge: ## measure the edge beside other proxies (make peers), and write docs/benchmarks.md; needs 20 quiet minutes
	go run ./deploy/e2e/bench edge -write docs/benchmarks.md

bench-stack: ## measure the stack as containers, print a table, fail over budget; needs Linux and an engine
	deploy/base-image.sh
	go run ./deploy/e2e/benchstack

screenshots: ## make the screenshots of the documents in a browser; needs Node.js and Chromium
	BIJOU_TEST_BROWSER=screenshots go test -count=1 -timeout 30m -run '^TestBrowser$$' ./deploy/e2e

fix: $(TOOLS)/gofumpt ## bring code up to date and format it
	go fix work
	gofumpt -w platform services cmd deploy

tidy: ## tidy every module
	@for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done

$(TOOLS)/buf: tools/buf/go.mod
	GOWORK=off GOBIN=$(TOOLS) go -C tools/buf install github.com/bufbuild/buf/cmd/buf

$(TOOLS)/%: tools/go.mod
	GOWORK=off GOBIN=$(TOOLS) go -C tools install $$(GOWORK=off go -C tools list tool | grep '/$*$$')

.PHONY: help up dev down build test test-containers edge-suites mutate faults lint generate bench peers bench-edge bench-stack screenshots fix tidy
