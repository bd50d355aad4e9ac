//! The tables' text, without their elements. Parsed by nft 1.0.6 of Debian 12 and later.

use super::TABLE;

/// The sets and rules of all families.
pub fn text() -> String {
    of_the_bridge() + &beside_it()
}

/// The sets and rules. Drops come before accepts (CVE-2025-52889, CVE-2025-52890), and what no rule
/// knows is dropped: a forged frame in prerouting can't even teach the bridge.
///
/// Neighbour discovery carries one MAC address at most, and that is the sender's own: else a guest has
/// the host send to others what is for it. It has a limit for each port, and so has ARP, because every address of
/// a prefix that asks becomes a neighbour of the host's.
///
/// A cloud's metadata (169.254.169.254) tells who asks through the host what only the host may know.
fn of_the_bridge() -> String {
    format!(
        "table bridge {TABLE} {{
	set ports {{ type ifname; }}
	set macs {{ type ifname . ether_addr; }}
	set v4 {{ type ifname . ipv4_addr; flags interval; }}
	set v6 {{ type ifname . ipv6_addr; flags interval; }}
	set link_local {{ type ifname . ipv6_addr; }}
	set targets {{ typeof iifname . @th,64,128; flags interval; }}
	set options {{ typeof iifname . @th,192,64; }}
	set discovery {{ type ifname; limit rate over 20/second burst 100 packets; }}

	chain arp_in {{
		iifname @discovery drop
		iifname . arp saddr ether != @macs drop
		arp saddr ip 0.0.0.0 iifname . arp daddr ip @v4 accept
		iifname . arp saddr ip @v4 accept
		drop
	}}

	chain neighbour_source {{
		iifname . ip6 saddr @v6 accept
		iifname . ip6 saddr @link_local accept
		drop
	}}

	chain neighbour_options {{
		ip6 length 24 goto neighbour_source
		ip6 length 32 iifname . @th,192,64 @options goto neighbour_source
		drop
	}}

	chain neighbour_in {{
		iifname @discovery drop
		ip6 nexthdr != icmpv6 drop
		icmpv6 type nd-neighbor-solicit ip6 saddr :: iifname . @th,64,128 @targets accept
		icmpv6 type nd-neighbor-solicit goto neighbour_options
		iifname . @th,64,128 @targets goto neighbour_options
		drop
	}}

	chain v6_in {{
		icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-redirect }} drop
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} goto neighbour_in
		icmpv6 type {{ mld-listener-report, mld-listener-done, mld2-listener-report }} ip6 saddr :: accept
		icmpv6 type {{ mld-listener-report, mld-listener-done, mld2-listener-report }} iifname . ip6 saddr @link_local accept
		iifname . ip6 saddr @v6 accept
		drop
	}}

	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		iifname != @ports accept
		iifname . ether saddr != @macs drop
		ether type arp goto arp_in
		ether type ip ip daddr 169.254.0.0/16 drop
		ether type ip iifname . ip saddr @v4 accept
		ether type ip6 goto v6_in
		drop
	}}

	chain forward {{
		type filter hook forward priority -300; policy accept;
		iifname @ports drop
	}}

	chain output {{
		type filter hook output priority -300; policy accept;
		oifname @ports ip protocol icmp icmp type redirect drop
		oifname @ports icmpv6 type nd-redirect drop
	}}
}}
"
    )
}

/// Frames to the bridge's own groups (01:80:c2:00:00:0X) pass all hooks of the bridge by, and the host takes
/// what is in them as if the port were an interface of its own: br_handle_frame() of the kernel. There is
/// nothing honest in that, so the other two families drop all that comes in by a port and not by the bridge: before
/// conntrack puts fragments together (-400, linux/netfilter_ipv4.h), which would join them to others' of the same name.
///
/// A packet to a prefix on a link of the host's has it look for that neighbour before it is sent: in the forward chain,
/// which comes before that, each guest may have it look for 20 new ones a second, after 100 at once, and all of them for
/// 4096 in 10 seconds, a quarter of the kernel's table. Whoever was let through is so for 10 seconds, and isn't kept in
/// by going on: else a guest had ever more of them in the table. Links without neighbours aren't limited.
fn beside_it() -> String {
    format!(
        "table inet {TABLE} {{
	set ports {{ type ifname; }}

	set bridges {{ type ifname; }}
	set on_link4 {{ type ipv4_addr; flags interval; }}
	set on_link6 {{ type ipv6_addr; flags interval; }}
	set askers {{ type ether_addr; size 4096; flags dynamic,timeout; timeout 1m; }}
	set asked4 {{ type ether_addr . ipv4_addr; size 4096; flags dynamic,timeout; timeout 10s; }}
	set asked6 {{ type ether_addr . ipv6_addr; size 4096; flags dynamic,timeout; timeout 10s; }}

	chain asks4 {{
		ether saddr . ip daddr @asked4 accept
		update @askers {{ ether saddr limit rate over 20/second burst 100 packets }} drop
		add @asked4 {{ ether saddr . ip daddr }} accept
		drop
	}}

	chain asks6 {{
		ether saddr . ip6 daddr @asked6 accept
		update @askers {{ ether saddr limit rate over 20/second burst 100 packets }} drop
		add @asked6 {{ ether saddr . ip6 daddr }} accept
		drop
	}}

	chain prerouting {{
		type filter hook prerouting priority -450; policy accept;
		iifname @ports drop
	}}

	chain forward {{
		type filter hook forward priority -300; policy accept;
		iifname != @bridges accept
		oifname @bridges accept
		meta oiftype != ether accept
		ip daddr @on_link4 goto asks4
		ip6 daddr @on_link6 goto asks6
	}}
}}
table arp {TABLE} {{
	set ports {{ type ifname; }}

	chain input {{
		type filter hook input priority -300; policy accept;
		iifname @ports drop
	}}
}}
"
    )
}
