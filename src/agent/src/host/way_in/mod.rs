//! How an operator reaches the host, noted before a change and put back when that change is undone:
//! what others did meanwhile may be what locks the operator out (decision 6).
//!
//! Only what can do that is touched: the uplink and its addresses and routes, routes that lead the
//! operator's packets astray, and nftables rules that drop what the host gets or sends.

mod plan;
mod rules;

use std::net::IpAddr;

use protocol::Failure;
use serde::{Deserialize, Serialize};

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
const ROUNDS: usize = 4;

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
        Self::observe_with(context, peer, links).await
    }

    async fn observe_with(
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
            rules: nft::list(context, &["ruleset"])
                .await?
                .map(|ruleset| Rules::read(&ruleset))
                .unwrap_or_default(),
        })
    }

    /// Puts back what is missing of it and removes what blocks it; tells what that was. What can't be
    /// done keeps nothing else from being done.
    pub async fn restore(&self, context: &Context) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        for _ in 0..ROUNDS {
            let steps = match self.look_again(context).await {
                Ok(now) => plan::plan(self, &now),
                Err(failure) => {
                    eprintln!("the way in can't be looked at: {failure}");
                    return told;
                }
            };
            let mut failed = false;
            for step in &steps {
                let sentence = plan::sentence(step, self);
                match perform(context, step).await {
                    Ok(()) if told.contains(&sentence) => {}
                    Ok(()) => {
                        eprintln!("rolled back: {sentence}");
                        told.push(sentence);
                    }
                    Err(failure) => {
                        eprintln!("could not be rolled back: {sentence}: {failure}");
                        failed = true;
                    }
                }
            }
            if steps.is_empty() && !failed {
                break;
            }
        }
        told
    }

    async fn look_again(&self, context: &Context) -> Result<Self, Failure> {
        let network = Network::dump(&context.netlink).await?;
        let links = network.links.iter().map(Link::of).collect();
        Self::observe_with(context, self.peer, links).await
    }
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
        Step::Rules(step) => nft::apply_json(context, &step.commands).await,
    }
}
