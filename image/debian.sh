# shellcheck shell=bash
# What the image's scripts share: which Debian, from where. Sourced; expects `here` to be this directory.

die() { printf '%s: %s\n' "image/$(basename "$0")" "$*" >&2; exit 1; }

image_needs() {
    local tool
    [[ $(id -u) == 0 ]] || die "a root file system with its owners is made as root"
    [[ $(dpkg --print-architecture) == amd64 ]] || die "the image is made for amd64 only, on amd64"
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is not there; run: make deps"
    done
    [[ -f $debian_keyring ]] || die "$debian_keyring is not there; install debian-archive-keyring"
}

# The release is the host's own, because the node runs the programs that the host built (one C library). Kernel and
# QEMU are Debian 13's, 6.12 and 10.0, which Debian 12 has in its backports.
# shellcheck source=/dev/null
release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
case $release in
    bookworm) newer=bookworm-backports ;;
    trixie) newer=trixie ;;
    *) die "this host is '${release:-unknown}'; images are made on Debian 12 (bookworm) or 13 (trixie)" ;;
esac
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Lines for a sources.list. The mirrors are those that this host has for Debian itself.
# shellcheck disable=SC2016  # apt's variables
debian_sources() {
    local uri suite base=
    while read -r uri suite; do
        printf 'deb [signed-by=%s] %s %s main\n' "$debian_keyring" "$uri" "$suite"
        [[ $suite != "$release" ]] || base=$uri
    done < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)' 'Identifier: Packages' |
        awk -v release="$release" '$3 == "Debian" && $4 == "main" && $2 ~ "^" release "(-updates|-security)?$" \
            { print $1, $2 }' | sort -u)
    [[ $base ]] || die "apt has no mirror of Debian $release here; run apt-get update, or see /etc/apt/sources.list.d"
    [[ $newer == "$release" ]] || printf 'deb [signed-by=%s] %s %s main\n' "$debian_keyring" "$base" "$newer"
}
