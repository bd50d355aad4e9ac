//! What a server serves, with types erased.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::resource::erased::AnyResource;
use crate::resource::stored::decode;
use crate::schema::{Attribute, AttributeType, Object, Presence, Schema};
use crate::{Context, DataSource, Diagnostics, Model, Path, Provider, Value};

/// Everything registered with a server.
pub struct Registry {
    pub provider: Arc<dyn AnyProvider>,
    pub resources: BTreeMap<&'static str, Arc<dyn AnyResource>>,
    pub data_sources: BTreeMap<&'static str, Arc<dyn AnyDataSource>>,
    /// Names registered twice.
    pub duplicates: Vec<&'static str>,
}

impl Registry {
    /// Mistakes in the schemas themselves.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.provider.schema().object.mistakes("provider");
        for (name, resource) in &self.resources {
            mistakes.extend(resource.schema().object.mistakes(name));
        }
        for (name, source) in &self.data_sources {
            mistakes.extend(source.schema().object.mistakes(name));
        }
        mistakes.extend(
            self.duplicates
                .iter()
                .map(|name| format!("{name} is registered twice")),
        );
        mistakes
    }
}

/// A provider, whatever its types.
pub trait AnyProvider: Send + Sync {
    fn schema(&self) -> &Schema;
    fn validate(&self, config: Value) -> Diagnostics;
    fn configure<'a>(
        &'a self,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<(), Diagnostics>>;
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// A data source, whatever its types.
pub trait AnyDataSource: Send + Sync {
    fn schema(&self) -> &Schema;
    fn validate(&self, config: Value) -> Diagnostics;
    fn read<'a>(
        &'a self,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Value, Diagnostics>>;
}

/// A provider or data source beside its schema.
pub struct Described<T> {
    inner: T,
    schema: Schema,
}

impl<P: Provider> Described<P> {
    pub fn provider(inner: P) -> Self {
        let mut object = P::Config::object();
        object.attributes.iter_mut().for_each(forbid_computed);
        Self {
            inner,
            schema: Schema { version: 0, object },
        }
    }
}

/// Terraform allows no computed attributes in a provider's block: defaults are filled in here.
fn forbid_computed(attribute: &mut Attribute) {
    if attribute.is_computed() {
        attribute.presence = Presence::Optional;
    }
}

impl<D: DataSource> Described<D> {
    pub fn data_source(inner: D) -> Self {
        Self {
            inner,
            schema: Schema {
                version: 0,
                object: D::Model::object(),
            },
        }
    }
}

/// Checks single attributes, then the whole.
fn check<M: Model>(
    object: &Object,
    config: Value,
    validate: impl FnOnce(&M, &mut Diagnostics),
) -> Diagnostics {
    let config = object.conform(config);
    let mut diagnostics = object.check(&config, &Path::root());
    if !diagnostics.has_errors() {
        match decode(&config) {
            Ok(model) => validate(&model, &mut diagnostics),
            Err(errors) => diagnostics.extend(errors),
        }
    }
    diagnostics
}

impl<P: Provider> AnyProvider for Described<P> {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn validate(&self, config: Value) -> Diagnostics {
        check::<P::Config>(&self.schema.object, config, |config, diagnostics| {
            self.inner.validate(config, diagnostics);
        })
    }

    fn configure<'a>(
        &'a self,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<(), Diagnostics>> {
        Box::pin(async move {
            let object = &self.schema.object;
            let config = decode(&object.with_defaults(object.conform(config)))?;
            self.inner.configure(config, context).await
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.shutdown())
    }
}

impl<D: DataSource> AnyDataSource for Described<D> {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn validate(&self, config: Value) -> Diagnostics {
        check::<D::Model>(&self.schema.object, config, |config, diagnostics| {
            self.inner.validate(config, diagnostics);
        })
    }

    fn read<'a>(
        &'a self,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Value, Diagnostics>> {
        Box::pin(async move {
            let object = &self.schema.object;
            let config = object.with_defaults(object.conform(config));
            let model = self.inner.read(decode(&config)?, context).await?;
            Ok(object.conform(model.encode()))
        })
    }
}
