//! Hundreds of guests on one host, from one apply: all answer, a reboot brings all back, and destroy
//! leaves nothing, the host's limits included.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use acceptance_tests::{
    Hosts, Lab, Snapshot, Terraform,
    command::wait_until,
    configuration,
    images::Guest,
    limits::LIMITS,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Context, Result, ensure};

/// More IPv4 addresses than the server's own /24 has.
const NETWORK: &str = "198.18.0.0/22";

/// How long hundreds of guests may take to come up on two slow cores.
const PATIENCE: Duration = Duration::from_mins(45);

fn name(number: u16) -> String {
    format!("guest-{number}")
}

fn addresses(number: u16) -> [IpAddr; 2] {
    let [high, low] = (number + 256).to_be_bytes();
    [
        Ipv4Addr::new(198, 18, high, low).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0x100, number).into(),
    ]
}

fn whole(lab: &Lab, count: u16) -> Result<String> {
    // The settings for nesting are the machine's, too: only here, where no other lab is, can it be seen that they go.
    Ok(configuration::host(lab.vps1(), "  nesting = true")
        + &configuration::image(Guest::Debian)?
        + &format!(
            r#"
locals {{
  guests = {{ for number in range(1, {end}) : "guest-${{number}}" => number }}
}}
resource "nspawn_container" "guest" {{
  for_each = local.guests
  host     = nspawn_host.vps1
  name     = each.key
  image    = nspawn_image.debian.name
  wait_for = {{ timeout = "20m" }}
  timeouts = {{ create = "30m", delete = "30m" }}
}}
resource "nspawn_public_address" "v4" {{
  for_each  = local.guests
  host      = nspawn_host.vps1
  address   = "198.18.${{floor((each.value + 256) / 256)}}.${{each.value % 256}}"
  container = nspawn_container.guest[each.key].name
  timeouts  = {{ create = "30m", delete = "30m" }}
}}
resource "nspawn_public_address" "v6" {{
  for_each  = local.guests
  host      = nspawn_host.vps1
  address   = format("2001:db8:1::100:%x", each.value)
  container = nspawn_container.guest[each.key].name
  timeouts  = {{ create = "30m", delete = "30m" }}
}}
"#,
            end = count + 1
        ))
}

/// Every guest answers by its own name on both of its addresses, from outside.
fn all_answer(lab: &Lab, count: u16) -> Result<()> {
    for number in 1..=count {
        for address in addresses(number) {
            let name = name(number);
            wait_until(&format!("{address} answers as {name}"), PATIENCE, || {
                let socket = SocketAddr::new(address, 7777);
                let banner = lab.client().banner(socket, Duration::from_secs(2))?;
                ensure!(
                    banner.split(' ').next() == Some(&name),
                    "it says {banner:?}"
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The limits, lower than what is needed, until this is dropped: they are the machine's, which may have been raised.
struct Lowered {
    former: Vec<(PathBuf, u64)>,
}

impl Lowered {
    /// To an eighth of what is needed, of which the machine itself can live.
    fn all() -> Result<Self> {
        let mut lowered = Self { former: Vec::new() };
        for (key, least) in LIMITS {
            let file = Path::new("/proc/sys").join(key);
            let former: u64 = fs::read_to_string(&file)?.trim().parse().context(key)?;
            lowered.former.push((file.clone(), former));
            fs::write(&file, former.min(least / 8).to_string())
                .with_context(|| format!("lower {key}"))?;
        }
        Ok(lowered)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        for (file, former) in &self.former {
            if let Err(error) = fs::write(file, former.to_string()) {
                eprintln!("{} is not {former} again: {error}", file.display());
            }
        }
    }
}

fn limits(lab: &Lab) -> Result<BTreeMap<&'static str, u64>> {
    let read = |(key, _): &(&'static str, u64)| {
        let value = lab.vps1().root(&format!("cat /proc/sys/{key}"))?;
        Ok((*key, value.trim().parse().context(*key)?))
    };
    LIMITS.iter().map(read).collect()
}

fn limits_are_raised(lab: &Lab) -> Result<()> {
    let found = limits(lab)?;
    for (key, least) in LIMITS {
        ensure!(found[key] >= least, "{key} is {}, not {least}", found[key]);
    }
    Ok(())
}

/// Ranges of user ids never overlap, or guests would share quotas and files.
fn user_ids_are_their_own(lab: &Lab, count: u16) -> Result<()> {
    let listed = lab
        .vps1()
        .root("grep -h ^PrivateUsers= /etc/systemd/nspawn/*.nspawn | sort | uniq -c")?;
    let (ranges, shared): (Vec<&str>, Vec<&str>) = listed
        .lines()
        .map(str::trim)
        .partition(|line| line.starts_with("1 "));
    ensure!(shared.is_empty(), "shared ranges of user ids: {shared:?}");
    ensure!(
        ranges.len() == usize::from(count),
        "{} ranges",
        ranges.len()
    );
    Ok(())
}

fn timed(what: &str, deed: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    deed().with_context(|| what.to_owned())?;
    eprintln!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn run(terraform: &Terraform, verb: &str) -> Result<()> {
    let arguments = [verb, "-auto-approve", "-input=false", "-parallelism=20"];
    terraform.run_within(&arguments, PATIENCE).map(drop)
}

#[test]
fn hundreds_of_guests_from_one_apply() -> Result<()> {
    let count = Effort::of_this_run().choose(30, 300);
    let mut cases = Cases::of(Promise::IsDense)?;
    let lab = Lab::start(Hosts::one())?;
    // Every lab raises them as it is started.
    let _lowered = Lowered::all()?;
    // What runs at the first boot alone is over, then.
    lab.vps1().reboot()?;
    lab.route_to(lab.vps1(), NETWORK)?;
    let (before, limits_before) = (Snapshot::take(lab.vps1())?, limits(&lab)?);
    let terraform = lab.terraform(&whole(&lab, count)?)?;
    let came_up = cases.case(format!("{count} guests from one apply"), || {
        timed("apply", || run(&terraform, "apply"))
    });
    if came_up {
        cases.case("every guest answers on both of its addresses", || {
            timed("all answer", || all_answer(&lab, count))
        });
        cases.case("the next plan is empty", || {
            timed("plan", || terraform.assert_plan_is_empty())
        });
        cases.case("the host's limits are raised", || limits_are_raised(&lab));
        cases.case("each guest has user ids of its own", || {
            user_ids_are_their_own(&lab, count)
        });
        cases.case("a reboot brings every guest back", || {
            timed("reboot", || {
                lab.vps1().reboot_within(PATIENCE)?;
                // The router's end of the link was unplugged meanwhile.
                lab.route_to(lab.vps1(), NETWORK)?;
                all_answer(&lab, count)
            })?;
            terraform.assert_plan_is_empty()
        });
    }
    cases.case("destroy leaves nothing", || {
        timed("destroy", || run(&terraform, "destroy"))?;
        before.comes_back(lab.vps1())
    });
    cases.case("the host's limits are as they were", || {
        let after = limits(&lab)?;
        ensure!(
            after == limits_before,
            "{after:?}, before {limits_before:?}"
        );
        Ok(())
    });
    cases.finish()
}
