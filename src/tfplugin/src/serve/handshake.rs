//! go-plugin's handshake: environment in, one line on stdout out.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What Terraform sets for its providers, so that they can tell that it is Terraform who starts them.
const COOKIE_NAME: &str = "TF_PLUGIN_MAGIC_COOKIE";
const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";

/// go-plugin's own protocol version, and Terraform's.
const CORE_VERSION: u8 = 1;
const PROTOCOL_VERSION: u8 = 6;

/// Why a plugin doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Started by hand.
    #[error(
        "this is a provider for Terraform and OpenTofu; it isn't started by hand. Name {address} in \
         required_providers, and run terraform init"
    )]
    ByHand { address: String },
    /// Terraform doesn't speak protocol 6.
    #[error(
        "this provider speaks plugin protocol 6, the caller speaks {0:?}: Terraform 1.0 or newer is needed"
    )]
    Protocol(String),
    /// No AutoMTLS.
    #[error(
        "the caller gave no client certificate (PLUGIN_CLIENT_CERT); without one any local user \
         could give this provider orders"
    )]
    NoCertificate,
}

/// Checks the environment, and returns the PEM of the one certificate to accept.
pub fn client_certificate(
    address: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, HandshakeError> {
    if variable(COOKIE_NAME).as_deref() != Some(COOKIE) {
        return Err(HandshakeError::ByHand {
            address: address.to_owned(),
        });
    }
    let versions = variable("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
    let wanted = PROTOCOL_VERSION.to_string();
    if !versions.is_empty() && !versions.split(',').any(|version| version.trim() == wanted) {
        return Err(HandshakeError::Protocol(versions));
    }
    let certificate = variable("PLUGIN_CLIENT_CERT").filter(|pem| !pem.is_empty());
    certificate.ok_or(HandshakeError::NoCertificate)
}

/// Tells Terraform where the server is and which certificate it has.
pub fn announce(socket: &Path, server_certificate: &[u8]) -> std::io::Result<()> {
    let certificate = STANDARD_NO_PAD.encode(server_certificate);
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{CORE_VERSION}|{PROTOCOL_VERSION}|unix|{}|grpc|{certificate}",
        socket.display()
    )?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<String, HandshakeError> {
        client_certificate("example.com/a/b", |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn started_by_hand_it_says_what_it_is() {
        let error = check(&[]).unwrap_err().to_string();
        assert!(error.contains("provider for Terraform") && error.contains("example.com/a/b"));
    }

    #[test]
    fn another_protocol_is_refused() {
        let variables = [(COOKIE_NAME, COOKIE), ("PLUGIN_PROTOCOL_VERSIONS", "4,5")];
        assert!(matches!(
            check(&variables),
            Err(HandshakeError::Protocol(_))
        ));
    }

    #[test]
    fn without_a_certificate_nobody_is_served() {
        let variables = [(COOKIE_NAME, COOKIE), ("PLUGIN_PROTOCOL_VERSIONS", "5,6")];
        assert!(matches!(
            check(&variables),
            Err(HandshakeError::NoCertificate)
        ));
    }
}
