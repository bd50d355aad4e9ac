resource "nspawn_host" "server" {
  address = "203.0.113.1"
}

# An address binds to its container by name: it may be there first, and it survives the container's
# replacement. A change of `container` moves it while both guests run.
resource "nspawn_public_address" "web_ipv4" {
  host      = nspawn_host.server
  address   = "203.0.113.2" # or hcloud_floating_ip.web.ip_address
  container = "web"
}

resource "nspawn_public_address" "web_ipv6" {
  host      = nspawn_host.server
  address   = "2001:db8:1::10"
  container = "web"
}

# A whole prefix that is routed to the server needs no neighbour proxy.
resource "nspawn_public_address" "web_prefix" {
  host      = nspawn_host.server
  address   = "2001:db8:1:5::/80"
  container = "web"
  proxy     = false
}
