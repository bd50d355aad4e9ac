//! The agent's way onto the host: one script, one round trip where the agent is there already.

use std::{fmt::Write as _, time::Duration};

use super::{
    embedded::Agent,
    error::{ConnectionError, ConnectionErrorKind, REFRESH_USES_THE_STATE},
    target::DEFAULT_USER,
};

/// The folder on the host that holds the agent. Only root may write there, and unlike /tmp it is
/// never mounted noexec.
pub(super) const FOLDER: &str = "/usr/local/lib/nspawn-agent";

/// How many times `connect_timeout` the login shell has for the first word that is ours: a busy host takes longer for it
/// than for what sshd does by itself.
pub(super) const FIRST_WORD: u32 = 3;

/// For starting the agent that is uploaded then, also over a slow line.
pub(super) const START_TIMEOUT: Duration = Duration::from_mins(3);

const DOING: &str = "starting the agent";

/// How much noise an error shows. Bytes.
const SHOWN_NOISE: usize = 1024;

/// The command that puts the agent in place, if need be, and becomes it.
///
/// One line without single quotes or exclamation marks: the user's own shell, which may be csh or
/// fish, hands it to sh. `exec env` because csh has no `VAR=value command`.
pub(super) fn command(user: &str, agents: &[Agent], folder: &str) -> String {
    let sudo = if user == DEFAULT_USER { "" } else { "sudo -n " };
    format!("exec env LC_ALL=C {sudo}sh -c '{}'", script(agents, folder))
}

fn script(agents: &[Agent], folder: &str) -> String {
    let mut cases = String::new();
    for Agent {
        architecture,
        sha256,
        gzip,
    } in agents
    {
        let length = gzip.len();
        let _ = write!(cases, "{architecture}) h={sha256}; n={length};; ");
    }
    let steps = [
        "umask 077".to_owned(),
        r#"say() { printf "\000nspawn-agent install %s\n" "$*"; }"#.to_owned(),
        r#"t=; fail() { [ -z "$t" ] || { rm -f "$t"; rmdir "$d" 2>/dev/null; }; say "fail $*"; exit 1; }"#.to_owned(),
        r#"[ "$(id -u)" = 0 ] || fail root "$(id -un)""#.to_owned(),
        "m=$(uname -m)".to_owned(),
        format!("case $m in {cases}*) fail architecture $m;; esac"),
        format!("d={folder}"),
        "b=$d/nspawn-agent-$h".to_owned(),
        // stat(1) doesn't follow links: a link's mode begins with l.
        r#"safe() { case $(stat -c %u%A "$d") in 0d????-??-?) ;; *) fail folder "$d" "$(stat -c "%A %U %G" "$d")";; esac; }"#.to_owned(),
        r#"same() { echo "$h  $1" | sha256sum -c --status 2>/dev/null; }"#.to_owned(),
        r#"good() { [ "$(stat -c %u%A "$b" 2>/dev/null)" = 0-rwxr-xr-x ] && same "$b"; }"#.to_owned(),
        r#"if [ -e "$d" ] || [ -h "$d" ]; then safe; fi"#.to_owned(),
        format!("good || {{ {}; }}", upload().join("; ")),
        "umask 022".to_owned(),
        r#"exec "$b" serve"#.to_owned(),
    ];
    steps.join("; ")
}

/// The part that takes the program from stdin. It never has its final name before it is whole.
fn upload() -> [String; 10] {
    let steps = [
        r#"(umask 022 && mkdir -p "$d") || fail write "$d""#,
        "safe",
        // What a power cut left behind.
        r#"find "$d" -maxdepth 1 -name ".upload-*" -mmin +60 -delete"#,
        r#"t=$(mktemp "$d/.upload-XXXXXX") || fail write "$d""#,
        r#"trap "rm -f \"$t\"; rmdir \"$d\" 2>/dev/null" EXIT HUP INT TERM PIPE"#,
        "say need $m",
        // A frozen line never ends by itself.
        r#"timeout LIMIT head -c $n | gzip -dc > "$t" || fail write "$d""#,
        r#"same "$t" || fail digest "$d""#,
        r#"chmod 0755 "$t" && sync "$t" && mv -fT "$t" "$b" && sync "$d" || fail write "$d""#,
        "trap - EXIT HUP INT TERM PIPE",
    ];
    let limit = START_TIMEOUT.as_secs().to_string();
    steps.map(|step| step.replace("LIMIT", &limit))
}

/// The script's own reason, in words. `stderr` is what the programs that it ran said.
pub(super) fn refusal(host: &str, reason: &str, stderr: &str) -> ConnectionError {
    use ConnectionErrorKind::{Architecture, Install, Sudo};
    let (word, rest) = reason.split_once(' ').unwrap_or((reason, ""));
    let error = |kind, text: String| ConnectionError::new(kind, host, DOING, text);
    match word {
        "root" => error(Sudo, format!("the agent needs root, but runs as {rest:?}"))
            .help(format!("Use user = \"root\", or a user who may become root through sudo. {REFRESH_USES_THE_STATE}")),
        "architecture" => error(
            Architecture,
            format!("the host's architecture is {rest}, and this provider carries no agent for it"),
        )
        .help("Use a release of the provider (it carries x86_64 and aarch64), or build one with NSPAWN_AGENT_X86_64 or NSPAWN_AGENT_AARCH64 set to an agent of that architecture."),
        "folder" => error(
            Install,
            format!("others than root could change what is in {rest}"),
        )
        .help(format!("Look at what is there, then run on the host: chown root:root {FOLDER} && chmod 0755 {FOLDER}; or remove it.")),
        "digest" => error(
            Install,
            format!("the upload to {rest} arrived incomplete or changed{}", said(stderr)),
        )
        .help("Run apply again."),
        _ => error(Install, format!("the agent can't be written to {rest}{}", said(stderr)))
            .help(format!("Check that {FOLDER} can be written (a full disk, a read-only file system).")),
    }
}

/// The command ended before the agent spoke.
pub(super) fn early_end(
    host: &str,
    user: &str,
    status: i32,
    output: &[u8],
    stderr: &str,
) -> ConnectionError {
    let noise = shown(output);
    let error = |kind, reason: String| ConnectionError::new(kind, host, DOING, reason);
    let sudoers = format!(
        "Let the user become root without a password; as root on the host run: echo '{user} ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user} && chmod 0440 /etc/sudoers.d/{user}\n{REFRESH_USES_THE_STATE}"
    );
    let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    if has(&[
        "password is required",
        "password for",
        "terminal is required",
        "is not in the sudoers",
        "is not allowed to",
        "may not run sudo",
    ]) {
        return error(
            ConnectionErrorKind::Sudo,
            format!("sudo refuses{}", said(stderr)),
        )
        .help(sudoers);
    }
    if has(&["must have a tty"]) {
        return error(ConnectionErrorKind::Sudo, format!("sudo wants a terminal{}", said(stderr)))
            .help(format!("Take requiretty off for this user; as root on the host run: echo 'Defaults:{user} !requiretty' > /etc/sudoers.d/{user}-tty && chmod 0440 /etc/sudoers.d/{user}-tty"));
    }
    if has(&[
        "sudo: not found",
        "sudo: command not found",
        "'sudo': No such file",
        "sudo: No such file",
    ]) {
        return error(ConnectionErrorKind::Sudo, "the host has no sudo".to_owned()).help(format!(
            "Install it (apt install sudo), or use user = \"root\". {REFRESH_USES_THE_STATE}"
        ));
    }
    if has(&[FOLDER]) {
        return error(
            ConnectionErrorKind::Install,
            format!("the agent doesn't run{}", said(stderr)),
        )
        .help(format!(
            "Check that {FOLDER} is not on a file system mounted noexec."
        ));
    }
    error(
        ConnectionErrorKind::Shell,
        format!("the login shell ended with status {status} before the agent spoke{}{noise}", said(stderr)),
    )
    .help(format!("Check that `ssh {user}@… true` works, and that the user's login shell (getent passwd {user}) runs commands."))
}

/// The host printed too much, or what no agent prints.
pub(super) fn noise(host: &str, output: &[u8]) -> ConnectionError {
    ConnectionError::new(
        ConnectionErrorKind::Shell,
        host,
        DOING,
        format!("the login shell prints without end{}", shown(output)),
    )
    .help("Let .bashrc, .profile and the like print nothing when the shell is not interactive.")
}

/// The script asks for the program once.
pub(super) fn asks_again(host: &str) -> ConnectionError {
    let reason = "the host has asked for the agent's program and asks for it again";
    ConnectionError::new(ConnectionErrorKind::Shell, host, DOING, reason).help(
        "Check that the user's login shell runs each command once, and what else answers on this host.",
    )
}

/// Nobody spoke in time.
pub(super) fn too_slow(
    host: &str,
    user: &str,
    is_uploaded: bool,
    output: &[u8],
    stderr: &str,
) -> ConnectionError {
    let who = if is_uploaded {
        "the agent didn't speak in time".to_owned()
    } else {
        format!("the login shell of {user} didn't come to run the agent in time")
    };
    ConnectionError::new(
        ConnectionErrorKind::Install,
        host,
        DOING,
        format!("{who}{}{}", said(stderr), shown(output)),
    )
    .help(format!(
        "Check that {user}'s login shell runs commands without asking or waiting for anything: ssh {user}@{host} true"
    ))
}

/// A command that was ended from outside.
pub(super) fn shut_down(host: &str, stderr: &str) -> ConnectionError {
    let reason = format!(
        "the host ended the command, as it does when it shuts down{}",
        said(stderr)
    );
    ConnectionError::new(ConnectionErrorKind::Lost, host, DOING, reason)
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(&output[..output.len().min(SHOWN_NOISE)]);
    match text.replace('\0', "").trim() {
        "" => String::new(),
        text => format!("; it printed: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGENTS: [Agent; 1] = [Agent {
        architecture: "x86_64",
        sha256: "abc",
        gzip: b"12345",
    }];

    #[test]
    fn the_command_survives_any_shell() {
        let command = command("admin", &AGENTS, FOLDER);
        assert!(command.starts_with("exec env LC_ALL=C sudo -n sh -c '"));
        assert_eq!(command.matches('\'').count(), 2);
        assert!(!command.contains(['!', '\n']), "{command}");
        assert!(!super::command("root", &AGENTS, FOLDER).contains("sudo"));
    }

    #[test]
    fn what_sudo_says_becomes_what_to_change() {
        use ConnectionErrorKind::{Install, Shell, Sudo};
        for (stderr, kind, help) in [
            ("sudo: a password is required", Sudo, "NOPASSWD"),
            (
                "sudo: a terminal is required to read the password",
                Sudo,
                "NOPASSWD",
            ),
            (
                "admin is not in the sudoers file.",
                Sudo,
                "admin ALL=(ALL:ALL) NOPASSWD: ALL",
            ),
            (
                "sudo: sorry, you must have a tty to run sudo",
                Sudo,
                "!requiretty",
            ),
            (
                "env: 'sudo': No such file or directory",
                Sudo,
                "apt install sudo",
            ),
            (
                "sh: 1: exec: /usr/local/lib/nspawn-agent/nspawn-agent-abc: Permission denied",
                Install,
                "noexec",
            ),
            ("", Shell, "login shell"),
        ] {
            let error = early_end("admin@vps:22", "admin", 1, b"no shell for you", stderr);
            assert_eq!(error.kind, kind, "{stderr}");
            let told = error.help.unwrap();
            assert!(told.contains(help), "{stderr}");
            // As whom to log in is what a refresh takes from the state.
            if kind == Sudo && !help.contains("tty") {
                assert!(told.contains("-refresh=false"), "{told}");
            }
        }
        let error = early_end("h", "u", 1, b"This account is currently not available.", "");
        assert!(error.reason.contains("not available"), "{error}");
    }

    proptest! {
        #[test]
        fn any_output_is_shown(output: Vec<u8>) {
            let _ = noise("host", &output);
        }
    }
}
