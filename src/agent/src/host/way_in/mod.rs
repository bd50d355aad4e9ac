//! How an operator reaches the host, noted before a change and put back when that change is undone:
//! what others did meanwhile may be what locks the operator out (decision 6).
//!
//! Only what can do that is touched: the uplink and its addresses and routes, routes that lead the
//! operator's packets astray, and nftables rules that drop what the host gets or sends.

mod plan;
mod rules;

use std::{net::IpAddr, time::Duration};

use protocol::Failure;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use self::{plan::Step, rules::Rules};
use super::facts;
use crate::{
    context::Context,
    system::{
        netlink::{KeptAddress, KeptRoute, Network},
        nft,
    },
};

/// How often it looks anew: an interface that comes up brings things along, and takes its time.
const ROUNDS: usize = 6;

/// Between two of them when something failed: no route may have an IPv6 address as its source until nobody else has
/// claimed that. ip-sysctl.rst, dad_transmits
const PAUSE: Duration = Duration::from_millis(500);

/// How long the rules may take to be listed: what hangs must not keep the rest from being put back.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// How the host is reached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WayIn {
    /// Where the operator's connection comes from.
    peer: Option<IpAddr>,
    /// The interfaces that lead to the world and to the operator.
    links: Vec<Link>,
    /// All addresses.
    addresses: Vec<KeptAddress>,
    /// All routes but our own.
    routes: Vec<KeptRoute>,
    /// The nftables rules of others.
    rules: Rules,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    index: u32,
    name: String,
    up: bool,
}

/// What has become of it.
#[derive(Debug, Default)]
pub struct Restored {
    /// What was put back.
    pub put_back: Vec<String>,
    /// What could not be.
    pub missing: Vec<String>,
}

impl WayIn {
    /// Looks how the host is reached now.
    pub async fn observe(context: &Context, uplink: &str) -> Result<Self, Failure> {
        let network = Network::dump(&context.netlink).await?;
        let peer = facts::ssh_peer();
        let leads_outside = |link: &&crate::system::netlink::Link| {
            link.name == uplink
                || network.routes.iter().any(|route| {
                    route.index == link.index
                        && (route.destination.prefix_len() == 0
                            || peer.is_some_and(|peer| route.destination.contains(&peer)))
                })
        };
        let links = network
            .links
            .iter()
            .filter(leads_outside)
            .map(Link::of)
            .collect();
        Ok(Self {
            rules: rules(context).await?.on_the_way(),
            ..Self::observe_network(context, peer, links).await?
        })
    }

    /// All but the rules.
    async fn observe_network(
        context: &Context,
        peer: Option<IpAddr>,
        links: Vec<Link>,
    ) -> Result<Self, Failure> {
        let mut routes = context.netlink.kept_routes().await?;
        routes.retain(|route| route.protocol != crate::system::netlink::PROTOCOL);
        Ok(Self {
            peer,
            links,
            addresses: context.netlink.kept_addresses().await?,
            routes,
            rules: Rules::default(),
        })
    }

    /// Puts back what is missing of it and removes what blocks it; tells what that was, and what is missing still.
    /// What can't be done keeps nothing else from being done.
    pub async fn restore(&self, context: &Context) -> Restored {
        let mut restored = Restored::default();
        for round in 1..=ROUNDS {
            let (steps, unseen) = self.look_again(context).await;
            restored.missing = unseen;
            for step in &steps {
                let sentence = plan::sentence(step, self);
                match perform(context, step).await {
                    Ok(()) if restored.put_back.contains(&sentence) => {}
                    Ok(()) => {
                        eprintln!("rolled back: {sentence}");
                        restored.put_back.push(sentence);
                    }
                    Err(failure) => restored.missing.push(format!("{sentence}: {failure}")),
                }
            }
            if restored.missing.is_empty() {
                if steps.is_empty() {
                    break;
                }
            } else if round < ROUNDS {
                sleep(PAUSE).await;
            }
        }
        for missing in &restored.missing {
            eprintln!("could not be rolled back: {missing}");
        }
        restored
    }

    /// What has to be done, and what can't be looked at: neither the network nor the rules wait for the other.
    async fn look_again(&self, context: &Context) -> (Vec<Step>, Vec<String>) {
        let (mut steps, mut unseen) = (Vec::new(), Vec::new());
        match rules(&context.within_time(LOOK_TIME)).await {
            Ok(now) => steps.extend(plan::of_rules(self, &now)),
            Err(failure) => unseen.push(format!("the nftables rules of others: {failure}")),
        }
        match self.network_now(context).await {
            Ok(now) => steps.extend(plan::of_network(self, &now)),
            Err(failure) => unseen.push(format!("the host's network: {failure}")),
        }
        (steps, unseen)
    }

    async fn network_now(&self, context: &Context) -> Result<Self, Failure> {
        let network = Network::dump(&context.netlink).await?;
        let links = network.links.iter().map(Link::of).collect();
        Self::observe_network(context, self.peer, links).await
    }
}

async fn rules(context: &Context) -> Result<Rules, Failure> {
    Ok(Rules::read(&nft::list_rules(context).await?))
}

impl Link {
    fn of(link: &crate::system::netlink::Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
            up: link.up,
        }
    }
}

async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::RemoveRoute(route) => context.netlink.remove_route(route).await,
        Step::SetUp(link) => context.netlink.set_link(link.index, None).await,
        Step::PutAddress(address) => context.netlink.put_address_back(address).await,
        Step::PutRoute(route) => context.netlink.put_route_back(route).await,
        Step::Rules(step) => perform_rules(context, step).await,
    }
}

async fn perform_rules(context: &Context, step: &rules::Step) -> Result<(), Failure> {
    let result = nft::apply_json(context, &step.commands).await;
    if result.is_ok() || step.otherwise.is_empty() {
        return result;
    }
    let mut result = Ok(());
    for single in &step.otherwise {
        result = result.and(nft::apply_json(context, &single.commands).await);
    }
    result
}

#[cfg(test)]
mod tests {
    use tokio::{runtime, task::LocalSet};

    use super::*;
    use crate::system::netlink::{Netlink, NewBridge};

    const RULES: &str = "table inet operator {
        set ports { type inet_service; }
        chain in { type filter hook input priority 0; tcp dport @ports accept; tcp dport 22 accept; }
    }";

    async fn on_a_host_of_its_own() {
        let netlink = Netlink::open().unwrap();
        let bridge = NewBridge {
            name: "br9".to_owned(),
            alias: String::new(),
            mac: [2; 6],
            mtu: 1500,
        };
        netlink.add_bridge(&bridge).await.unwrap();
        let network = Network::dump(&netlink).await.unwrap();
        let index = network.link("br9").unwrap().index;
        let net = "203.0.113.1/32".parse().unwrap();
        netlink.add_address(index, net).await.unwrap();
        let context = Context::new(netlink, "test", Duration::from_mins(1));
        nft::apply(&context, RULES).await.unwrap();
        let before = WayIn::observe(&context, "br9").await.unwrap();

        context.netlink.delete_address(index, net).await.unwrap();
        let cut = "flush chain inet operator in; delete set inet operator ports";
        nft::apply(&context, cut).await.unwrap();
        let restored = before.restore(&context).await;
        assert_eq!(
            restored.put_back,
            ["the address 203.0.113.1/32 is back on br9"]
        );
        let [missing] = &restored.missing[..] else {
            panic!("{:?}", restored.missing);
        };
        assert!(
            missing.starts_with("a rule that was gone from the chain in"),
            "{missing}"
        );
        let listed = nft::list_rules(&context).await.unwrap();
        assert!(listed.to_string().contains("accept"), "{listed}");
    }

    /// The kernel itself, in a network namespace of a thread of its own; programs that it starts are in there, too.
    #[test]
    #[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
    fn what_nft_refuses_keeps_no_address_from_coming_back() {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        let thread = std::thread::spawn(|| {
            // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, on_a_host_of_its_own());
        });
        thread.join().unwrap();
    }
}
