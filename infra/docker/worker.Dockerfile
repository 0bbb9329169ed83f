# The workers: momalisa/ and worker/, with torch. `python -m worker assemble` is the other command. From the top folder:
#   docker build --file infra/docker/worker.Dockerfile --tag momalisa-worker .
#
# With PyPI's torch, the image works on CUDA and on the CPU. TORCH_INDEX names another index to take torch
# from, as PyTorch's own one of builds for the CPU, which are smaller by several gigabytes.

FROM python:3.11.14-slim-bookworm AS dependencies
WORKDIR /app
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then \
        /opt/venv/bin/pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi
RUN touch README.md LICENSE && \
    /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[worker]'

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp momalisa && \
    install --directory --owner 10001 --group 10001 /run/secrets /weights
COPY --from=dependencies /opt/venv /opt/venv
# Models from the Hub are cached in /weights.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp HF_HOME=/weights
WORKDIR /app
COPY models models
COPY momalisa momalisa
COPY worker worker
USER 10001:10001
EXPOSE 9100
CMD ["python", "-m", "worker", "render"]
# Last, since they change with every commit.
ARG MOMALISA_VERSION=
ARG MOMALISA_REVISION=
ENV MOMALISA_VERSION=$MOMALISA_VERSION MOMALISA_REVISION=$MOMALISA_REVISION
LABEL org.opencontainers.image.title="momalisa-worker" \
      org.opencontainers.image.source="https://github.com/momalisa/momalisa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$MOMALISA_VERSION" \
      org.opencontainers.image.revision="$MOMALISA_REVISION"
