resource "nspawn_host" "server" {
  address = "203.0.113.1"
}

# A root file system that lies beside this configuration; it is sent over the same connection.
resource "nspawn_image" "debian" {
  host = nspawn_host.server
  name = "debian-13"

  tarball = {
    path   = "${path.module}/debian-13.tar.zst"
    sha256 = filesha256("${path.module}/debian-13.tar.zst")
  }

  customize = ["echo 'Welcome.' > /etc/motd"]
}
