terraform {
  required_providers {
    nspawn = {
      source = "nspawn/nspawn"
    }
  }
}

# Keys come from here, from NSPAWN_SSH_PRIVATE_KEY and its like, from the SSH agent, or from ~/.ssh.
# None of them enters the state.
provider "nspawn" {
  connect_timeout = "10s"
}

resource "nspawn_host" "server" {
  address = "203.0.113.1"
}
