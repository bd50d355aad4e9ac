//! The service itself: schemas, configuration, data sources; resources are in their own file.

use std::collections::HashMap;

use tonic::{Request, Response, Status};

use super::{Service, missing, read, with_warnings};
use crate::Diagnostics;
use crate::proto::{self, provider_server};
use crate::value::dynamic;

type Reply<T> = Result<Response<T>, Status>;

fn capabilities() -> proto::ServerCapabilities {
    proto::ServerCapabilities {
        plan_destroy: true,
        get_provider_schema_optional: true,
        move_resource_state: false,
        generate_resource_config: false,
    }
}

impl Service {
    fn metadata(&self) -> proto::get_metadata::Response {
        use proto::get_metadata::{DataSourceMetadata, ResourceMetadata};
        let resources = self.registry.resources.keys();
        let sources = self.registry.data_sources.keys();
        proto::get_metadata::Response {
            server_capabilities: Some(capabilities()),
            diagnostics: Vec::new(),
            data_sources: sources
                .map(|name| DataSourceMetadata {
                    type_name: (*name).to_owned(),
                })
                .collect(),
            resources: resources
                .map(|name| ResourceMetadata {
                    type_name: (*name).to_owned(),
                })
                .collect(),
        }
    }

    fn schemas(&self) -> proto::get_provider_schema::Response {
        let mut diagnostics = Diagnostics::new();
        for mistake in self.registry.mistakes() {
            diagnostics.extend(Diagnostics::error(
                "Mistake in the provider's schema",
                mistake,
            ));
        }
        let resources = self.registry.resources.iter();
        let sources = self.registry.data_sources.iter();
        proto::get_provider_schema::Response {
            provider: Some(self.registry.provider.schema().to_proto()),
            resource_schemas: resources
                .map(|(name, resource)| ((*name).to_owned(), resource.schema().to_proto()))
                .collect(),
            data_source_schemas: sources
                .map(|(name, source)| ((*name).to_owned(), source.schema().to_proto()))
                .collect(),
            diagnostics: diagnostics.into_proto(),
            provider_meta: None,
            server_capabilities: Some(capabilities()),
            functions: HashMap::new(),
            ephemeral_resource_schemas: HashMap::new(),
        }
    }

    async fn validate_provider(&self, config: Option<proto::DynamicValue>) -> Diagnostics {
        let config = match read(config.as_ref()) {
            Ok(config) => config,
            Err(errors) => return errors,
        };
        let provider = self.registry.provider.clone();
        let checked = self.guard("Validating the provider's configuration", async move {
            provider.validate(config)
        });
        checked.await.unwrap_or_else(|errors| errors)
    }

    async fn configure(&self, config: Option<proto::DynamicValue>) -> Diagnostics {
        let config = match read(config.as_ref()) {
            Ok(config) => config,
            Err(errors) => return errors,
        };
        let (provider, context) = (self.registry.provider.clone(), self.context());
        let configured = self.guard("Configuring the provider", async move {
            let result = provider.configure(config, &context).await;
            with_warnings(&context, result).1
        });
        configured.await.unwrap_or_else(|errors| errors)
    }

    async fn validate_source(
        &self,
        request: proto::validate_data_resource_config::Request,
    ) -> Result<Diagnostics, Diagnostics> {
        let source = self.data_source(&request.type_name)?;
        let config = read(request.config.as_ref())?;
        let operation = format!("Validating {}", request.type_name);
        self.guard(&operation, async move { source.validate(config) })
            .await
    }

    async fn read_source(
        &self,
        request: proto::read_data_source::Request,
    ) -> Result<proto::read_data_source::Response, Diagnostics> {
        let source = self.data_source(&request.type_name)?;
        let config = read(request.config.as_ref())?;
        let context = self.context();
        let (state, diagnostics) = self
            .guard(&format!("Reading {}", request.type_name), async move {
                let result = source.read(config, &context).await;
                with_warnings(&context, result)
            })
            .await?;
        Ok(proto::read_data_source::Response {
            state: state.as_ref().map(dynamic::encode),
            diagnostics: diagnostics.into_proto(),
            deferred: None,
        })
    }
}

#[tonic::async_trait]
impl provider_server::Provider for Service {
    async fn get_metadata(
        &self,
        _request: Request<proto::get_metadata::Request>,
    ) -> Reply<proto::get_metadata::Response> {
        Ok(Response::new(self.metadata()))
    }

    async fn get_provider_schema(
        &self,
        _request: Request<proto::get_provider_schema::Request>,
    ) -> Reply<proto::get_provider_schema::Response> {
        let service = self.clone();
        let schemas = self
            .guard("Building the schemas", async move { service.schemas() })
            .await;
        Ok(Response::new(schemas.unwrap_or_else(|errors| {
            proto::get_provider_schema::Response {
                diagnostics: errors.into_proto(),
                ..Default::default()
            }
        })))
    }

    async fn get_resource_identity_schemas(
        &self,
        _request: Request<proto::get_resource_identity_schemas::Request>,
    ) -> Reply<proto::get_resource_identity_schemas::Response> {
        Ok(Response::new(
            proto::get_resource_identity_schemas::Response::default(),
        ))
    }

    async fn get_functions(
        &self,
        _request: Request<proto::get_functions::Request>,
    ) -> Reply<proto::get_functions::Response> {
        Ok(Response::new(proto::get_functions::Response::default()))
    }

    async fn call_function(
        &self,
        request: Request<proto::call_function::Request>,
    ) -> Reply<proto::call_function::Response> {
        let text = format!(
            "This provider has no function {}.",
            request.into_inner().name
        );
        let error = Some(proto::FunctionError {
            text,
            function_argument: None,
        });
        Ok(Response::new(proto::call_function::Response {
            result: None,
            error,
        }))
    }

    async fn validate_ephemeral_resource_config(
        &self,
        request: Request<proto::validate_ephemeral_resource_config::Request>,
    ) -> Reply<proto::validate_ephemeral_resource_config::Response> {
        let diagnostics =
            missing("ephemeral resource", &request.into_inner().type_name).into_proto();
        Ok(Response::new(
            proto::validate_ephemeral_resource_config::Response { diagnostics },
        ))
    }

    async fn validate_provider_config(
        &self,
        request: Request<proto::validate_provider_config::Request>,
    ) -> Reply<proto::validate_provider_config::Response> {
        let diagnostics = self
            .validate_provider(request.into_inner().config)
            .await
            .into_proto();
        Ok(Response::new(proto::validate_provider_config::Response {
            diagnostics,
        }))
    }

    async fn configure_provider(
        &self,
        request: Request<proto::configure_provider::Request>,
    ) -> Reply<proto::configure_provider::Response> {
        let diagnostics = self
            .configure(request.into_inner().config)
            .await
            .into_proto();
        Ok(Response::new(proto::configure_provider::Response {
            diagnostics,
        }))
    }

    async fn stop_provider(
        &self,
        _request: Request<proto::stop_provider::Request>,
    ) -> Reply<proto::stop_provider::Response> {
        tracing::info!("Terraform asks to stop: cancelling what is under way");
        self.stop.cancel();
        Ok(Response::new(proto::stop_provider::Response::default()))
    }

    async fn validate_data_resource_config(
        &self,
        request: Request<proto::validate_data_resource_config::Request>,
    ) -> Reply<proto::validate_data_resource_config::Response> {
        let checked = self.validate_source(request.into_inner()).await;
        let diagnostics = checked.unwrap_or_else(|errors| errors).into_proto();
        Ok(Response::new(
            proto::validate_data_resource_config::Response { diagnostics },
        ))
    }

    async fn read_data_source(
        &self,
        request: Request<proto::read_data_source::Request>,
    ) -> Reply<proto::read_data_source::Response> {
        let result = self.read_source(request.into_inner()).await;
        Ok(Response::new(result.unwrap_or_else(|errors| {
            proto::read_data_source::Response {
                diagnostics: errors.into_proto(),
                ..Default::default()
            }
        })))
    }

    async fn validate_resource_config(
        &self,
        request: Request<proto::validate_resource_config::Request>,
    ) -> Reply<proto::validate_resource_config::Response> {
        Ok(Response::new(
            self.validate_resource(request.into_inner()).await,
        ))
    }

    async fn upgrade_resource_state(
        &self,
        request: Request<proto::upgrade_resource_state::Request>,
    ) -> Reply<proto::upgrade_resource_state::Response> {
        Ok(Response::new(
            self.upgrade_resource(request.into_inner()).await,
        ))
    }

    async fn read_resource(
        &self,
        request: Request<proto::read_resource::Request>,
    ) -> Reply<proto::read_resource::Response> {
        Ok(Response::new(
            self.refresh_resource(request.into_inner()).await,
        ))
    }

    async fn plan_resource_change(
        &self,
        request: Request<proto::plan_resource_change::Request>,
    ) -> Reply<proto::plan_resource_change::Response> {
        Ok(Response::new(
            self.plan_resource(request.into_inner()).await,
        ))
    }

    async fn apply_resource_change(
        &self,
        request: Request<proto::apply_resource_change::Request>,
    ) -> Reply<proto::apply_resource_change::Response> {
        Ok(Response::new(
            self.apply_resource(request.into_inner()).await,
        ))
    }

    async fn import_resource_state(
        &self,
        request: Request<proto::import_resource_state::Request>,
    ) -> Reply<proto::import_resource_state::Response> {
        Ok(Response::new(
            self.import_resource(request.into_inner()).await,
        ))
    }

    async fn move_resource_state(
        &self,
        request: Request<proto::move_resource_state::Request>,
    ) -> Reply<proto::move_resource_state::Response> {
        let request = request.into_inner();
        let detail = format!(
            "{} can't take over the state of a {}.",
            request.target_type_name, request.source_type_name
        );
        let diagnostics = Diagnostics::error("Move not supported", detail).into_proto();
        Ok(Response::new(proto::move_resource_state::Response {
            diagnostics,
            ..Default::default()
        }))
    }
}
