//! A line that is cut, reset, stalls or trickles at any byte: nothing hangs, nothing half-written runs,
//! nothing is lost, and a plain apply on a good line makes it whole.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

use acceptance_tests::{
    Hosts, Lab, Snapshot, Vps,
    agent_files::AgentFiles,
    behind::{Behind, TIMEOUTS, Tenant},
    command::wait_until,
    configuration,
    cuts::{Cut, Phase, Place, one_of_each, sweep},
    images::Guest,
    promise::{Cases, Effort, Promise},
    proxy::{Fault, Line},
};
use anyhow::{Result, ensure};

/// How long Terraform may take: its plan reads, then the change has its limit, 15 s more in which the
/// agent's own error may arrive and 5 s to stop; the rest is for Terraform itself on a busy machine.
const BOUND: Duration = Duration::from_secs(20 + 20 + 15 + 5 + 30);

/// The same for a change of the host: it is undone after 15 s, and asked for 30 s about what has become
/// of it, with 15 s for the last answer.
const BOUND_OF_HOST: Duration = Duration::from_secs(BOUND.as_secs() + 15 + 30 + 15);

/// How long a frozen session may stay on the host.
const FROZEN: Duration = Duration::from_mins(1);

/// How long a frozen upload may stay on the host.
const FROZEN_UPLOAD: Duration = Duration::from_mins(4);

const APPLY: &[&str] = &["apply", "-auto-approve", "-input=false"];
const DESTROY: &[&str] = &["destroy", "-auto-approve", "-input=false"];

/// The host itself: the agent's upload, the change, its confirmation over a second connection.
/// A frozen upload ends by itself in three minutes; one case waits for that, the others end it.
fn the_host(behind: &Behind, bare: &Snapshot, cut: &Cut, patient: bool) -> Result<()> {
    behind.terraform.configure(&host_of(behind)?)?;
    behind.on_a_bad_line(cut.line(), APPLY, BOUND_OF_HOST)?;
    behind.converges()?;
    behind.terraform.destroy()?;
    if !patient {
        behind.proxy.end_stalled();
    }
    is_as_before(behind.vps, bare, cut.fault)
}

/// The server is as it was, as soon as frozen sessions have ended.
fn is_as_before(vps: &Vps, before: &Snapshot, fault: Fault) -> Result<()> {
    let patience = match fault {
        Fault::Stall => FROZEN_UPLOAD,
        _ => Duration::from_secs(30),
    };
    before.comes_back_within(patience, || Snapshot::take(vps))
}

/// One cut of each operation, on one container.
#[derive(Clone)]
struct Round {
    create: Cut,
    update: Cut,
    refresh: Cut,
    destroy: Cut,
}

impl Round {
    fn try_with(&self, lab: &Lab, tenant: &Tenant, tell: &dyn Fn(String, Result<()>, bool)) {
        let behind = &tenant.behind;
        let case = |operation: &str, cut: &Cut, act: &dyn Fn() -> Result<()>| {
            let result = act();
            let held = result.is_ok();
            tell(
                format!("{operation}: {cut}"),
                result,
                behind.proxy.has_struck(),
            );
            held
        };
        let mut held = case("create", &self.create, &|| {
            tenant.configure("")?;
            behind.on_a_bad_line(self.create.line(), APPLY, BOUND)?;
            behind.converges()?;
            tenant.answers(lab)
        });
        held = held
            && case("update", &self.update, &|| {
                tenant.configure("memory = \"256M\"\n  dns_servers = [\"198.51.100.7\"]")?;
                behind.on_a_bad_line(self.update.line(), APPLY, BOUND)?;
                behind.converges()?;
                tenant.answers(lab)
            });
        held = held
            && case("refresh", &self.refresh, &|| {
                let words = ["apply", "-refresh-only", "-auto-approve", "-input=false"];
                behind.on_a_bad_line(self.refresh.line(), &words, BOUND)?;
                behind.keeps_its_state()?;
                behind.terraform.assert_plan_is_empty()?;
                tenant.answers(lab)
            });
        held = held
            && case("destroy", &self.destroy, &|| {
                behind.on_a_bad_line(self.destroy.line(), DESTROY, BOUND)?;
                behind.terraform.destroy()?;
                tenant.is_gone()
            });
        if !held {
            // So that the next round of this tenant starts from nothing; its failure shows there.
            let _ = behind.terraform.destroy();
        }
    }
}

/// The line freezes when the host has taken the request, and the run is killed before its state is saved:
/// the host thinks that run alive, and the next one adopts what it has left as soon as that is known.
fn frozen(lab: &Lab, tenant: &Tenant) -> Result<()> {
    let behind = &tenant.behind;
    // The default timeouts: it takes half a minute until the frozen session is known to be one.
    tenant.configure_with("", "")?;
    behind.proxy.set(Line::default());
    let run = behind.terraform.start(APPLY)?;
    freeze_when(
        behind,
        &format!("/etc/nspawn-agent/containers/{}.json", tenant.name),
    )?;
    // With its whole process group: the provider, too.
    drop(run);
    is_serving(behind.vps)?;
    behind.converges()?;
    tenant.answers(lab)?;
    behind.terraform.destroy()?;
    tenant.is_gone()
}

/// The same amid the upload of an image's tarball.
fn frozen_upload(lab: &Lab, behind: &Behind) -> Result<()> {
    let tarball = Guest::WithoutNetworkd.tarball()?;
    let image = format!(
        "resource \"nspawn_image\" \"other\" {{\n  host = {{\n  {}}}\n  name = \"other\"\n  \
         tarball = {{ path = \"{}\", sha256 = \"{}\" }}\n}}\n",
        behind.reach()?,
        tarball.path.display(),
        tarball.sha256
    );
    let terraform = lab.terraform(&image)?;
    behind.proxy.set(Line::default());
    let run = terraform.start(APPLY)?;
    wait_until("the upload is under way", Duration::from_mins(1), || {
        ensure!(
            behind.proxy.bytes() > 4 << 20,
            "{} bytes",
            behind.proxy.bytes()
        );
        Ok(())
    })?;
    behind.proxy.freeze();
    behind.proxy.thaw();
    drop(run);
    is_serving(behind.vps)?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy().map(drop)
}

/// A host that can't be asked is an error in time, and the state keeps what is on it.
fn out_of_reach(lab: &Lab, tenant: &Tenant) -> Result<()> {
    let behind = &tenant.behind;
    tenant.configure("")?;
    behind.converges()?;
    let refresh_fails = || {
        let words = ["apply", "-refresh-only", "-auto-approve", "-input=false"];
        let output = behind.on_a_bad_line(Line::default(), &words, BOUND)?;
        ensure!(!output.success(), "it reached the host:\n{}", output.stdout);
        behind.keeps_its_state()
    };
    behind.proxy.freeze();
    let frozen = refresh_fails();
    behind.proxy.thaw();
    behind.proxy.end_stalled();
    frozen?;
    behind.vps.root("systemctl stop ssh.service")?;
    let refused = refresh_fails();
    behind.vps.root("systemctl start ssh.service")?;
    refused?;
    behind.vps.wait_until_up()?;
    behind.terraform.assert_plan_is_empty()?;
    tenant.answers(lab)?;
    behind.terraform.destroy()?;
    tenant.is_gone()
}

fn freeze_when(behind: &Behind, file: &str) -> Result<()> {
    let wait = format!("until [ -e {file} ]; do :; done");
    behind.vps.root(&wait)?;
    behind.proxy.freeze();
    behind.proxy.thaw();
    Ok(())
}

fn is_serving(vps: &Vps) -> Result<()> {
    let serving = vps.root(SERVING)?;
    ensure!(!serving.is_empty(), "the session isn't frozen, but gone");
    Ok(())
}

/// What undisturbed operations on a container carry.
fn rounds(tenant: &Tenant, effort: Effort) -> Result<Vec<Round>> {
    let behind = &tenant.behind;
    tenant.configure("")?;
    let create = sweep(&behind.measure(APPLY)?);
    tenant.configure("memory = \"256M\"\n  dns_servers = [\"198.51.100.7\"]")?;
    let update = sweep(&behind.measure(APPLY)?);
    let refresh = sweep(&behind.measure(&["plan", "-input=false"])?);
    let destroy = sweep(&behind.measure(DESTROY)?);
    let count = effort.choose(3, create.len().max(update.len()).max(destroy.len()) / 2);
    eprintln!(
        "places: create {}, update {}, refresh {}, destroy {}",
        create.len(),
        update.len(),
        refresh.len(),
        destroy.len()
    );
    // Spread over all, each operation beginning at another place and with another fault, so that three rounds come to
    // each kind of them.
    let nth = |places: &[Place], number: usize, operation: usize| {
        let shifted = (number + operation * count / 4) % count;
        places[(2 * shifted + 1) * places.len() / (2 * count)].cut(number + operation + 1)
    };
    Ok((0..count)
        .map(|number| Round {
            create: nth(&create, number, 0),
            update: nth(&update, number, 1),
            refresh: nth(&refresh, number, 2),
            destroy: nth(&destroy, number, 3),
        })
        .collect())
}

/// Tries all rounds, with several tenants at once: most of the time goes by waiting.
fn try_rounds(lab: &Lab, vps: &Vps, rounds: Vec<Round>, cases: &mut Cases) -> Result<()> {
    let tenants = (0..4)
        .map(|number| Tenant::new(lab, vps, number))
        .collect::<Result<Vec<_>>>()?;
    let left = Mutex::new(VecDeque::from(rounds));
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for tenant in &tenants {
            let (sender, left) = (sender.clone(), &left);
            scope.spawn(move || {
                loop {
                    let next = left
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(round) = next else { return };
                    round.try_with(lab, tenant, &|name, result, struck| {
                        // The other end is there as long as this scope.
                        let _ = sender.send((name, result, struck));
                    });
                }
            });
        }
        drop(sender);
        for (name, result, struck) in results {
            let held = cases.case(&name, || result);
            if held && !struck {
                cases.untried(&name);
            }
        }
    });
    most_were_struck(cases);
    cases.case("frozen sessions end by themselves", || {
        no_session_is_left(vps)
    });
    Ok(())
}

/// A line carries some bytes more or less each time, so that a cut near the end may not come; most have to.
fn most_were_struck(cases: &mut Cases) {
    let (tried, untried) = (cases.tried(), cases.taken_back());
    cases.case("most cuts came", || {
        ensure!(untried * 3 <= tried, "{untried} didn't, {tried} did");
        Ok(())
    });
}

fn no_session_is_left(vps: &Vps) -> Result<()> {
    wait_until("no session is left", FROZEN, || {
        let serving = vps.root(SERVING)?;
        ensure!(serving.is_empty(), "{serving}");
        Ok(())
    })
}

/// Lists the agents that serve a provider.
const SERVING: &str = "pgrep -ax 'nspawn-agent-.*' | grep ' serve$' || true";

fn host_of(behind: &Behind) -> Result<String> {
    Ok(format!(
        "resource \"nspawn_host\" \"it\" {{\n  {}  rollback_after = \"15s\"\n  {TIMEOUTS}\n}}\n",
        behind.reach()?
    ))
}

#[test]
fn a_run_that_was_killed_on_a_frozen_line_is_taken_up() -> Result<()> {
    let mut cases = Cases::of(Promise::SurvivesCuts)?;
    let lab = Lab::start(Hosts::one())?;
    let owner = lab.terraform(
        &(configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?),
    )?;
    owner.apply()?;
    let tenant = Tenant::new(&lab, lab.vps1(), 0)?;
    cases.case(
        "a container of a run that was killed on a frozen line",
        || frozen(&lab, &tenant),
    );
    cases.case("an image that was on its way when the line froze", || {
        frozen_upload(&lab, &tenant.behind)
    });
    cases.case(
        "a refresh of a host that says nothing, or has no sshd",
        || out_of_reach(&lab, &tenant),
    );
    cases.case("frozen sessions end by themselves", || {
        no_session_is_left(lab.vps1())
    });
    owner.destroy()?;
    cases.finish()
}

#[test]
fn the_line_can_be_cut_while_a_host_is_made() -> Result<()> {
    let effort = Effort::of_this_run();
    let mut cases = Cases::of(Promise::SurvivesCuts)?;
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    Behind::without_penalties(vps)?;
    let bare = Snapshot::take(vps)?.without_shared();
    let files = AgentFiles::watch(vps);
    let behind = Behind::new(&lab, vps)?;
    behind.terraform.configure(&host_of(&behind)?)?;
    let traffic = behind.measure(APPLY)?;
    ensure!(
        traffic.len() == 2,
        "the confirmation has a connection of its own: {traffic:?}"
    );
    behind.terraform.destroy()?;
    is_as_before(vps, &bare, Fault::Close)?;
    let places = sweep(&traffic);
    eprintln!("places: host {}", places.len());
    let mut waited = effort == Effort::Quick;
    let places = match effort {
        Effort::Quick => one_of_each(&places),
        Effort::Long => places.into_iter().step_by(2).collect(),
    };
    for (turn, place) in places.into_iter().enumerate() {
        let cut = place.cut(turn);
        let frozen_upload = place.phase == Phase::Upload && cut.fault == Fault::Stall;
        let patient = !frozen_upload || !waited;
        waited |= frozen_upload;
        let name = format!("create the host: {cut}");
        let held = cases.case(&name, || the_host(&behind, &bare, &cut, patient));
        if held && !behind.proxy.has_struck() {
            cases.untried(&name);
        }
    }
    most_were_struck(&mut cases);
    cases.case("no half-written agent had the name of a whole one", || {
        files.finish()
    });
    cases.finish()
}

#[test]
fn the_line_can_be_cut_while_containers_come_and_go() -> Result<()> {
    let effort = Effort::of_this_run();
    let mut cases = Cases::of(Promise::SurvivesCuts)?;
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    Behind::without_penalties(vps)?;
    let files = AgentFiles::watch(vps);
    let owner =
        lab.terraform(&(configuration::host(vps, "") + &configuration::image(Guest::Debian)?))?;
    owner.apply()?;
    let first = Tenant::new(&lab, vps, 0)?;
    let rounds = rounds(&first, effort)?;
    // After the first container came and went: a bridge that has never had a port looks different.
    let base = Snapshot::take(vps)?.without_shared();
    try_rounds(&lab, vps, rounds, &mut cases)?;
    cases.case("nothing is left of the containers", || {
        is_as_before(vps, &base, Fault::Close)
    });
    cases.case("no half-written agent had the name of a whole one", || {
        files.finish()
    });
    owner.destroy()?;
    cases.finish()
}
