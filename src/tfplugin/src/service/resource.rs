//! The RPCs of managed resources. Whatever goes wrong, Terraform keeps the state that was there: the answer carries
//! it, or to an apply nothing.

use super::{Service, read, with_warnings};
use crate::resource::erased::{ApplyInput, Planned};
use crate::resource::stored::Stored;
use crate::value::dynamic;
use crate::{Diagnostics, Path, Value, proto};

impl Service {
    pub(super) async fn validate_resource(
        &self,
        request: proto::validate_resource_config::Request,
    ) -> proto::validate_resource_config::Response {
        let diagnostics = self
            .validated(request)
            .await
            .unwrap_or_else(|errors| errors);
        proto::validate_resource_config::Response {
            diagnostics: diagnostics.into_proto(),
        }
    }

    async fn validated(
        &self,
        request: proto::validate_resource_config::Request,
    ) -> Result<Diagnostics, Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let config = read(request.config.as_ref())?;
        let write_only = request
            .client_capabilities
            .unwrap_or_default()
            .write_only_attributes_allowed;
        let operation = format!("Validating {}", request.type_name);
        self.guard(&operation, async move {
            let mut diagnostics = Diagnostics::new();
            if !write_only {
                let object = &resource.schema().object;
                diagnostics.extend(object.refuse_write_only(&config, &Path::root()));
            }
            diagnostics.extend(resource.validate(config));
            diagnostics
        })
        .await
    }

    pub(super) async fn upgrade_resource(
        &self,
        request: proto::upgrade_resource_state::Request,
    ) -> proto::upgrade_resource_state::Response {
        let (state, diagnostics) = match self.upgraded(request).await {
            Ok(state) => (Some(dynamic::encode(&state)), Diagnostics::new()),
            Err(errors) => (None, errors),
        };
        let diagnostics = diagnostics.into_proto();
        proto::upgrade_resource_state::Response {
            upgraded_state: state,
            diagnostics,
        }
    }

    async fn upgraded(
        &self,
        request: proto::upgrade_resource_state::Request,
    ) -> Result<Value, Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let raw = request.raw_state.unwrap_or_default();
        let state = serde_json::from_slice(&raw.json).map_err(|error| {
            let detail = format!(
                "The stored state of {} is no JSON: {error}.",
                request.type_name
            );
            Diagnostics::error("Unreadable state", detail)
        })?;
        let operation = format!("Upgrading the state of {}", request.type_name);
        self.guard(&operation, async move {
            resource.upgrade(request.version, state)
        })
        .await?
    }

    pub(super) async fn refresh_resource(
        &self,
        request: proto::read_resource::Request,
    ) -> proto::read_resource::Response {
        let (state, private) = (request.current_state.clone(), request.private.clone());
        match self.refreshed(request).await {
            Ok((Some(stored), diagnostics)) => proto::read_resource::Response {
                new_state: Some(dynamic::encode(&stored.value)),
                private: stored.private,
                diagnostics: diagnostics.into_proto(),
                ..Default::default()
            },
            // An error at refresh never empties the state.
            Ok((None, errors)) | Err(errors) => proto::read_resource::Response {
                new_state: state,
                private,
                diagnostics: errors.into_proto(),
                ..Default::default()
            },
        }
    }

    async fn refreshed(
        &self,
        request: proto::read_resource::Request,
    ) -> Result<(Option<Stored>, Diagnostics), Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let value = read(request.current_state.as_ref())?;
        let (current, context) = (
            Stored {
                value,
                private: request.private,
            },
            self.context(),
        );
        let operation = format!("Reading {}", request.type_name);
        self.guard(&operation, async move {
            let result = resource.read(current, &context).await;
            with_warnings(&context, result)
        })
        .await
    }

    pub(super) async fn plan_resource(
        &self,
        request: proto::plan_resource_change::Request,
    ) -> proto::plan_resource_change::Response {
        let (prior, private) = (request.prior_state.clone(), request.prior_private.clone());
        match self.planned(request).await {
            Ok((Some(planned), diagnostics)) => proto::plan_resource_change::Response {
                planned_state: Some(dynamic::encode(&planned.stored.value)),
                planned_private: planned.stored.private,
                requires_replace: planned
                    .requires_replace
                    .iter()
                    .map(Path::to_proto)
                    .collect(),
                diagnostics: diagnostics.into_proto(),
                ..Default::default()
            },
            Ok((None, errors)) | Err(errors) => proto::plan_resource_change::Response {
                planned_state: prior,
                planned_private: private,
                diagnostics: errors.into_proto(),
                ..Default::default()
            },
        }
    }

    async fn planned(
        &self,
        request: proto::plan_resource_change::Request,
    ) -> Result<(Option<Planned>, Diagnostics), Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let prior = read(request.prior_state.as_ref())?;
        let config = read(request.config.as_ref())?;
        let proposed = read(request.proposed_new_state.as_ref())?;
        let prior = Stored {
            value: prior,
            private: request.prior_private,
        };
        let context = self.context();
        let operation = format!("Planning {}", request.type_name);
        self.guard(&operation, async move {
            let result = if proposed == Value::Null {
                let private = prior.private.clone();
                let stored = Stored {
                    value: Value::Null,
                    private,
                };
                let planned = Planned {
                    stored,
                    requires_replace: Vec::new(),
                };
                resource
                    .plan_destroy(prior, &context)
                    .await
                    .map(|()| planned)
            } else {
                resource.plan(prior, config, &context).await
            };
            with_warnings(&context, result)
        })
        .await
    }

    pub(super) async fn apply_resource(
        &self,
        request: proto::apply_resource_change::Request,
    ) -> proto::apply_resource_change::Response {
        match self.applied(request).await {
            Ok((stored, diagnostics)) => proto::apply_resource_change::Response {
                new_state: Some(dynamic::encode(&stored.value)),
                private: stored.private,
                diagnostics: diagnostics.into_proto(),
                ..Default::default()
            },
            // The private part here is the plan's, and may be poorer than the state's.
            Err(errors) => proto::apply_resource_change::Response {
                diagnostics: errors.into_proto(),
                ..Default::default()
            },
        }
    }

    async fn applied(
        &self,
        request: proto::apply_resource_change::Request,
    ) -> Result<(Stored, Diagnostics), Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let planned = read(request.planned_state.as_ref())?;
        let input = ApplyInput {
            prior: read(request.prior_state.as_ref())?,
            planned: Stored {
                value: planned,
                private: request.planned_private,
            },
            config: read(request.config.as_ref())?,
        };
        let context = self.context();
        let operation = format!("Applying {}", request.type_name);
        self.guard(&operation, async move {
            let applied = resource.apply(input, &context).await;
            let mut diagnostics = context.take_warnings();
            diagnostics.extend(applied.diagnostics);
            (applied.stored, diagnostics)
        })
        .await
    }

    pub(super) async fn import_resource(
        &self,
        request: proto::import_resource_state::Request,
    ) -> proto::import_resource_state::Response {
        let type_name = request.type_name.clone();
        let (stored, diagnostics) = match self.imported(request).await {
            Ok(imported) => imported,
            Err(errors) => (None, errors),
        };
        let imported = stored.map(|stored| proto::import_resource_state::ImportedResource {
            type_name,
            state: Some(dynamic::encode(&stored.value)),
            private: stored.private,
            identity: None,
        });
        proto::import_resource_state::Response {
            imported_resources: imported.into_iter().collect(),
            diagnostics: diagnostics.into_proto(),
            deferred: None,
        }
    }

    async fn imported(
        &self,
        request: proto::import_resource_state::Request,
    ) -> Result<(Option<Stored>, Diagnostics), Diagnostics> {
        let resource = self.resource(&request.type_name)?;
        let context = self.context();
        let operation = format!("Importing {}", request.type_name);
        self.guard(&operation, async move {
            let result = resource.import(&request.id, &context).await;
            with_warnings(&context, result)
        })
        .await
    }
}
