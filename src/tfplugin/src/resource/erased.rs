//! Resources with their types erased: values in, values out.

use futures_util::future::BoxFuture;
use serde_json::Value as Json;

use super::planning::{self, broken_promises, carry_over, without_unknown};
use super::stored::{Stored, decode, decode_optional, load, read_private, write_private};
use super::{Create, Failed, Plan, Resource, State, Update};
use crate::schema::{AttributeType, Schema};
use crate::value::json::from_json;
use crate::{Context, Diagnostics, Model, Path, Value};

/// What a plan comes to.
pub struct Planned {
    pub stored: Stored,
    pub requires_replace: Vec<Path>,
}

/// What an apply comes to: a state in any case, so that nothing is lost.
pub struct Applied {
    pub stored: Stored,
    pub diagnostics: Diagnostics,
}

/// What an apply is given. `planned` carries the private part.
pub struct ApplyInput {
    pub prior: Value,
    pub planned: Stored,
    pub config: Value,
}

/// A resource, whatever its types.
pub trait AnyResource: Send + Sync {
    fn schema(&self) -> &Schema;
    fn validate(&self, config: Value) -> Diagnostics;
    fn plan<'a>(
        &'a self,
        prior: Stored,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Planned, Diagnostics>>;
    fn plan_destroy<'a>(
        &'a self,
        prior: Stored,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<(), Diagnostics>>;
    fn apply<'a>(&'a self, input: ApplyInput, context: &'a Context) -> BoxFuture<'a, Applied>;
    fn read<'a>(
        &'a self,
        current: Stored,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Stored, Diagnostics>>;
    fn import<'a>(
        &'a self,
        id: &'a str,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Stored, Diagnostics>>;
    fn upgrade(&self, from: i64, state: Json) -> Result<Value, Diagnostics>;
}

/// A resource beside its schema.
pub struct Erased<R> {
    resource: R,
    schema: Schema,
}

impl<R: Resource> Erased<R> {
    pub fn new(resource: R) -> Self {
        let schema = Schema {
            version: R::VERSION,
            object: R::Model::object(),
        };
        Self { resource, schema }
    }

    fn encode(&self, model: &R::Model) -> Value {
        let value = self.schema.object.conform(model.encode());
        self.schema.object.without_write_only(value)
    }

    /// The stored form of a result. `original` is what the model was decoded from.
    fn store(&self, original: &Value, state: &State<R>) -> Result<Stored, Diagnostics> {
        let after = self.encode(&state.model);
        let value = match decode::<R::Model>(original) {
            Ok(before) => carry_over(original, &self.encode(&before), &after),
            Err(_) => after,
        };
        Ok(Stored {
            value,
            private: write_private::<R>(&state.private)?,
        })
    }

    async fn create(&self, input: &ApplyInput, context: &Context) -> Result<State<R>, Failed<R>> {
        let State {
            model: planned,
            private,
        } = load::<R>(&input.planned)?;
        let config = decode(&input.config)?;
        self.resource
            .create(
                Create {
                    planned,
                    config,
                    private,
                },
                context,
            )
            .await
    }

    async fn update(&self, input: &ApplyInput, context: &Context) -> Result<State<R>, Failed<R>> {
        let State {
            model: planned,
            private,
        } = load::<R>(&input.planned)?;
        let (prior, config) = (decode(&input.prior)?, decode(&input.config)?);
        self.resource
            .update(
                Update {
                    prior,
                    planned,
                    config,
                    private,
                },
                context,
            )
            .await
    }

    async fn delete(&self, input: &ApplyInput, context: &Context) -> Applied {
        let prior = Stored {
            value: input.prior.clone(),
            private: input.planned.private.clone(),
        };
        let result = match load::<R>(&prior) {
            Ok(state) => self.resource.delete(state, context).await,
            Err(diagnostics) => Err(diagnostics.into()),
        };
        match result {
            Ok(()) => Applied {
                stored: Stored::default(),
                diagnostics: Diagnostics::new(),
            },
            // Told of an error and no value, Terraform keeps the state that it has, with its private part. The one here is
            // the plan's, which says nothing of a tainted object: Terraform plans its replacement without it.
            Err(failed) => self.after_failure(Stored::default(), failed),
        }
    }

    fn after_success(&self, planned: &Value, kept: Stored, state: &State<R>) -> Applied {
        let mut stored = match self.store(planned, state) {
            Ok(stored) => stored,
            Err(diagnostics) => {
                return Applied {
                    stored: kept,
                    diagnostics,
                };
            }
        };
        let mut diagnostics = Diagnostics::new();
        for path in broken_promises(planned, &stored.value, &Path::root()) {
            let detail = format!(
                "The provider planned another value for {path} than {} now has, or left it unknown. \
                 This is a bug in the provider; the resource itself was changed, and its state is kept.",
                R::NAME
            );
            diagnostics.add_error_at(path, "Result differs from the plan", detail);
        }
        stored.value = without_unknown(stored.value);
        Applied {
            stored,
            diagnostics,
        }
    }

    /// The state after a failure: what the operation says exists, or what was there before.
    fn after_failure(&self, kept: Stored, failed: Failed<R>) -> Applied {
        let Failed {
            partial,
            mut diagnostics,
        } = failed;
        if !diagnostics.has_errors() {
            let detail = format!("{} failed and gave no reason.", R::NAME);
            diagnostics.extend(Diagnostics::error("Operation failed", detail));
        }
        let Some(state) = partial else {
            return Applied {
                stored: kept,
                diagnostics,
            };
        };
        match self.store(&Value::Null, &state) {
            Ok(mut stored) => {
                stored.value = without_unknown(stored.value);
                Applied {
                    stored,
                    diagnostics,
                }
            }
            Err(more) => {
                diagnostics.extend(more);
                Applied {
                    stored: kept,
                    diagnostics,
                }
            }
        }
    }
}

impl<R: Resource> AnyResource for Erased<R> {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn validate(&self, config: Value) -> Diagnostics {
        let config = self.schema.object.conform(config);
        let mut diagnostics = self.schema.object.check(&config, &Path::root());
        if !diagnostics.has_errors() {
            match decode(&config) {
                Ok(model) => self.resource.validate(&model, &mut diagnostics),
                Err(errors) => diagnostics.extend(errors),
            }
        }
        diagnostics
    }

    fn plan<'a>(
        &'a self,
        prior: Stored,
        config: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Planned, Diagnostics>> {
        Box::pin(async move {
            let object = &self.schema.object;
            let (prior_value, config) = (object.conform(prior.value), object.conform(config));
            let proposal = planning::propose(object, &prior_value, &config);
            let planned: R::Model = decode(&proposal.planned)?;
            let before = self.encode(&planned);
            let mut plan = Plan::<R> {
                prior: decode_optional(&prior_value)?,
                config: decode(&config)?,
                planned,
                private: read_private::<R>(&prior.private)?,
                changed: proposal.changed,
                requires_replace: proposal.requires_replace,
            };
            self.resource.plan(&mut plan, context).await?;
            let value = carry_over(&proposal.planned, &before, &self.encode(&plan.planned));
            let stored = Stored {
                value,
                private: write_private::<R>(&plan.private)?,
            };
            Ok(Planned {
                stored,
                requires_replace: plan.requires_replace,
            })
        })
    }

    fn plan_destroy<'a>(
        &'a self,
        prior: Stored,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<(), Diagnostics>> {
        Box::pin(async move {
            self.resource
                .plan_destroy(&load::<R>(&prior)?, context)
                .await
        })
    }

    fn apply<'a>(&'a self, mut input: ApplyInput, context: &'a Context) -> BoxFuture<'a, Applied> {
        let object = &self.schema.object;
        input.prior = object.conform(input.prior);
        input.planned.value = object.conform(input.planned.value);
        input.config = object.conform(input.config);
        Box::pin(async move {
            if input.planned.value == Value::Null {
                return self.delete(&input, context).await;
            }
            let result = match input.prior {
                Value::Null => self.create(&input, context).await,
                _ => self.update(&input, context).await,
            };
            let kept = Stored {
                value: input.prior,
                private: input.planned.private,
            };
            match result {
                Ok(state) => self.after_success(&input.planned.value, kept, &state),
                Err(failed) => self.after_failure(kept, failed),
            }
        })
    }

    fn read<'a>(
        &'a self,
        mut current: Stored,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Stored, Diagnostics>> {
        current.value = self.schema.object.conform(current.value);
        Box::pin(async move {
            let Some(state) = self.resource.read(load::<R>(&current)?, context).await? else {
                return Ok(Stored::default());
            };
            let stored = self.store(&current.value, &state)?;
            Ok(Stored {
                value: without_unknown(stored.value),
                ..stored
            })
        })
    }

    fn import<'a>(
        &'a self,
        id: &'a str,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Stored, Diagnostics>> {
        Box::pin(async move {
            let state = self.resource.import(id, context).await?;
            let stored = self.store(&Value::Null, &state)?;
            Ok(Stored {
                value: without_unknown(stored.value),
                ..stored
            })
        })
    }

    fn upgrade(&self, from: i64, state: Json) -> Result<Value, Diagnostics> {
        if from > R::VERSION {
            let detail = format!(
                "The state of this {} has schema version {from}, this provider knows {} at most. \
                 Use the newer version of the provider that wrote it.",
                R::NAME,
                R::VERSION
            );
            return Err(Diagnostics::error("State from a newer provider", detail));
        }
        let state = if from < R::VERSION {
            self.resource.upgrade(from, state)?
        } else {
            state
        };
        let value = self.schema.object.conform(from_json(state));
        decode::<R::Model>(&value)?;
        Ok(self.schema.object.without_write_only(value))
    }
}
