//! Pieces of Terraform configuration that the tests put together.

use anyhow::Result;

use crate::{images::Guest, vps::Vps};

/// Returns the resource `nspawn_host.NAME` for a server, with more attributes.
pub fn host(vps: &Vps, more: &str) -> String {
    format!(
        "resource \"nspawn_host\" \"{}\" {{\n  address = \"{}\"\n  user    = \"{}\"\n{more}\n}}\n",
        vps.name(),
        vps.block().ipv4,
        vps.options().user.name(),
    )
}

/// Returns the resource `nspawn_image.debian` on `nspawn_host.vps1`, from a tarball of the lab.
pub fn image(guest: Guest) -> Result<String> {
    image_on("debian", "vps1", guest)
}

/// Returns the resource `nspawn_image.LABEL` on `nspawn_host.HOST`, from a tarball of the lab.
pub fn image_on(label: &str, host: &str, guest: Guest) -> Result<String> {
    let tarball = guest.tarball()?;
    Ok(format!(
        "resource \"nspawn_image\" \"{label}\" {{\n  host    = nspawn_host.{host}\n  name    = \"{label}\"\n  \
         tarball = {{ path = \"{}\", sha256 = \"{}\" }}\n}}\n",
        tarball.path.display(),
        tarball.sha256
    ))
}

/// Returns the resource `nspawn_container.NAME` from `nspawn_image.debian`, with more attributes.
pub fn container(name: &str, more: &str) -> String {
    format!(
        "resource \"nspawn_container\" \"{name}\" {{\n  host  = nspawn_host.vps1\n  name  = \"{name}\"\n  \
         image = nspawn_image.debian.name\n{more}\n}}\n"
    )
}

/// Returns the resource `nspawn_public_address.LABEL` for a container on `nspawn_host.vps1`.
pub fn address(label: &str, address: &str, container: &str) -> String {
    address_with(label, address, container, "")
}

/// Returns the resource `nspawn_public_address.LABEL`, with more attributes.
pub fn address_with(label: &str, address: &str, container: &str, more: &str) -> String {
    format!(
        "resource \"nspawn_public_address\" \"{label}\" {{\n  host      = nspawn_host.vps1\n  \
         address   = \"{address}\"\n  container = \"{container}\"\n{more}\n}}\n"
    )
}
