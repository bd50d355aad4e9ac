//! go-plugin's own services.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::plugin::{
    ConnInfo, Empty, StdioData, grpc_broker_server, grpc_controller_server, grpc_stdio_server,
};
use crate::registry::Registry;

/// go-plugin waits for the answer to Shutdown as long as it takes, and kills two seconds after it.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

type Quiet<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Controller, stdio and broker in one.
#[derive(Clone)]
pub struct Plugin {
    pub registry: Arc<Registry>,
    /// Ends the server.
    pub end: CancellationToken,
}

impl Plugin {
    /// A stream that says nothing and ends with the server.
    fn quiet<T: Send + 'static>(&self) -> Quiet<T> {
        let end = self.end.clone();
        Box::pin(stream::pending().take_until(async move { end.cancelled().await }))
    }
}

#[tonic::async_trait]
impl grpc_controller_server::GrpcController for Plugin {
    async fn shutdown(&self, _request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let registry = self.registry.clone();
        // On a task of its own: a panic in there mustn't keep the server from ending.
        let hook = tokio::spawn(async move { registry.provider.shutdown().await });
        match tokio::time::timeout(SHUTDOWN_LIMIT, hook).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the provider's shutdown panicked"),
            Err(_) => tracing::warn!("the provider's shutdown took too long and was left"),
        }
        self.end.cancel();
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl grpc_stdio_server::GrpcStdio for Plugin {
    async fn stream_stdio(
        &self,
        _request: Request<()>,
    ) -> Result<Response<Quiet<StdioData>>, Status> {
        Ok(Response::new(self.quiet()))
    }
}

#[tonic::async_trait]
impl grpc_broker_server::GrpcBroker for Plugin {
    async fn start_stream(
        &self,
        _request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Quiet<ConnInfo>>, Status> {
        Ok(Response::new(self.quiet()))
    }
}
