#!/bin/sh
# Enters a container with all the tools of a deployment: `shell.sh`, or `shell.sh ansible-playbook site.yml`.
# What gcloud, SSH and kubectl keep is in a folder of its own, so `gcloud auth login` is needed once. It is not where your
# own programs keep theirs: on Linux, files of yours are not root's in the container, and ssh refuses a configuration of
# somebody else; and what root writes there would not be yours.
set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
socket=/var/run/docker.sock
case "$(uname) ${DOCKER_HOST-}" in # a daemon without root
"Linux unix://"*) socket=${DOCKER_HOST#unix://} ;;
esac
kept=${XDG_CONFIG_HOME:-$HOME/.config}/momalisa
docker build --quiet --file "$checkout/infra/docker/deployment.Dockerfile" --tag momalisa-deployment "$checkout" >&2
mkdir -p "$kept/gcloud" "$kept/ssh" "$kept/kube"
[ -t 0 ] && terminal=--tty || terminal=
# shellcheck disable=SC2086 # empty without a terminal or a project
exec docker run --rm --interactive $terminal --network host \
    --volume "$checkout:/checkout" \
    --volume "$socket:/var/run/docker.sock" \
    --volume "$kept/gcloud:/root/.config/gcloud" \
    --volume "$kept/ssh:/root/.ssh" \
    --volume "$kept/kube:/root/.kube" \
    --env GOOGLE_CLOUD_PROJECT --env GCP_ACCESS_TOKEN \
    ${GOOGLE_CLOUD_PROJECT:+--env CLOUDSDK_CORE_PROJECT=$GOOGLE_CLOUD_PROJECT} \
    momalisa-deployment "$@"
