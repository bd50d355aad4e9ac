//! One lab for several cases, so that it is booted, and the image is unpacked, once for all of them.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{Hosts, Lab, Terraform};

/// A lab with a server, and what all cases have on it.
#[derive(Debug)]
pub struct Shared {
    /// The lab.
    pub lab: Lab,
    /// With the state of all cases.
    pub terraform: Terraform,
    base: String,
}

/// A case, and its name.
pub type Case = (&'static str, fn(&Shared) -> Result<()>);

impl Shared {
    /// Boots a lab; the base is what every case has.
    pub fn start(base: impl FnOnce(&Lab) -> Result<String>) -> Result<Self> {
        let lab = Lab::start(Hosts::one())?;
        let base = base(&lab)?;
        let terraform = lab.terraform(&base)?;
        Ok(Self {
            lab,
            terraform,
            base,
        })
    }

    /// Writes a configuration of the base and more.
    pub fn configure(&self, more: &str) -> Result<()> {
        self.terraform.configure(&(self.base.clone() + more))
    }

    /// Removes all but the base.
    pub fn clear(&self) -> Result<()> {
        self.configure("")?;
        self.terraform.apply().map(drop)
    }

    /// Tries each case from the base alone, and goes on when one fails; then all is destroyed.
    pub fn try_each(&self, cases: &[Case]) -> Result<()> {
        let mut failures = Vec::new();
        for (name, case) in cases {
            let begun = Instant::now();
            let result = self.clear().and_then(|()| case(self));
            let seconds = begun.elapsed().as_secs_f64();
            eprintln!(
                "{} {name} ({seconds:.1} s)",
                if result.is_ok() { "held:  " } else { "BROKEN:" }
            );
            if let Err(error) = result {
                failures.push(format!("{name}: {error:?}"));
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        self.terraform.destroy().map(drop)
    }
}
