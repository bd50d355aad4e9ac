# A server, an image, two containers, each with a public IPv4 and IPv6 address of its own.

terraform {
  required_providers {
    nspawn = {
      source = "nspawn/nspawn"
    }
  }
}

variable "server" {
  description = "The address of a Debian server that you reach as root over SSH."
  type        = string
  default     = "203.0.113.1"
}

variable "image" {
  description = "A root file system, packed as a tarball (.tar, .tar.gz, .tar.xz, .tar.zst)."
  type        = string
  default     = "debian-13.tar.zst"
}

variable "guests" {
  description = "The addresses of each container."
  type        = map(object({ ipv4 = string, ipv6 = string }))
  default = {
    alpha = { ipv4 = "203.0.113.2", ipv6 = "2001:db8:1::2" }
    beta  = { ipv4 = "203.0.113.3", ipv6 = "2001:db8:1::3" }
  }
}

resource "nspawn_host" "server" {
  address = var.server
}

resource "nspawn_image" "debian" {
  host = nspawn_host.server
  name = "debian-13"

  tarball = {
    path   = var.image
    sha256 = filesha256(var.image)
  }
}

resource "nspawn_container" "guest" {
  for_each = var.guests

  host  = nspawn_host.server
  name  = each.key
  image = nspawn_image.debian.name
}

resource "nspawn_public_address" "ipv4" {
  for_each = var.guests

  host      = nspawn_host.server
  address   = each.value.ipv4
  container = nspawn_container.guest[each.key].name
}

resource "nspawn_public_address" "ipv6" {
  for_each = var.guests

  host      = nspawn_host.server
  address   = each.value.ipv6
  container = nspawn_container.guest[each.key].name
}

output "guests" {
  description = "Where each container answers from outside."
  value       = { for name, guest in var.guests : name => [guest.ipv4, guest.ipv6] }
}
