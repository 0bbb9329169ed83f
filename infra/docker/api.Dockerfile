# The API, the migrations and the reconciler: momalisa/ and api/, without torch. Build it from the top folder:
#   docker build --file infra/docker/api.Dockerfile --tag momalisa-api .
#
# To pin the base by its content as well, append the digest that `docker buildx imagetools inspect python:3.11-slim`
# prints, as in python:3.11-slim@sha256:…; here it is pinned by tag, so that a build gets Debian's security fixes.

FROM python:3.11-slim AS dependencies
WORKDIR /app
RUN python -m venv /opt/venv
# Dependencies, from the project file and the pins alone, so that changed code does not reinstall them.
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE && \
    /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[api]'

FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp momalisa && \
    install --directory --owner 10001 --group 10001 /run/secrets
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
