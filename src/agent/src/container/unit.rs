//! The drop-in of the container's unit, systemd-nspawn@NAME.service.

use std::fmt::Write as _;

use protocol::desired::Container;

use crate::system::files::HEADER;

/// The agent in force.
const AGENT: &str = "/usr/local/lib/nspawn-agent/nspawn-agent";

/// The whole drop-in.
///
/// Wants= and not Requires=, which would stop every guest whenever the agent's service is stopped
/// (systemd.unit(5)); the start fails closed all the same, in container-prepare. TimeoutStartSec=
/// because NotifyReady=yes would have systemd kill a guest that boots slowly. Restart= because a
/// guest whose init or systemd-nspawn is killed stays down otherwise; a poweroff from inside and a
/// stop are no failure, and one that can't start is given up after a while (status = "failed").
/// LogRateLimit…= because what a guest writes to its console goes to the host's journal, where one that writes without
/// end would push out what others have told; a boot takes some 200 lines.
pub fn render(container: &Container) -> String {
    let mut text = format!(
        "{HEADER}
[Unit]
Wants=nspawn-agent.service
After=nspawn-agent.service
StartLimitIntervalSec=10min
StartLimitBurst=20

[Service]
ExecStartPre=+{AGENT} container-prepare %i
ExecStopPost=+{AGENT} container-release %i
TimeoutStartSec=infinity
Restart=on-failure
RestartSec=100ms
LogRateLimitIntervalSec=5min
LogRateLimitBurst=1000
"
    );
    if let Some(cpus) = container.cpus {
        let _ = writeln!(text, "CPUQuota={}%", percent(cpus));
    }
    let sizes = [
        ("MemoryMax", &container.memory),
        ("MemorySwapMax", &container.memory_swap),
    ];
    for (key, size) in sizes {
        if let Some(size) = size {
            let _ = writeln!(text, "{key}={}", size.bytes());
        }
    }
    if let Some(tasks) = container.tasks {
        let _ = writeln!(text, "TasksMax={tasks}");
    }
    text
}

/// systemd takes two digits after the point, and nothing below them.
fn percent(cpus: f64) -> String {
    let percent = (cpus * 100.0).max(0.01);
    let text = format!("{percent:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    #[test]
    fn the_whole_drop_in() {
        let expected = "
[Unit]
Wants=nspawn-agent.service
After=nspawn-agent.service
StartLimitIntervalSec=10min
StartLimitBurst=20

[Service]
ExecStartPre=+/usr/local/lib/nspawn-agent/nspawn-agent container-prepare %i
ExecStopPost=+/usr/local/lib/nspawn-agent/nspawn-agent container-release %i
TimeoutStartSec=infinity
Restart=on-failure
RestartSec=100ms
LogRateLimitIntervalSec=5min
LogRateLimitBurst=1000
";
        assert_eq!(render(&container("web")), format!("{HEADER}{expected}"));
    }

    #[test]
    fn limits() {
        let mut desired = container("web");
        desired.cpus = Some(1.5);
        desired.memory = Some("512M".parse().unwrap());
        desired.memory_swap = Some("1G".parse().unwrap());
        desired.tasks = Some(300);
        let text = render(&desired);
        let limits = "CPUQuota=150%\nMemoryMax=536870912\nMemorySwapMax=1073741824\nTasksMax=300\n";
        assert!(text.ends_with(limits), "{text}");
    }

    #[test]
    fn percents() {
        for (cpus, text) in [
            (1.0, "100"),
            (0.25, "25"),
            (0.125, "12.5"),
            (2.0, "200"),
            (0.00001, "0.01"),
        ] {
            assert_eq!(percent(cpus), text);
        }
    }
}
