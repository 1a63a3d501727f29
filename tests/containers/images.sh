#!/usr/bin/env bash
# Makes the images of the container tests on a Debian machine, without a registry, and prints their ids:
#
#     ambassador=sha256:…    the project's Dockerfile, built
#     redis=sha256:…         this machine's redis-server
#     client=sha256:…        this machine's redis-cli and socat
#     prometheus=sha256:…    this machine's prometheus and promtool
#     host=sha256:…          this machine's systemd and dpkg, and a Redis: a host without containers
#
# and compose=…, the command that Compose is, podman=…, its version, and quadlet=…, where podman's generator of units is. Of the
# last five one may be missing, with a line that says so; with CI=true none is.
#
# What is up to date is kept. Exit code 69 (EX_UNAVAILABLE): this machine cannot run the tests, and
# standard error says why.
#
# The tests remove their own containers and networks. What an aborted run has left behind goes with:
#
#     docker ps --all --quiet --filter label=redis-ambassador.test | xargs --no-run-if-empty docker rm --force --volumes
#     docker network prune --force --filter label=redis-ambassador.test
#     docker swarm leave --force    # if it was in the middle of the Swarm's test
#
# Every build of changed sources leaves some megabytes behind, as with any Dockerfile: docker image prune

# One at a time: tests that start together share the images.
exec 9<"$0"
flock 9
. "$(dirname "$0")/../../scripts/common"

# can PROGRAM PACKAGE: whether the program is there, or with CI=true becomes so.
can() {
    have "$1" && return
    if [ "${CI:-}" = true ]; then
        install_packages "$2"
    else
        echo "$1 is not installed" >&2
        return 1
    fi
}

need() { can "$1" "$2" || exit 69; }

# What IMAGE was made from; "elsewhere", if not here; nothing, if there is no such image.
made_from() {
    docker image inspect --format '{{or (index .Config.Labels "redis-ambassador.test") "elsewhere"}}' "$1" 2>/dev/null || true
}

# import_image IMAGE FINGERPRINT [--change …]: the image of the root file system that comes as a tar on standard input.
import_image() {
    local image=$1 fingerprint=$2
    shift 2
    docker import --change "LABEL redis-ambassador.test=$fingerprint" "$@" - "$image" >/dev/null
}

# make_programs IMAGE "PROGRAM …" [--change …]: the programs, the libraries they load, and nothing else. Other files with their whole path.
make_programs() {
    local image=$1 programs=$2 program path files=() fingerprint rootfs file
    shift 2
    for program in $programs; do
        path=$(command -v "$program" || echo "$program")
        files+=("$path")
        mapfile -t -O "${#files[@]}" files < <(ldd "$path" 2>/dev/null | grep -o '/[^ ]*')
    done
    fingerprint=$({ echo "${files[@]}" "$@" && cat "${files[@]}"; } | sha256sum | cut -c1-16)
    if [ "$(made_from "$image")" = "$fingerprint" ]; then return; fi
    echo "making $image" >&2
    rootfs=$(mktemp -d)
    mkdir -p "$rootfs"/usr/{bin,lib,lib64,sbin} "$rootfs"/{etc,root,tmp,var/tmp}
    ln -s usr/bin usr/lib usr/lib64 usr/sbin "$rootfs"
    for file in "${files[@]}"; do
        install -D --mode "$(stat --dereference --format %a "$file")" "$file" "$rootfs$file"
    done
    # Docker writes the names of links into /etc/hosts, so that is where to look first.
    echo 'hosts: files dns' >"$rootfs/etc/nsswitch.conf"
    tar -C "$rootfs" --create --owner=0 --group=0 --numeric-owner --mode=a+rX . | import_image "$image" "$fingerprint" "$@"
    rm -rf "$rootfs"
}

# Under the name that the Dockerfile builds from: this machine's toolchain and C compiler. One that was pulled is used as it is.
make_builder() {
    local image fingerprint sysroot
    image=$(sed -n 's/^FROM \(rust:[^ ]*\) .*/\1/p' Dockerfile)
    fingerprint=$({ rustc -vV && gcc --version; } | sha256sum | cut -c1-16)
    case $(made_from "$image") in "$fingerprint" | elsewhere) return ;; esac
    echo "making $image, which takes a minute" >&2
    sysroot=$(realpath "$(rustc --print sysroot)")
    tar -C / --create --no-recursion tmp --recursion --exclude='libLLVM-*' "${sysroot#/}"/{bin,lib} \
        bin lib lib64 sbin usr/bin usr/include usr/lib/gcc "usr/lib/$(gcc -print-multiarch)" usr/lib/ssl usr/lib64 usr/libexec \
        usr/share/ca-certificates etc/{alternatives,group,ld.so.cache,ld.so.conf,ld.so.conf.d,passwd,ssl} |
        import_image "$image" "$fingerprint" --change "ENV PATH=$sysroot/bin:/usr/bin:/bin" --change 'ENV HOME=/root'
}

# A daemon that this starts would hold the lock for as long as it runs.
scripts/dockerd 9<&- >&2 || exit 69
need redis-server redis-server
need redis-cli redis-tools
need socat socat
need gcc gcc

# Docker sets link variables for the ports that an image exposes.
make_programs redis-ambassador-test-redis 'redis-server redis-cli cat env sh sleep' --change 'EXPOSE 6379'
make_programs redis-ambassador-test-client 'redis-cli socat cat env sh sleep'
images=(redis client)
if can prometheus prometheus; then
    make_programs redis-ambassador-test-prometheus 'prometheus promtool'
    images+=(prometheus)
fi
if can /lib/systemd/systemd systemd && can dpkg dpkg; then
    make_programs redis-ambassador-test-host "/lib/systemd/systemd systemctl journalctl /lib/systemd/systemd-journald mount
        dpkg dpkg-deb dpkg-query dpkg-split tar gzip rm diff ldconfig start-stop-daemon redis-server redis-cli cat env install ls mkdir sh
        /etc/passwd /etc/group $(echo /lib/systemd/system/*.target /lib/systemd/system/systemd-journald*)" --change 'ENV container=docker'
    images+=(host)
fi
compose=
if docker compose version >/dev/null 2>&1; then
    compose='docker compose'
elif can docker-compose docker-compose; then
    compose=docker-compose
fi
podman=
if can podman podman && can crun crun && can /usr/lib/podman/netavark netavark && can /usr/lib/podman/aardvark-dns aardvark-dns &&
    can catatonit catatonit && can ip iproute2; then
    podman=$(podman --version)
fi
quadlet=
if have /usr/libexec/podman/quadlet || [ "${CI:-}" = true ]; then
    quadlet=$(need_quadlet)
fi
make_builder
ambassador=$(docker build --quiet --tag redis-ambassador:test .)

echo "ambassador=$ambassador"
for name in "${images[@]}"; do
    echo "$name=$(docker image inspect --format '{{.Id}}' "redis-ambassador-test-$name")"
done
[ -z "$compose" ] || echo "compose=$compose"
[ -z "$podman" ] || echo "podman=$podman"
[ -z "$quadlet" ] || echo "quadlet=$quadlet"
