#!/usr/bin/env bash
# Says of the nodes of the pool gang that they have GPUs, so that queues, quotas and placement can be tried without any:
# fake-gpus.sh [how many, 2]. The kubelet takes a resource that it doesn't know as it is; programs find no device.
set -euo pipefail
count="${1:-2}"
case "$count" in
  '' | *[!0-9]*) echo "fake-gpus.sh: $count is no number of GPUs: give one, such as 2." >&2; exit 2 ;;
esac
nodes="$(kubectl get nodes -l ceteris.io/pool=gang -o name)"
if [ -z "$nodes" ]; then
  echo "fake-gpus.sh: no node has the label ceteris.io/pool=gang: make the cluster with kind.yaml." >&2
  exit 1
fi
patch="[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$count\"}]"
for node in $nodes; do
  kubectl patch "$node" --subresource=status --type=json --patch "$patch"
  kubectl taint "$node" nvidia.com/gpu=present:NoSchedule --overwrite
done
