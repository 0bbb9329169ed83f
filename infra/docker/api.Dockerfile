# The API, the migrations and the reconciler: momalisa/ and api/, without torch. Build it from the top folder:
#   docker build --file infra/docker/api.Dockerfile --tag momalisa-api .
# Renovate moves the base image (renovate.json).

FROM python:3.11.14-slim-bookworm AS dependencies
WORKDIR /app
RUN python -m venv /opt/venv
# Dependencies, from the project file and the pins alone, so that changed code does not reinstall them.
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE && \
    /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[api]'

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp momalisa && \
    install --directory --owner 10001 --group 10001 /run/secrets /bucket
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
# A checkout's layout, where the settings find the website, the migrations and the model.
WORKDIR /app
COPY models models
COPY alembic.ini infra/docker/draw_secrets.py ./
COPY migrations migrations
COPY frontend frontend
COPY momalisa momalisa
COPY api api
USER 10001:10001
EXPOSE 8000 9100
CMD ["python", "-m", "api"]
# Last, since they change with every commit.
ARG MOMALISA_VERSION=
ARG MOMALISA_REVISION=
ENV MOMALISA_VERSION=$MOMALISA_VERSION MOMALISA_REVISION=$MOMALISA_REVISION
LABEL org.opencontainers.image.title="momalisa-api" \
      org.opencontainers.image.source="https://github.com/momalisa/momalisa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$MOMALISA_VERSION" \
      org.opencontainers.image.revision="$MOMALISA_REVISION"
