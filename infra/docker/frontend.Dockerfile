# NGINX with the files of the website, in front of the API. From the top folder:
#   docker build --file infra/docker/frontend.Dockerfile --tag momalisa-frontend .

FROM nginx:1.29.8-alpine AS static
COPY frontend/static /app/frontend/static
# Compressed once, here, and not for each visitor.
RUN find /app/frontend/static -type f -size +1k \( -name '*.js' -o -name '*.css' -o -name '*.svg' \) \
    -exec gzip -9k {} +

FROM nginx:1.29.8-alpine
COPY infra/nginx/nginx.conf.template /etc/nginx/templates/
COPY infra/nginx/hold.js /app/
COPY infra/nginx/errors /app/errors
COPY --from=static /app/frontend/static /app/frontend/static
# The image's entry point fills in the template: the API's address and the DNS resolvers.
ENV API=api:8000 \
    NGINX_ENTRYPOINT_LOCAL_RESOLVERS=1 \
    NGINX_ENVSUBST_OUTPUT_DIR=/tmp \
    NGINX_ENVSUBST_FILTER="^(API|NGINX_LOCAL_RESOLVERS)$"
USER 10001:10001
EXPOSE 8080
CMD ["nginx", "-c", "/tmp/nginx.conf", "-g", "daemon off;"]
# Last, since they change with every commit.
ARG MOMALISA_VERSION=
ARG MOMALISA_REVISION=
ENV MOMALISA_VERSION=$MOMALISA_VERSION MOMALISA_REVISION=$MOMALISA_REVISION
LABEL org.opencontainers.image.title="momalisa-frontend" \
      org.opencontainers.image.source="https://github.com/momalisa/momalisa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$MOMALISA_VERSION" \
      org.opencontainers.image.revision="$MOMALISA_REVISION"
