# A Hetzner Cloud server made, set up and used in one apply; floating addresses land in containers
# and move between them without a restart.

terraform {
  required_providers {
    hcloud = {
      source = "hetznercloud/hcloud"
    }
    nspawn = {
      source = "nspawn/nspawn"
    }
    tls = {
      source = "hashicorp/tls"
    }
  }
}

variable "ssh_public_key" {
  description = "Your public key; the private half is in your SSH agent or ~/.ssh."
  type        = string
}

# The server's host key is made here, so that the very first connection is already checked.
resource "tls_private_key" "server" {
  algorithm = "ED25519"
}

resource "hcloud_ssh_key" "operator" {
  name       = "operator"
  public_key = var.ssh_public_key
}

resource "hcloud_server" "server" {
  name        = "containers"
  image       = "debian-13"
  server_type = "cx33"
  location    = "fsn1"
  ssh_keys    = [hcloud_ssh_key.operator.id]

  user_data = join("\n", ["#cloud-config", yamlencode({
    ssh_keys = {
      ed25519_private = tls_private_key.server.private_key_openssh
      ed25519_public  = trimspace(tls_private_key.server.public_key_openssh)
    }
  })])
}

resource "hcloud_floating_ip" "web" {
  for_each = toset(["ipv4", "ipv6"])

  type      = each.key
  server_id = hcloud_server.server.id
}

# All that is on the server goes and comes with it: without replace_triggered_by, Terraform would take
# a server that it replaces for one that has moved to a new address.
resource "nspawn_host" "server" {
  address  = hcloud_server.server.ipv4_address
  host_key = trimspace(tls_private_key.server.public_key_openssh)

  lifecycle {
    replace_triggered_by = [hcloud_server.server.id]
  }
}

resource "nspawn_image" "debian" {
  host = nspawn_host.server
  name = "debian-13"

  debootstrap = {
    suite   = "trixie"
    include = ["systemd", "systemd-sysv", "dbus", "iproute2", "openssh-server"]
  }

  lifecycle {
    replace_triggered_by = [hcloud_server.server.id]
  }
}

resource "nspawn_container" "web" {
  for_each = toset(["blue", "green"])

  host  = nspawn_host.server
  name  = each.key
  image = nspawn_image.debian.name

  ssh_authorized_keys = [var.ssh_public_key]
  memory              = "1G"

  lifecycle {
    replace_triggered_by = [hcloud_server.server.id]
  }
}

variable "live" {
  description = "The container that has the floating addresses; a change moves them within a second."
  type        = string
  default     = "blue"
}

# The floating IPv4 is known only after it has been bought: unknown in the plan, and that is fine.
resource "nspawn_public_address" "ipv4" {
  host      = nspawn_host.server
  address   = hcloud_floating_ip.web["ipv4"].ip_address
  container = nspawn_container.web[var.live].name

  lifecycle {
    replace_triggered_by = [hcloud_server.server.id]
  }
}

# A floating IPv6 is a /64, routed to the server: its first addresses can go to several containers.
resource "nspawn_public_address" "ipv6" {
  host      = nspawn_host.server
  address   = cidrhost(hcloud_floating_ip.web["ipv6"].ip_network, 1)
  container = nspawn_container.web[var.live].name
  proxy     = false

  lifecycle {
    replace_triggered_by = [hcloud_server.server.id]
  }
}

output "web" {
  value = [nspawn_public_address.ipv4.address, nspawn_public_address.ipv6.address]
}
