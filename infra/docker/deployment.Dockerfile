# All the tools that a deployment needs; infra/ansible/shell.sh builds it and enters it. From the top folder:
#   docker build --file infra/docker/deployment.Dockerfile --tag momalisa-deployment .
# Helm stays at 3: kubernetes.core does not support 4 yet.

FROM gcr.io/google.com/cloudsdktool/google-cloud-cli:543.0.0-alpine AS gcloud
FROM docker:28.5.2-cli AS docker
FROM registry.k8s.io/kubectl:v1.35.0 AS kubectl
FROM alpine/helm:3.19.4 AS helm

FROM python:3.11.14-slim-bookworm
# Debian removes a version when it fixes it, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git openssh-client && \
    rm -rf /var/lib/apt/lists/*
COPY --from=gcloud /google-cloud-sdk /opt/google-cloud-sdk
COPY --from=docker /usr/local/bin/docker /usr/local/bin/
COPY --from=docker /usr/local/libexec/docker/cli-plugins /usr/local/libexec/docker/cli-plugins
COPY --from=kubectl /bin/kubectl /usr/local/bin/
COPY --from=helm /usr/bin/helm /usr/local/bin/
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN python -m venv /opt/venv && touch README.md LICENSE && \
    /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[infra]'
# gcloud runs on this Python, too. The mounted checkout does not belong to root.
ENV PATH=/opt/venv/bin:/opt/google-cloud-sdk/bin:$PATH CLOUDSDK_PYTHON=/usr/local/bin/python3 \
    PYTHONDONTWRITEBYTECODE=1 ANSIBLE_CONFIG=/checkout/infra/ansible/ansible.cfg
# The plugin gives kubectl gcloud's tokens.
RUN gcloud components install --quiet gke-gcloud-auth-plugin && rm -rf /opt/google-cloud-sdk/.install/.backup
RUN git config --system --add safe.directory /checkout
WORKDIR /checkout/infra/ansible
CMD ["bash"]
