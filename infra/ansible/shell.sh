#!/bin/sh
# Enters a container with all the tools of a deployment: `shell.sh`, or `shell.sh ansible-playbook site.yml`.
# The state of gcloud, SSH and kubectl is mounted and kept, so `gcloud auth login` is needed once.
set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
docker build --quiet --file "$checkout/infra/docker/deployment.Dockerfile" --tag momalisa-deployment "$checkout" >&2
for folder in .config/gcloud .ssh .kube; do
    mkdir -p "$HOME/$folder"
done
[ -t 0 ] && terminal=--tty || terminal=
# shellcheck disable=SC2086 # empty without a terminal
exec docker run --rm --interactive $terminal --network host \
    --volume "$checkout:/checkout" \
    --volume /var/run/docker.sock:/var/run/docker.sock \
    --volume "$HOME/.config/gcloud:/root/.config/gcloud" \
    --volume "$HOME/.ssh:/root/.ssh" \
    --volume "$HOME/.kube:/root/.kube" \
    --env GOOGLE_CLOUD_PROJECT --env GCP_ACCESS_TOKEN \
    momalisa-deployment "$@"
