//! The table's text, without its elements. Parsed by nft 1.0.6 of Debian 12 and later.

use super::TABLE;

/// The sets and rules. Drops come before accepts (CVE-2025-52889, CVE-2025-52890), and what no rule
/// knows is dropped: a forged frame in prerouting can't even teach the bridge.
pub fn text() -> String {
    format!(
        "table bridge {TABLE} {{
	set ports {{ type ifname; }}
	set macs {{ type ifname . ether_addr; }}
	set v4 {{ type ifname . ipv4_addr; flags interval; }}
	set v6 {{ type ifname . ipv6_addr; flags interval; }}
	set link_local {{ type ifname . ipv6_addr; }}
	set targets {{ typeof iifname . @th,64,128; flags interval; }}

	chain arp_in {{
		iifname . arp saddr ether != @macs drop
		arp saddr ip 0.0.0.0 iifname . arp daddr ip @v4 accept
		iifname . arp saddr ip @v4 accept
		drop
	}}

	chain neighbour_in {{
		icmpv6 type nd-neighbor-solicit ip6 saddr :: iifname . @th,64,128 @targets accept
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets drop
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} iifname . ip6 saddr @v6 accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} iifname . ip6 saddr @link_local accept
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
		ether type ip iifname . ip saddr @v4 accept
		ether type ip6 goto v6_in
		drop
	}}

	chain forward {{
		type filter hook forward priority -300; policy accept;
		iifname @ports oifname @ports drop
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
