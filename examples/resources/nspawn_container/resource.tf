resource "nspawn_host" "server" {
  address = "203.0.113.1"
}

resource "nspawn_image" "debian" {
  host = nspawn_host.server
  name = "debian-13"

  tarball = {
    path   = "${path.module}/debian-13.tar.zst"
    sha256 = filesha256("${path.module}/debian-13.tar.zst")
  }
}

resource "nspawn_container" "web" {
  host  = nspawn_host.server
  name  = "web"
  image = nspawn_image.debian.name

  cpus   = 2
  memory = "512M"

  ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJ1dCB0aGlzIGlzIG5vdCBhIGtleSBhdCBhbGwu alice@example"]
  dns_servers         = ["2001:4860:4860::8888", "8.8.8.8"]

  # Ready means that the next resource can use it.
  wait_for = {
    port    = 7777
    timeout = "2m"
  }
}
