//! What the root of a hostile guest does to the agent's ways in: a name, and a script for sh in the guest.

use acceptance_tests::promise::Effort;

/// All of them.
pub fn deeds(effort: Effort) -> Vec<(&'static str, String)> {
    [folders(), files(effort), buses(), others(effort)].concat()
}

fn perl(script: &str) -> String {
    format!("perl -e '{script}'")
}

/// Something else in the place of /etc.
fn folders() -> Vec<(&'static str, String)> {
    let moved = |script: &str| format!("mv /etc /former\n{script}");
    vec![
        ("etc-fifo", moved("mkfifo /etc")),
        ("etc-root", moved("ln -s / /etc")),
        ("etc-magic", moved("ln -s /proc/1/root/etc /etc")),
        (
            "etc-climbs",
            moved("ln -s ../../../../../../../../../../etc /etc"),
        ),
        ("etc-file", moved("touch /etc")),
    ]
}

/// Files that the agent reads or writes.
fn files(effort: Effort) -> Vec<(&'static str, String)> {
    let entries = effort.choose(100_000, 1_000_000);
    vec![
        (
            "many-entries",
            perl(&format!(
                "for my $dir (\"/etc\", \"/etc/ssh\", \"/root/.ssh\") {{ mkdir $dir; \
                 for my $i (1..{entries}/3) {{ open(F, \">\", \"$dir/x$i\"); close F }} }}"
            )),
        ),
        (
            "files-are-links",
            "for file in hostname hosts shadow resolv.conf; do ln -sf ../../../../../../../../root/canary /etc/$file; done\n\
             mkdir -p /root/.ssh; ln -sf /root/canary /root/.ssh/authorized_keys"
                .to_owned(),
        ),
        (
            "ssh-is-a-link",
            "rm -rf /root/.ssh; ln -s ../../../../../../../../root/.ssh /root/.ssh".to_owned(),
        ),
        (
            "own-temporary-name",
            "mkdir -p /etc/.nspawn-agent.hostname/x; mkfifo /etc/.nspawn-agent.hosts /etc/.nspawn-agent.shadow".to_owned(),
        ),
    ]
}

/// D-Bus, which the agent asks how the guest is.
fn buses() -> Vec<(&'static str, String)> {
    let instead_of_bus = |script: &str| {
        format!(
            "mv /run/dbus/system_bus_socket /run/dbus/former\n{}\n{}",
            perl(&format!(
                "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"/run/dbus/system_bus_socket\")); \
                 listen(S, 64); chmod 0666, \"/run/dbus/system_bus_socket\"; exit if fork; close STDOUT; close STDERR; \
                 $SIG{{PIPE}} = \"IGNORE\"; while (1) {{ accept(C, S); {script} }}"
            )),
            // Or the deed isn't done.
            perl(
                "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); \
                 connect(S, sockaddr_un(\"/run/dbus/system_bus_socket\")) or die \"nobody listens: $!\""
            )
        )
    };
    vec![
        ("bus-frozen", frozen("/run/dbus")),
        (
            "bus-fifo",
            "mv /run/dbus/system_bus_socket /run/dbus/former; mkfifo /run/dbus/system_bus_socket"
                .to_owned(),
        ),
        (
            "bus-silent",
            instead_of_bus("push @kept, *C{IO}; undef *C;"),
        ),
        (
            "bus-floods",
            instead_of_bus(
                "syswrite(C, \"OK 0123456789abcdef0123456789abcdef\\r\\n\"); $long = \"l\\4\\0\\1\" . pack(\"V3\", 1 << 26, 1, 0); \
                $flood = $long . (\"x\" x 65536); 1 while syswrite(C, $flood);",
            ),
        ),
        (
            "bus-endless-line",
            instead_of_bus("$flood = \"x\" x 65536; 1 while syswrite(C, $flood);"),
        ),
    ]
}

/// Where a guest with a frozen folder notes each look that hangs for ever there.
pub const HANGING_LOOKS: &str = "/run/hanging-looks";

/// A folder in which each look hangs for ever, beyond SIGKILL: its file system takes requests and answers none.
/// linux/fuse.h, FUSE_INIT
fn frozen(folder: &str) -> String {
    perl(&format!(
        "use Fcntl; $^F = 255; sysopen(F, \"/dev/fuse\", O_RDWR) or die \"no /dev/fuse: $!\"; $fd = fileno(F); \
         $how = \"fd=$fd,rootmode=40000,user_id=0,group_id=0,allow_other\"; \
         system(\"mount -i -t fuse -o $how frozen {folder}\") == 0 or die \"not mounted\"; pipe(R, W); \
         if (fork) {{ close W; sysread(R, $ready, 1) == 1 or die \"it never began\"; exit }} \
         close STDIN; close STDOUT; close STDERR; \
         while (sysread(F, $request, 1 << 18)) {{ ($length, $kind, $number) = unpack(\"VVQ<\", $request); \
             if ($kind != 26) {{ open(S, \">>\", \"{HANGING_LOOKS}\"); syswrite(S, \"$kind\\n\"); close S; next }} \
             syswrite(F, pack(\"V l< Q< V4 v2 V2 v2 V2 x24\", \
                 80, 0, $number, 7, 31, 65536, 0, 16, 12, 65536, 1, 0, 0, 0, 0)); \
             syswrite(W, \"x\"); close W }}"
    ))
}

fn others(effort: Effort) -> Vec<(&'static str, String)> {
    let deep = effort.choose(3_000, 30_000);
    vec![
        (
            "many-routes",
            format!(
                "i=0; while [ $i -lt {} ]; do echo \"route add unreachable 10.$((i / 65536)).$((i / 256 % 256)).$((i % 256))/32\"; i=$((i + 1)); done | ip -batch -",
                effort.choose(30_000, 300_000)
            ),
        ),
        (
            "deep-folders",
            perl(&format!("chdir \"/var\"; for (1..{deep}) {{ mkdir \"d\"; chdir \"d\" }}")),
        ),
        (
            "init-says-escapes",
            "mv /usr/lib/systemd/systemd /former-init\n\
             printf '#!/bin/sh\\nprintf \"\\\\033]0;owned\\\\007\\\\033[2J a hostile init\\\\n\"; exit 1\\n' > /usr/lib/systemd/systemd\n\
             chmod 755 /usr/lib/systemd/systemd"
                .to_owned(),
        ),
    ]
}
