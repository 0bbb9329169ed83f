#!/bin/sh
# Prints what images are tagged by: the commit, then a hash of files that images hold and git does not know, such as
# another model's weights in models/, then "-dirty" if a file that git knows was changed.
set -eu
cd "$(dirname "$0")/../.."

unknown() { # as .dockerignore lets them in, whatever .gitignore says
    git -c core.quotePath=false ls-files --others --exclude='.*' --exclude=__pycache__ -- \
        api frontend ':!frontend/tests' migrations models momalisa worker
}

version=$(git describe --always --abbrev=12)
if [ -n "$(unknown)" ]; then
    contents=$(unknown | git hash-object --no-filters --stdin-paths)
    version=$version-$({ unknown; echo "$contents"; } | git hash-object --stdin | cut -c 1-12)
fi
git diff --quiet HEAD || version=$version-dirty
echo "$version"
