# Lists what a host looks like, a section after another; what changes by itself is left out.
section() { printf '@@ %s\n' "$1"; }
tree() { # path [more words for find]
    path=$1; shift
    [ -e "$path" ] || return 0
    # One sha256sum for all: three programs for each file of /etc took longer than all the rest. With --zero it doesn't
    # write the backslashes of units' names in another way.
    {
        find "$path" -xdev "$@" -type f -printf '@ %p %M %U:%G\n'
        find "$path" -xdev "$@" -type f -exec sha256sum --zero {} + | tr '\0' '\n'
    } | awk '
        $1 == "@" { sub(/^@ /, ""); file = $0; sub(/ [^ ]+ [^ ]+$/, "", file); about[file] = $0; next }
        { file = substr($0, 67); if (file in about) { print about[file], substr($0, 1, 16); delete about[file] } }
        END { for (file in about) print about[file] }'
    find "$path" -xdev "$@" ! -type f -printf '%p %M %U:%G %l\n'
}

section links
ip -d -o link | sed -E 's/^[0-9]+: //; s/@if[0-9]+/@peer/; s/link-netnsid [0-9]+//; s/[a-z]+_timer +[0-9.]+//g; s/tso_max_size [0-9]+//'
section addresses
ip -o addr | sed -E 's/^[0-9]+: //'
section routes
ip -4 route show table all
ip -6 route show table all | sed -E 's/ expires [0-9]+sec//'
section rules
ip -4 rule
ip -6 rule | sed 's/^/v6 /'
section neighbours
ip neigh show nud permanent
ip neigh show proxy
section bridge
bridge -d link 2>/dev/null || true
bridge fdb show | grep -v ' dev .* self permanent$' || true
section nftables
command -v nft >/dev/null && nft list ruleset
command -v iptables-save >/dev/null && iptables-save | grep -v '^#'
section sysctl-network
sysctls=$(sysctl -a 2>/dev/null)
printf '%s\n' "$sysctls" | grep -E '^net\.' | grep -vE 'nf_conntrack_count|stable_secret|\.tcp_fastopen_key|ipfrag_|ip6frag_'
section sysctl-machine
printf '%s\n' "$sysctls" | grep -E '^(fs\.inotify|fs\.aio-max|fs\.file-max|kernel\.keys|kernel\.panic|kernel\.dmesg|kernel\.pid_max|user\.|vm\.overcommit|vm\.panic|vm\.max_map)'
section mounts
findmnt -rn -o TARGET,FSTYPE,OPTIONS | grep -vE '^/run/(user|credentials)/' | sed -E 's/size=[0-9]+k|nr_inodes=[0-9]+//g'
section unit-files
systemctl list-unit-files --no-legend --no-pager | grep -vE '\.(scope|device|mount)  *'
section units
# systemd-machined starts machine.slice whenever it is asked anything, and never stops it.
systemctl list-units --all --plain --no-legend --no-pager --state=active,failed,activating |
    awk '{ print $1, $2, $3, $4 }' |
    grep -vE '^(session-|user@|user-|user\.slice|ssh@|sshd@|run-|system-ssh|systemd-(hostnamed|machined|timedated|localed|importd|tmpfiles-clean|networkd-persistent)|apt-daily|modprobe@|init\.scope|machine\.slice)|\.(device|scope) '
section files-etc
tree /etc
section files-of-systemd
# /run/systemd/nspawn is systemd-nspawn's own: empty folders that it makes at its first start and never removes.
tree /run/systemd/system; tree /run/systemd/network; tree /run/systemd/nspawn -type f; tree /run/systemd/machines
tree /run/networkd; tree /usr/local; tree /opt; tree /srv; tree /root ! -name .bash_history ! -name .wget-hsts
section files-lib
ls -lA /usr/lib/systemd/system /usr/lib/systemd/network /usr/lib/tmpfiles.d /usr/lib/sysctl.d | awk '{ print $1, $3, $4, $5, $9, $10, $11 }' | grep -v '^total'
section machines
# Not what is inside: the root of a container with a copy of its own is on the same file system.
tree /var/lib/machines -maxdepth 1
section files-var
find /var/lib -xdev -mindepth 1 -maxdepth 2 ! -path '/var/lib/apt/*' ! -path '/var/lib/dpkg/*' \
    ! -path '/var/lib/systemd/timers/*' ! -path '/var/lib/systemd/random-seed' -printf '%p %y %m %U:%G\n'
find /var/tmp /var/cache /tmp -xdev -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' -printf '%p %y %m %U:%G\n'
section run
find /run -xdev -mindepth 1 -maxdepth 1 ! -name user ! -name 'sshd*' ! -name motd.dynamic -printf '%p %y %m %U:%G\n'
