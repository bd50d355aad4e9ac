//! The kernel itself, in a network namespace of a thread of its own.

use ipnet::IpNet;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::{runtime, task::LocalSet};

use super::*;

#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
fn in_new_namespace(work: impl AsyncFnOnce(Netlink) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async { work(Netlink::open().unwrap()).await });
    });
    thread.join().unwrap();
}

async fn dump(netlink: &Netlink) -> Network {
    Network::dump(netlink).await.unwrap()
}

fn bridge(name: &str) -> NewBridge {
    NewBridge {
        name: name.to_owned(),
        alias: "ours".to_owned(),
        mac: [2, 1, 2, 3, 4, 5],
        mtu: 1450,
    }
}

#[test]
fn of_a_namespace_full_of_links_one_is_read() {
    in_new_namespace(async |netlink| {
        for number in 0..20 {
            let name = format!("br{number}");
            netlink.add_bridge(&bridge(&name)).await.unwrap();
        }
        let of_link = async |name| Network::dump_of_link(&netlink, name, 1).await;
        let network = of_link("br9").await.unwrap();
        assert_eq!(network.links.len(), 1);
        let index = network.link("br9").unwrap().index;
        assert!(of_link("gone").await.unwrap().links.is_empty());
        for net in ["192.0.2.1/32", "192.0.2.2/32"] {
            netlink
                .add_address(index, net.parse().unwrap())
                .await
                .unwrap();
        }
        let failure = of_link("br9").await.unwrap_err();
        assert!(
            failure.message.contains("more than 1 addresses"),
            "{failure}"
        );
    });
}

#[test]
fn a_bridge_is_made_as_asked_and_goes() {
    in_new_namespace(async |netlink| {
        netlink.add_bridge(&bridge("br9")).await.unwrap();
        let link = dump(&netlink).await.link("br9").unwrap().clone();
        assert_eq!(
            (
                link.alias.as_deref(),
                link.mtu,
                link.up,
                link.mac,
                link.kind.as_deref()
            ),
            (
                Some("ours"),
                1450,
                true,
                vec![2, 1, 2, 3, 4, 5],
                Some("bridge")
            )
        );
        netlink.delete_link(link.index).await.unwrap();
        assert!(dump(&netlink).await.link("br9").is_none());
    });
}

#[test]
fn a_bridge_is_what_it_was_made_as_again() {
    use netlink_packet_route::link::BridgeStpState;
    in_new_namespace(async |netlink| {
        netlink.add_bridge(&bridge("br9")).await.unwrap();
        let made = dump(&netlink).await.link("br9").unwrap().clone();
        assert_eq!(made.switch, SwitchFlags::default());
        let message = rtnetlink::LinkBridge::new("br9")
            .address(vec![2, 9, 9, 9, 9, 9])
            .stp_state(BridgeStpState::KernelStp)
            .mcast_snooping(true)
            .build();
        netlink
            .handle
            .link()
            .change(message)
            .execute()
            .await
            .unwrap();
        let changed = dump(&netlink).await.link("br9").unwrap().clone();
        let all = SwitchFlags {
            spanning_tree: true,
            snooping: true,
        };
        assert_eq!((changed.switch, changed.mac[1]), (all, 9));
        netlink
            .mend_bridge("br9", [2, 1, 2, 3, 4, 5])
            .await
            .unwrap();
        assert_eq!(dump(&netlink).await.link("br9"), Some(&made));
    });
}

#[test]
fn addresses_routes_and_proxies_come_and_go_and_twice_is_well() {
    in_new_namespace(async |netlink| {
        netlink.add_bridge(&bridge("br9")).await.unwrap();
        let index = dump(&netlink).await.link("br9").unwrap().index;
        let nets: [IpNet; 2] =
            ["203.0.113.2/32", "2001:db8:1::10/128"].map(|net| net.parse().unwrap());
        let own: [IpNet; 2] = ["203.0.113.1/32", "fe80::1/64"].map(|net| net.parse().unwrap());
        for _ in 0..2 {
            for net in own {
                netlink.add_address(index, net).await.unwrap();
            }
            for net in nets {
                netlink.add_route(net, index, None).await.unwrap();
                netlink.add_proxy(index, net.addr()).await.unwrap();
            }
        }
        let gateway = "fe80::2".parse().unwrap();
        let prefixes: [IpNet; 2] =
            ["2001:db8:1:5::/80", "192.0.2.0/24"].map(|net| net.parse().unwrap());
        for prefix in prefixes {
            netlink.add_route(prefix, index, None).await.unwrap();
            netlink
                .add_route(prefix, index, Some(gateway))
                .await
                .unwrap();
        }
        let network = dump(&netlink).await;
        for prefix in prefixes {
            let routes = network.routes.iter();
            let to_it = routes.filter(|route| route.destination == prefix);
            let gateways: Vec<_> = to_it.map(|route| route.gateway).collect();
            assert_eq!(gateways, [Some(gateway.into())]);
            netlink.delete_route(prefix, index).await.unwrap();
        }
        for net in own {
            assert!(
                network.addresses.iter().any(|found| found.net == net),
                "{net}"
            );
        }
        for net in nets {
            assert!(network.routes.iter().any(|route| route.destination == net
                && route.index == index
                && route.protocol == PROTOCOL));
            assert!(
                network
                    .proxies
                    .iter()
                    .any(|proxy| proxy.address == net.addr()
                        && proxy.index == index
                        && proxy.protocol == PROTOCOL)
            );
        }
        for _ in 0..2 {
            for net in nets {
                netlink.delete_route(net, index).await.unwrap();
                netlink.delete_proxy(index, net.addr()).await.unwrap();
                netlink.delete_neighbour(index, net.addr()).await.unwrap();
            }
            for net in own {
                netlink.delete_address(index, net).await.unwrap();
            }
        }
        let network = dump(&netlink).await;
        assert!(network.proxies.is_empty());
        assert!(
            !network
                .routes
                .iter()
                .any(|route| route.protocol == PROTOCOL)
        );
    });
}

#[test]
fn a_port_takes_its_flags_and_its_station() {
    in_new_namespace(async |netlink| {
        for name in ["br8", "br9"] {
            netlink.add_bridge(&bridge(name)).await.unwrap();
        }
        // A veth pair stands in for a guest's link.
        let made = std::process::Command::new("ip")
            .args([
                "link", "add", "vb-web", "type", "veth", "peer", "name", "host0",
            ])
            .status();
        assert!(made.unwrap().success());
        let network = dump(&netlink).await;
        let index = |name: &str| network.link(name).unwrap().index;
        let (port, br9) = (index("vb-web"), index("br9"));
        netlink.join_bridge(port, br9).await.unwrap();
        netlink.set_port(port, PortFlags::APART).await.unwrap();
        for _ in 0..2 {
            netlink
                .add_forwarding(port, &[2, 0, 0, 0, 0, 9])
                .await
                .unwrap();
        }
        let network = dump(&netlink).await;
        let link = network.link("vb-web").unwrap();
        assert_eq!(
            (link.bridge, link.port),
            (Some(br9), Some(PortFlags::APART))
        );
        assert!(
            network
                .forwarding
                .iter()
                .any(|entry| entry.index == port && entry.mac == [2, 0, 0, 0, 0, 9] && entry.fixed)
        );
        let station = [2, 0, 0, 0, 0, 9];
        let address = "203.0.113.2".parse().unwrap();
        for mac in [[2; 6], station] {
            netlink.fix_neighbour(br9, address, &mac).await.unwrap();
        }
        let network = dump(&netlink).await;
        let found = |entry: &Neighbour| entry.address == address && entry.mac == station;
        assert!(
            network
                .neighbours
                .iter()
                .any(|entry| found(entry) && entry.fixed)
        );
        for _ in 0..2 {
            netlink.delete_forwarding(port, &station).await.unwrap();
        }
        let network = dump(&netlink).await;
        assert!(!network.forwarding.iter().any(|entry| entry.mac == station));
    });
}

#[test]
fn an_announcement_goes_out() {
    in_new_namespace(async |netlink| {
        netlink.add_bridge(&bridge("br9")).await.unwrap();
        let link = dump(&netlink).await.link("br9").unwrap().clone();
        for address in ["203.0.113.2", "2001:db8:1::10"] {
            announce(&link, address.parse().unwrap()).unwrap();
        }
    });
}
