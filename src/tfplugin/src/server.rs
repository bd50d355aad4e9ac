//! Putting a provider together and serving it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use crate::registry::{Described, Registry};
use crate::resource::erased::Erased;
use crate::{DataSource, Provider, Resource, docs, serve};

/// A provider with its resources and data sources.
pub struct Server {
    address: String,
    version: String,
    registry: Registry,
    observe: fn(&str),
}

impl Server {
    /// A provider. `address` is its source, such as `registry.terraform.io/nspawn/nspawn`.
    pub fn new<P: Provider>(
        address: impl Into<String>,
        version: impl Into<String>,
        provider: P,
    ) -> Self {
        let registry = Registry {
            provider: Arc::new(Described::provider(provider)),
            resources: BTreeMap::new(),
            data_sources: BTreeMap::new(),
            duplicates: Vec::new(),
        };
        Self {
            address: address.into(),
            version: version.into(),
            registry,
            observe: |_| {},
        }
    }

    /// Who is told of each operation before it begins and before Terraform gets its result:
    /// "before: Applying example_thing", "after: Applying example_thing".
    #[must_use]
    pub fn observe(mut self, observe: fn(&str)) -> Self {
        self.observe = observe;
        self
    }

    /// Adds a resource.
    #[must_use]
    pub fn resource<R: Resource>(mut self, resource: R) -> Self {
        let erased = Arc::new(Erased::new(resource));
        if self.registry.resources.insert(R::NAME, erased).is_some() {
            self.registry.duplicates.push(R::NAME);
        }
        self
    }

    /// Adds a data source.
    #[must_use]
    pub fn data_source<D: DataSource>(mut self, source: D) -> Self {
        let described = Arc::new(Described::data_source(source));
        if self
            .registry
            .data_sources
            .insert(D::NAME, described)
            .is_some()
        {
            self.registry.duplicates.push(D::NAME);
        }
        self
    }

    /// Mistakes in the declarations, such as a default of the wrong type or an attribute without a
    /// description; for a unit test. Terraform is told of them as well.
    pub fn mistakes(&self) -> Vec<String> {
        self.registry.mistakes()
    }

    /// The registry's documentation: paths below `docs/`, and their markdown.
    ///
    /// `example` gives the text of a file below `examples/`, if there is one:
    /// `provider/provider.tf`, `resources/NAME/resource.tf`, `resources/NAME/import.sh`,
    /// `data-sources/NAME/data-source.tf`.
    pub fn documentation(
        &self,
        example: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, String> {
        docs::render(&self.address, &self.registry, &example)
    }

    /// Serves until Terraform is done. Started by hand, it says what this program is, and fails.
    pub fn serve(self) -> ExitCode {
        let Self {
            address,
            version,
            registry,
            observe,
        } = self;
        match serve::run(&address, registry, observe) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{address} {version}: {error}.");
                ExitCode::FAILURE
            }
        }
    }
}
