# An existing Debian server: gets a bridge without ports, forwarding, a filter that keeps its guests
# apart, and a small service that restores all of it at boot.
resource "nspawn_host" "server" {
  address = "203.0.113.1"
  # host_key = "ssh-ed25519 AAAA…"   # else ~/.ssh/known_hosts decides
}

output "server" {
  value = "${nspawn_host.server.os}, kernel ${nspawn_host.server.kernel}"
}
