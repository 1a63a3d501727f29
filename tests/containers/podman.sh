#!/usr/bin/env bash
# podman.sh FOLDER WHAT: a place where podman runs, on machines that are made for Docker too, until standard input ends; says
# "ready". Programs come into its namespaces, of mounts and of networks, with nsenter; podman's configuration is
# FOLDER/containers.conf (CONTAINERS_CONF). Whatever podman keeps goes with the place.
#
# podman's own runtime, crun, wants cgroups of their second version alone. Where they are of the first, WHAT decides: with
# "containers" crun finds an empty second version and uses none, with "pods", which need them, runc takes its place. runc has
# no secrets in read-only containers.
set -euo pipefail
folder=$1 what=$2

runtime=crun cgroups=enabled prepare=:
if [ "$(stat --file-system --format %T /sys/fs/cgroup)" != cgroup2fs ]; then
    if [ "$what" = pods ]; then
        runtime=runc
    else
        cgroups=disabled
        prepare='umount --recursive /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup'
    fi
fi
# The limits are such that nobody has to have the right to raise one.
cat >"$folder/containers.conf" <<TOML
[containers]
cgroups = "$cgroups"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"

[network]
network_backend = "netavark"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$runtime"
TOML
mkdir "$folder/storage"
mkdir -p /var/lib/containers /run/containers /run/libpod /etc/containers/networks
for directory in /run/containers /run/libpod /etc/containers/networks; do
    prepare+=" && mount -t tmpfs none $directory"
done
exec unshare --mount --net sh -c "$prepare && ip link set lo up && mount --bind '$folder/storage' /var/lib/containers && echo ready && exec cat >/dev/null"
