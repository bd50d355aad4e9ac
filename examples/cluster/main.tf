# Three etcd members over two servers, each a container with public addresses of its own.
# They find each other over those addresses: no overlay network, no NAT.

terraform {
  required_providers {
    nspawn = {
      source = "nspawn/nspawn"
    }
  }
}

variable "servers" {
  description = "Debian servers that you reach as root over SSH."
  type        = map(string)
  default = {
    one = "203.0.113.1"
    two = "192.0.2.1"
  }
}

variable "image" {
  description = "A root file system with systemd and etcd in it."
  type        = string
  default     = "debian-13-etcd.tar.zst"
}

variable "members" {
  description = "Where each member stands, and its public addresses."
  type        = map(object({ server = string, ipv4 = string, ipv6 = string }))
  default = {
    etcd-1 = { server = "one", ipv4 = "203.0.113.11", ipv6 = "2001:db8:1::11" }
    etcd-2 = { server = "one", ipv4 = "203.0.113.12", ipv6 = "2001:db8:1::12" }
    etcd-3 = { server = "two", ipv4 = "192.0.2.11", ipv6 = "2001:db8:2::11" }
  }
}

locals {
  # Everything a member needs to know fits into the image: each finds its own line by its host name.
  members = join(",", [for name, member in var.members : "${name}=http://${member.ipv4}:2380"])

  start_etcd = <<-EOT
    cat > /etc/etcd-members <<'END'
    ${join("\n", [for name, member in var.members : "${name} ${member.ipv4}"])}
    END
    cat > /usr/local/bin/start-etcd <<'END'
    #!/bin/sh
    name=$(hostname)
    address=$(sed -n "s/^$name //p" /etc/etcd-members)
    exec /usr/bin/etcd --name "$name" --data-dir /var/lib/etcd/member-data \
      --listen-peer-urls "http://$address:2380" --initial-advertise-peer-urls "http://$address:2380" \
      --listen-client-urls "http://$address:2379,http://127.0.0.1:2379" --advertise-client-urls "http://$address:2379" \
      --initial-cluster '${local.members}' --initial-cluster-state new
    END
    chmod 755 /usr/local/bin/start-etcd
    cat > /etc/systemd/system/etcd-member.service <<'END'
    [Unit]
    Description=One member of the cluster
    [Service]
    ExecStart=/usr/local/bin/start-etcd
    # Its public address may arrive a moment after the boot.
    Restart=on-failure
    RestartSec=500ms
    StartLimitIntervalSec=0
    [Install]
    WantedBy=multi-user.target
    END
    systemctl disable etcd.service 2>/dev/null
    systemctl enable etcd-member.service
  EOT
}

resource "nspawn_host" "server" {
  for_each = var.servers
  address  = each.value
}

resource "nspawn_image" "etcd" {
  for_each = var.servers

  host = nspawn_host.server[each.key]
  name = "etcd"

  tarball = {
    path   = var.image
    sha256 = filesha256(var.image)
  }
  customize = [local.start_etcd]
}

resource "nspawn_container" "member" {
  for_each = var.members

  host  = nspawn_host.server[each.value.server]
  name  = each.key
  image = nspawn_image.etcd[each.value.server].name
}

resource "nspawn_public_address" "ipv4" {
  for_each = var.members

  host      = nspawn_host.server[each.value.server]
  address   = each.value.ipv4
  container = nspawn_container.member[each.key].name
}

resource "nspawn_public_address" "ipv6" {
  for_each = var.members

  host      = nspawn_host.server[each.value.server]
  address   = each.value.ipv6
  container = nspawn_container.member[each.key].name
}

output "endpoints" {
  value = [for member in var.members : "http://${member.ipv4}:2379"]
}
