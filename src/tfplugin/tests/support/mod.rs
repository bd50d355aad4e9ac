//! A client as go-plugin's: starts the example provider, shakes hands, speaks gRPC over mutual TLS.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tempfile::TempDir;
use tfplugin::Value;
use tfplugin::proto::plugin::grpc_controller_client::GrpcControllerClient;
use tfplugin::proto::provider_client::ProviderClient;
use tfplugin::proto::{self, Diagnostic, DynamicValue};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";

/// How long anything may take here.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The example provider, which Cargo builds beside the tests.
pub fn provider_binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(Path::parent).unwrap();
    let binary = folder.join("examples/notes");
    assert!(
        binary.exists(),
        "{} is missing: cargo build -p tfplugin --examples",
        binary.display()
    );
    binary
}

/// A certificate with its key, of the kind that go-plugin makes.
pub struct Identity {
    pub certificate: rcgen::Certificate,
    pub key: rcgen::KeyPair,
}

impl Identity {
    pub fn new() -> Self {
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, key }
    }
}

/// A provider process, ended with its test.
pub struct Plugin {
    pub child: Child,
    pub line: String,
    pub folder: TempDir,
    pub identity: Identity,
}

impl Plugin {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let (folder, identity) = (TempDir::new().unwrap(), Identity::new());
        let mut command = Command::new(provider_binary());
        environment(&mut command, &identity);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            line,
            folder,
            identity,
        }
    }

    /// The fields of the handshake.
    pub fn fields(&self) -> Vec<&str> {
        self.line.trim_end().split('|').collect()
    }

    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.fields()[3])
    }

    pub fn server_certificate(&self) -> CertificateDer<'static> {
        STANDARD_NO_PAD.decode(self.fields()[5]).unwrap().into()
    }

    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        self.channel_as(Some(&self.identity)).await
    }

    /// Connects with some identity, or none.
    pub async fn channel_as(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let config = client_config(self.server_certificate(), identity);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let socket = self.socket();
        Endpoint::from_static("https://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let (connector, socket) = (connector.clone(), socket.clone());
                async move {
                    let stream = UnixStream::connect(socket).await?;
                    let name = ServerName::try_from("localhost").unwrap();
                    connector.connect(name, stream).await.map(TokioIo::new)
                }
            }))
            .await
    }

    pub async fn client(&self) -> ProviderClient<Channel> {
        let channel = self.channel().await.unwrap();
        ProviderClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// A client whose provider keeps its notes in the test's folder.
    pub async fn configured(&self) -> ProviderClient<Channel> {
        let mut client = self.client().await;
        let config = object(&[("folder", self.folder.path().to_str().unwrap().into())]);
        let request = proto::configure_provider::Request {
            config: Some(tfplugin::wire::encode(&config)),
            ..Default::default()
        };
        let response = client
            .configure_provider(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(errors(&response.diagnostics), "");
        client
    }

    pub async fn shutdown(&self) {
        let channel = self.channel().await.unwrap();
        let mut controller = GrpcControllerClient::new(channel);
        controller.shutdown(proto::plugin::Empty {}).await.unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the provider doesn't end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits on a thread of its own until a line with this text is in the log.
    pub fn log_line(&mut self, text: &'static str) -> tokio::task::JoinHandle<()> {
        let stderr = BufReader::new(self.child.stderr.take().unwrap());
        tokio::task::spawn_blocking(move || {
            let found = stderr
                .lines()
                .map_while(Result::ok)
                .any(|line| line.contains(text));
            assert!(found, "{text:?} never came");
        })
    }

    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    pub fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A killed provider can't remove its socket's folder itself.
        if let Some(folder) = self
            .line
            .split('|')
            .nth(3)
            .and_then(|path| Path::new(path).parent())
        {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// What Terraform sets for its providers.
pub fn environment(command: &mut Command, identity: &Identity) {
    command
        .env("TF_PLUGIN_MAGIC_COOKIE", COOKIE)
        .env("PLUGIN_PROTOCOL_VERSIONS", "5,6")
        .env("PLUGIN_CLIENT_CERT", identity.certificate.pem())
        .env_remove("TF_LOG")
        .env_remove("TF_LOG_PROVIDER");
}

fn client_config(server: CertificateDer<'static>, identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(OnlyThisServer {
        server,
        provider: provider.clone(),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            builder
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[derive(Debug)]
struct OnlyThisServer {
    server: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThisServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *certificate == self.server {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// An object value.
pub fn object(fields: &[(&str, Value)]) -> Value {
    Value::Object(
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

#[allow(clippy::unnecessary_wraps, reason = "messages have optional fields")]
pub fn packed(value: &Value) -> Option<DynamicValue> {
    Some(tfplugin::wire::encode(value))
}

pub fn unpacked(value: Option<&DynamicValue>) -> Value {
    tfplugin::wire::decode(value).unwrap()
}

/// The errors' texts, one a line.
pub fn errors(diagnostics: &[Diagnostic]) -> String {
    texts(diagnostics, proto::diagnostic::Severity::Error)
}

/// The warnings' texts, one a line.
pub fn warnings(diagnostics: &[Diagnostic]) -> String {
    texts(diagnostics, proto::diagnostic::Severity::Warning)
}

fn texts(diagnostics: &[Diagnostic], severity: proto::diagnostic::Severity) -> String {
    let of_severity = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity() == severity);
    let texts =
        of_severity.map(|diagnostic| format!("{}: {}", diagnostic.summary, diagnostic.detail));
    texts.collect::<Vec<_>>().join("\n")
}
