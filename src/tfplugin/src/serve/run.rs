//! The server from its start to its end.

use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use super::handshake::{self, HandshakeError};
use super::log;
use super::parent::Parent;
use super::plugin::Plugin;
use super::tls::{self, TlsError};
use crate::proto::plugin::grpc_broker_server::GrpcBrokerServer;
use crate::proto::plugin::grpc_controller_server::GrpcControllerServer;
use crate::proto::plugin::grpc_stdio_server::GrpcStdioServer;
use crate::proto::provider_server::ProviderServer;
use crate::registry::Registry;
use crate::service::Service;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long operations may take to save what they have, once Terraform is gone.
const ORPHAN_LIMIT: Duration = Duration::from_secs(5);
/// How long connections may take to close after Shutdown; go-plugin kills after two seconds.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// A sockaddr_un holds 108 bytes with the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Why the server didn't run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("opening the socket for Terraform: {0}")]
    Socket(std::io::Error),
    #[error("the path of the socket, {0}, is too long: set TMPDIR to a shorter one")]
    SocketPath(String),
    #[error("starting: {0}")]
    Start(std::io::Error),
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until Terraform says Shutdown or is gone.
pub fn run(address: &str, registry: Registry, observe: fn(&str)) -> Result<(), ServeError> {
    let certificate = handshake::client_certificate(address, |name| std::env::var(name).ok())?;
    let parent = Parent::now();
    log::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let result = runtime.block_on(serve(&certificate, parent, Arc::new(registry), observe));
    // An operation stuck in a blocking call mustn't keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(
    client_certificate: &str,
    parent: Parent,
    registry: Arc<Registry>,
    observe: fn(&str),
) -> Result<(), ServeError> {
    // Ctrl-C in a terminal reaches the whole process group; StopProvider is what counts. The handler
    // stays for the life of the process.
    let _interrupts = signal(SignalKind::interrupt()).map_err(ServeError::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Start)?;
    let (tls, server_certificate) = tls::server(client_certificate)?;
    let folder = tempfile::Builder::new()
        .prefix("tfplugin-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(ServeError::Socket)?;
    let path = folder.path().join("provider.sock");
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(ServeError::SocketPath(path.display().to_string()));
    }
    let listener = UnixListener::bind(&path).map_err(ServeError::Socket)?;

    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let service = Service {
        registry: registry.clone(),
        stop: stop.clone(),
        tasks: tasks.clone(),
        observe,
    };
    let plugin = Plugin {
        registry,
        end: end.clone(),
    };
    let server = tokio::spawn(serve_connections(
        listener,
        tls,
        service,
        plugin,
        end.clone(),
    ));
    handshake::announce(&path, &server_certificate).map_err(ServeError::Start)?;

    tokio::select! {
        () = end.cancelled() => {}
        () = parent.gone() => tracing::warn!("Terraform is gone: ending"),
        _ = terminate.recv() => tracing::warn!("asked to terminate: ending"),
    }
    if !end.is_cancelled() {
        stop.cancel();
        tasks.close();
        let _timed_out = tokio::time::timeout(ORPHAN_LIMIT, tasks.wait()).await;
        end.cancel();
    }
    match tokio::time::timeout(CLOSE_LIMIT, server).await {
        Ok(Ok(result)) => result,
        // Still open, or cut off: either way this is the end.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

async fn serve_connections(
    listener: UnixListener,
    tls: Arc<ServerConfig>,
    service: Service,
    plugin: Plugin,
    end: CancellationToken,
) -> Result<(), ServeError> {
    let (sender, connections) = mpsc::channel(8);
    let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(tls), sender));
    // The state of 500 resources, or a big file, is more than tonic's 4 MiB.
    let provider = ProviderServer::new(service)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let result = tonic::transport::Server::builder()
        .add_service(provider)
        .add_service(GrpcControllerServer::new(plugin.clone()))
        .add_service(GrpcStdioServer::new(plugin.clone()))
        .add_service(GrpcBrokerServer::new(plugin))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), end.cancelled_owned())
        .await;
    accepting.abort();
    Ok(result?)
}

/// Lets clients in; one that dawdles over its handshake keeps nobody waiting.
async fn accept(
    listener: UnixListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<std::io::Result<Connection>>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // Closed only when the server has ended.
                    let _closed = sender.send(Ok(Connection(stream))).await;
                }
                Ok(Err(error)) => tracing::warn!(%error, "refused a connection"),
                Err(_) => tracing::warn!("refused a connection that didn't finish its handshake"),
            }
        });
    }
}

/// A client whose certificate has been checked.
struct Connection(TlsStream<UnixStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
